"""ResNets as folders of Hugging Face and as state dicts of torchvision, timm and the CIFAR distillation repositories.

He et al., 2015, arXiv 1512.03385; ResNeXt and Wide ResNet by the same names. State dicts: torchvision's resnet18 to
152, resnext and wide_resnet; timm's of these names (no deep stem, no squeeze-and-excitation); the networks of 3 x 3
stems of RepDistiller, mdistiller and torchdistill (resnet8 to 110, resnet8x4, resnet32x4, ResNet50).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kd_jax.models.vision.pretrained import conv_names as names
from kd_jax.models.vision.pretrained.preparing import CIFAR, IMAGENET
from kd_jax.models.vision.resnet import ResNet
from kd_jax.types import PyTree

MODEL_TYPES = ("resnet",)
EXPANSION = 4  # of a bottleneck
HEADS = ("fc", "linear")  # the second in networks after kuangliu's pytorch-cifar, whose shortcuts have another name too
SHORTCUTS = {"fc": "downsample", "linear": "shortcut"}


def build(config: Mapping[str, Any]) -> ResNet:
    """Returns the ResNet of a config.json, or of what `guess` says; ValueError for another activation than ReLU."""
    if (activation := config.get("hidden_act", "relu")) != "relu":
        raise ValueError(f"config.json: hidden_act is {activation!r}; ResNets have 'relu' here.")
    bottleneck = config.get("layer_type", "bottleneck") == "bottleneck"
    sizes = config.get("hidden_sizes", (256, 512, 1024, 2048))
    return ResNet(
        num_classes=names.classes_of(config),
        blocks=tuple(config.get("depths", (3, 4, 6, 3))),
        widths=tuple(size // EXPANSION for size in sizes) if bottleneck else tuple(sizes),
        stem_width=config.get("embedding_size", 64),
        bottleneck=bottleneck,
        large_stem=config.get("large_stem", True),
        groups=config.get("groups", 1),
        inner=config.get("inner", 1.0),
        stride_first=config.get("downsample_in_bottleneck", False),
        first_stride=2 if config.get("downsample_in_first_stage", False) else 1,
    )


def to_flax(arrays: names.Arrays, module: ResNet) -> tuple[PyTree, PyTree]:
    """Returns (params, stats); ValueError lists what is missing, unexpected or of another shape."""
    if any(".embedder." in name or name.startswith("embedder.") for name in arrays):
        bare = {name.removeprefix("resnet."): arrays[name] for name in arrays}
        return names.read(
            bare, hugging_face_names(module), module, "embedder.embedder.convolution", _without_head(module)
        )
    head = next((name for name in HEADS if f"{name}.weight" in arrays), "fc")
    return names.read(arrays, torchvision_names(module, head), module, "conv1", _without_head(module))


def to_torch(params: PyTree, stats: PyTree, module: ResNet) -> dict[str, np.ndarray]:
    """Returns the arrays under the names of transformers."""
    arrays = names.write(params, stats, hugging_face_names(module))
    return {k if k.startswith("classifier.") or not module.num_classes else f"resnet.{k}": v for k, v in arrays.items()}


def owns(module: Any) -> bool:
    """Returns whether transformers has a class for the module: a stem for large images, no groups, no wide middle."""
    return isinstance(module, ResNet) and module.large_stem and module.groups == 1 and module.inner == 1


def config_of(module: ResNet, params: PyTree) -> dict[str, Any]:
    """Returns the config.json with which transformers computes what the module computes."""
    wider = EXPANSION if module.bottleneck else 1
    return {
        "model_type": "resnet",
        "architectures": ["ResNetForImageClassification" if module.num_classes else "ResNetModel"],
        "num_channels": int(params["stem"]["conv"]["kernel"].shape[2]),
        "embedding_size": module.stem_width,
        "hidden_sizes": [width * wider for width in module.widths],
        "depths": list(module.blocks),
        "layer_type": "bottleneck" if module.bottleneck else "basic",
        "hidden_act": "relu",
        "downsample_in_bottleneck": module.stride_first,
        "downsample_in_first_stage": module.first_stride == 2,
    }


def guess(arrays: names.Arrays) -> dict[str, Any] | None:
    """Returns the config of a state dict with conv1, layer1 and so on, None for other arrays."""
    typical = ("conv1.weight", "bn1.running_var", "layer1.0.conv1.weight", "layer1.0.bn2.running_var")
    if not all(name in arrays for name in typical):
        return None
    stem, first = (names.shape_of(arrays, name) for name in ("conv1.weight", "layer1.0.conv1.weight"))
    if names.shape_of(arrays, "bn1.weight")[0] != stem[0] or stem[2] not in (3, 7):
        return None  # a network that normalises before it convolves, or one with another stem
    bottleneck = "layer1.0.conv3.weight" in arrays
    sizes = _sizes(arrays, "conv3" if bottleneck else "conv2")
    middle = names.shape_of(arrays, "layer1.0.conv2.weight")
    groups = first[0] // middle[1] if bottleneck else 1
    heads = [name for name in HEADS if f"{name}.weight" in arrays]
    return {
        "num_labels": names.shape_of(arrays, f"{heads[0]}.weight")[0] if heads else 0,
        "num_channels": stem[1],
        "embedding_size": stem[0],
        "hidden_sizes": sizes,
        "depths": [names.count(arrays, f"layer{i}.{{}}.") for i in range(1, len(sizes) + 1)],
        "layer_type": "bottleneck" if bottleneck else "basic",
        "large_stem": stem[2] == 7,
        "groups": groups,
        "inner": first[0] * EXPANSION / sizes[0] if bottleneck else 1.0,
    }


def _sizes(arrays: names.Arrays, last: str) -> list[int]:
    """The channels that the last convolution of each stage makes."""
    stages = next(i for i in range(1, 9) if f"layer{i + 1}.0.conv1.weight" not in arrays)
    return [names.shape_of(arrays, f"layer{i}.0.{last}.weight")[0] for i in range(1, stages + 1)]


def prepared(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the preparation of CIFAR for networks of a 3 x 3 stem, else of ImageNet."""
    if config.get("large_stem", True):
        return IMAGENET
    return CIFAR[10 if names.classes_of(config) == 10 else 100]


def _without_head(module: ResNet) -> tuple[str, ...]:
    return () if module.num_classes else (r"^(classifier|fc|linear)\.",)


def _blocks(module: ResNet) -> list[tuple[str, int, int, int, bool]]:
    """(path here, stage, block, convolutions, whether its shortcut has a convolution) of every block."""
    wider, blocks = EXPANSION if module.bottleneck else 1, []
    inputs = module.stem_width
    for s, (depth, width) in enumerate(zip(module.blocks, module.widths, strict=True)):
        for b in range(depth):
            stride = (module.first_stride if s == 0 else 2) if b == 0 else 1
            projected = stride != 1 or inputs != width * wider
            blocks.append((f"stage{s + 1}/block{b}", s, b, 3 if module.bottleneck else 2, projected))
            inputs = width * wider
    return blocks


def torchvision_names(module: ResNet, head: str) -> dict[str, str]:
    """Returns {path here: name there} of torchvision and timm, whose last layer is called `head`."""
    table = {"stem/conv": "conv1", "stem/norm": "bn1", "head": head}
    for path, s, b, convolutions, projected in _blocks(module):
        there = f"layer{s + 1}.{b}"
        for i in range(1, convolutions + 1):
            table |= {f"{path}/conv{i}/conv": f"{there}.conv{i}", f"{path}/conv{i}/norm": f"{there}.bn{i}"}
        if projected:
            shortcut = f"{there}.{SHORTCUTS[head]}"
            table |= {f"{path}/shortcut/conv": f"{shortcut}.0", f"{path}/shortcut/norm": f"{shortcut}.1"}
    return table


def hugging_face_names(module: ResNet) -> dict[str, str]:
    def both(path: str, there: str) -> dict[str, str]:
        return {f"{path}/conv": f"{there}.convolution", f"{path}/norm": f"{there}.normalization"}

    table = {**both("stem", "embedder.embedder"), "head": "classifier.1"}
    for path, s, b, convolutions, projected in _blocks(module):
        there = f"encoder.stages.{s}.layers.{b}"
        for i in range(convolutions):
            table |= both(f"{path}/conv{i + 1}", f"{there}.layer.{i}")
        if projected:
            table |= both(f"{path}/shortcut", f"{there}.shortcut")
    return table
