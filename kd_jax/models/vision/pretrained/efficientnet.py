"""EfficientNet as folders of Hugging Face and as state dicts of timm, torchvision and efficientnet_pytorch, MobileNetV3
and EfficientNet-Lite as state dicts.

Tan, Le, 2019, arXiv 1905.11946; Howard et al., 2019, arXiv 1905.02244. Shapes tell neither strides, which the published
networks share, nor the padding and epsilon of weights that came from TensorFlow: timm calls these tf_efficientnet_b0,
and a state dict of timm must be called by its architecture. Names of efficientnet_pytorch ("_blocks.0.") are always
those of TensorFlow's weights.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from kd_jax.models.vision.efficientnet import EfficientNet, Inverted
from kd_jax.models.vision.pretrained import conv_names as names
from kd_jax.models.vision.pretrained.efficientnet_config import SIZES, from_config, is_written, to_config
from kd_jax.models.vision.pretrained.efficientnet_names import SCHEMES, Scheme
from kd_jax.models.vision.pretrained.preparing import IMAGENET
from kd_jax.types import PyTree

MODEL_TYPES = ("efficientnet",)
EFFICIENT, LARGE, SMALL = (1, 2, 2, 2, 1, 2, 1), (1, 2, 2, 2, 1, 2), (2, 2, 2, 1, 2)  # strides of groups of blocks
RELU_GROUPS = {LARGE: 3, SMALL: 2}  # the first groups of MobileNetV3 have ReLU, the others hard swish
TF_EPSILON, TORCH_EPSILON = 1e-3, 1e-5
EPSILON_OF_LAST = 2048  # torchvision's b5 to b7, whose last convolution is at least so wide, have TensorFlow's epsilon
LITE_MEAN, LITE_STD = 127 / 255, 128 / 255


def build(config: Mapping[str, Any]) -> EfficientNet:
    """Returns the network of a config.json, or of what `guess` says.

    ValueError for a state dict of timm that is not called by its architecture.
    """
    if "scheme" not in config:
        return from_config(config, names.classes_of(config))
    mobile, last = bool(config["hidden"]), config["last"]
    tensorflow = _of_tensorflow(config)
    narrow = config["scheme"].startswith("torchvision") and (mobile or last >= EPSILON_OF_LAST)
    epsilon = TF_EPSILON if tensorflow or narrow else TORCH_EPSILON
    padding = "SAME" if tensorflow else None
    plain = "hard_swish" if mobile else "silu" if any(b["squeeze"] for g in config["groups"] for b in g) else "relu6"
    strides = STRIDES[len(config["groups"]), mobile]
    return EfficientNet(
        num_classes=config["num_labels"],
        stem=config["stem"],
        groups=_groups(config, strides, plain, padding),
        last=last,
        activation=plain,
        hidden=config["hidden"],
        squeeze_activation="relu" if mobile else plain,
        gate="hard_sigmoid" if mobile else "sigmoid",
        epsilon=epsilon,
        padding=padding,
    )


def _of_tensorflow(config: Mapping[str, Any]) -> bool:
    """Whether TensorFlow trained the network: its padding and epsilon are others."""
    if not config["scheme"].startswith("timm"):
        return config["scheme"] == "efficientnet_pytorch"
    called = config.get("architecture", "")
    if not re.search("efficientnet|mobilenetv3", called):
        raise ValueError(
            f"it is an EfficientNet or MobileNetV3 of timm, called {called!r}: whether TensorFlow trained it is "
            "told by its architecture alone. Name the file after it: efficientnet_b0.pth, tf_efficientnet_b0.pth."
        )
    return "tf_" in called


STRIDES = {(7, False): EFFICIENT, (6, True): LARGE, (5, True): SMALL}


def _groups(config: Mapping[str, Any], strides: Any, plain: str, padding: Any) -> tuple[tuple[Inverted, ...], ...]:
    groups, inputs = [], config["stem"]
    for g, (group, stride) in enumerate(zip(config["groups"], strides, strict=True)):
        blocks = []
        for j, block in enumerate(group):
            step = stride if j == 0 else 1
            activation = "relu" if g < RELU_GROUPS.get(strides, 0) else plain
            skip = step == 1 and inputs == block["features"]
            blocks.append(Inverted(**block, stride=step, skip=skip, activation=activation, padding=padding))
            inputs = block["features"]
        groups.append(tuple(blocks))
    return tuple(groups)


def to_flax(arrays: names.Arrays, module: EfficientNet) -> tuple[PyTree, PyTree]:
    """Returns (params, stats); ValueError lists what is missing, unexpected or of another shape."""
    arrays = {name.removeprefix("efficientnet."): arrays[name] for name in arrays}
    scheme = _scheme_of(arrays) or "transformers"
    ignore = () if module.num_classes else (r"^classifier\.",)
    if scheme == "timm_mobilenetv3" and "conv_head.weight" in arrays:  # a dense layer, written as a convolution
        arrays["conv_head.weight"] = arrays["conv_head.weight"].reshape(arrays["conv_head.weight"].shape[:2])
    return names.read(arrays, _table(module, scheme), module, SCHEMES[scheme].stem[0], ignore)


def to_torch(params: PyTree, stats: PyTree, module: EfficientNet) -> dict[str, np.ndarray]:
    """Returns the arrays under the names of transformers."""
    arrays = names.write(params, stats, _table(module, "transformers"))
    bare = not module.num_classes
    return {k if bare or k.startswith("classifier.") else f"efficientnet.{k}": v for k, v in arrays.items()}


def owns(module: Any) -> bool:
    """Returns whether the class of transformers computes what the module computes."""
    return isinstance(module, EfficientNet) and is_written(module)


def config_of(module: EfficientNet, params: PyTree) -> dict[str, Any]:
    """Returns the config.json with which transformers computes what the module computes."""
    return {**to_config(module), "num_channels": int(params["stem"]["conv"]["kernel"].shape[2])}


def prepared(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns ImageNet's preparation at the size of the architecture; that of the Lite networks has another range."""
    number = re.search(r"(?:b|lite)_?(\d)", config.get("architecture", ""))
    made = {**IMAGENET, "size": SIZES[int(number[1])] if number and int(number[1]) < len(SIZES) else IMAGENET["size"]}
    if config.get("scheme") == "efficientnet_pytorch" and not config["groups"][1][0]["squeeze"]:
        made |= {"mean": (LITE_MEAN,) * 3, "std": (LITE_STD,) * 3}
    return made


def guess(arrays: names.Arrays) -> dict[str, Any] | None:
    """Returns the sizes of a state dict of a known scheme, None for other arrays."""
    scheme = _scheme_of(arrays)
    if scheme in (None, "transformers"):
        return None
    layout = SCHEMES[scheme]
    groups = _grouped(_blocks(arrays, layout))
    last = layout.last[0].format(_last_number(scheme, groups))
    mobile = scheme.endswith("mobilenetv3")
    if (len(groups), mobile) not in STRIDES or f"{last}.weight" not in arrays:
        return None
    return {
        "scheme": scheme,
        "num_labels": names.shape_of(arrays, f"{layout.head}.weight")[0],
        "num_channels": names.shape_of(arrays, f"{layout.stem[0]}.weight")[1],
        "stem": names.shape_of(arrays, f"{layout.stem[0]}.weight")[0],
        "groups": groups,
        "last": names.shape_of(arrays, f"{last}.weight")[0],
        "hidden": names.shape_of(arrays, f"{layout.hidden}.weight")[0] if mobile else 0,
    }


def _scheme_of(arrays: names.Arrays) -> str | None:
    """The library whose names the arrays have."""
    if "embeddings.convolution.weight" in arrays:
        return "transformers"
    if "_conv_stem.weight" in arrays and "_fc.weight" in arrays:
        return "efficientnet_pytorch"
    if "conv_stem.weight" in arrays and "classifier.weight" in arrays:
        return "timm" if "bn2.weight" in arrays else "timm_mobilenetv3" if "conv_head.bias" in arrays else None
    if "classifier.3.weight" in arrays and "features.1.block.0.0.weight" in arrays:
        return "torchvision_mobilenetv3"
    return "torchvision" if {"classifier.1.weight", "features.1.0.block.0.0.weight"} <= set(arrays) else None


def _blocks(arrays: names.Arrays, scheme: Scheme) -> list[dict[str, Any]]:
    """The sizes of all blocks in their order."""
    blocks: list[dict[str, Any]] = []
    numbers = [(0, 0, 0)]
    while numbers:
        g, j, i = numbers.pop()
        start = scheme.block(g, j, i)
        fits = [
            (expand, squeeze)
            for expand, squeeze in itertools.product((True, False), repeat=2)
            if _fit(arrays, start, scheme.parts(expand, squeeze), expand, squeeze)
        ]
        if not fits:
            nothing = scheme.block(g, j, i) == scheme.block(g + 1, j, i) or j == 0
            numbers += [] if nothing else [(g + 1, 0, i)]
            continue
        (expand, squeeze), parts = fits[0], scheme.parts(*fits[0])
        depthwise = names.shape_of(arrays, f"{start}{parts['depthwise']}.weight")
        blocks.append(
            {
                "features": names.shape_of(arrays, f"{start}{parts['project/conv']}.weight")[0],
                "expanded": depthwise[0],
                "size": depthwise[-1],
                "expand": expand,
                "squeeze": names.shape_of(arrays, f"{start}{parts['squeeze/reduce']}.weight")[0] if squeeze else 0,
            }
        )
        numbers = [(g, j + 1, i + 1)]
    return blocks


def _fit(arrays: names.Arrays, start: str, parts: Mapping[str, str], expand: bool, squeeze: bool) -> bool:
    """Whether a block has these parts: all convolutions, and the depthwise one of one channel a filter."""
    roles = [
        *(["expand/conv"] if expand else []),
        "depthwise",
        *(["squeeze/reduce"] if squeeze else []),
        "project/conv",
    ]
    weights = [f"{start}{parts[role]}.weight" for role in roles]
    if not all(name in arrays and len(names.shape_of(arrays, name)) == 4 for name in weights):
        return False
    return names.shape_of(arrays, f"{start}{parts['depthwise']}.weight")[1] == 1


def _grouped(blocks: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Blocks of equal width in a row: the groups of the published networks."""
    return [list(group) for _, group in itertools.groupby(blocks, key=lambda block: block["features"])]


def _last_number(scheme: str, groups: Any) -> int:
    """The number in the name of the last convolution."""
    count = sum(map(len, groups)) if scheme == "torchvision_mobilenetv3" else len(groups)
    return count if scheme.startswith("timm") else count + 1


def _table(module: EfficientNet, scheme: str) -> dict[str, str]:
    layout, i = SCHEMES[scheme], 0
    last = (name.format(_last_number(scheme, module.groups)) for name in layout.last)
    table = {"head": layout.head, "hidden": layout.hidden}
    for path, pair in {"stem": layout.stem, "last": last}.items():
        table |= dict(zip((f"{path}/conv", f"{path}/norm"), pair, strict=True))
    for g, group in enumerate(module.groups):
        for j, block in enumerate(group):
            parts, start = layout.parts(block.expand, block.squeeze > 0), layout.block(g, j, i)
            table |= {f"group{g}_block{j}/{role}": f"{start}{name}" for role, name in parts.items()}
            i += 1
    return table
