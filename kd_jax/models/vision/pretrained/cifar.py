"""The other networks of CIFAR distillation, from the .pth of RepDistiller, mdistiller and torchdistill.

WRN, VGG with BatchNorm, MobileNetV2, ShuffleNetV1 and V2: one table of names each. The ResNets of these repositories,
whose names are torchvision's, are in models.vision.pretrained.resnet. Layouts as in Tian, Krishnan, Isola, "Contrastive
Representation Distillation", 2020, arXiv 1910.10699. transformers has no class for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from kd_jax.models.vision.mobilenet import GROUPS, MobileNetV2
from kd_jax.models.vision.pretrained import conv_names as names
from kd_jax.models.vision.pretrained.preparing import CIFAR
from kd_jax.models.vision.shufflenet import ShuffleNet
from kd_jax.models.vision.vgg import VGG
from kd_jax.models.vision.wide_resnet import WideResNet
from kd_jax.types import PyTree

MODEL_TYPES = ()
Config = dict[str, Any]


def build(config: Mapping[str, Any]) -> nn.Module:
    """Returns the network that `guess` describes."""
    return KINDS[config["kind"]].module(config["num_labels"], **config["options"])


def to_flax(arrays: names.Arrays, module: nn.Module) -> tuple[PyTree, PyTree]:
    """Returns (params, stats); ValueError lists what is missing, unexpected or of another shape."""
    kind = KINDS[_kind_of(module)]
    return names.read(arrays, kind.table(module), module, kind.stem)


def to_torch(params: PyTree, stats: PyTree, module: nn.Module) -> dict[str, np.ndarray]:
    """Returns the arrays under the names of the repositories."""
    return names.write(params, stats, KINDS[_kind_of(module)].table(module))


def guess(arrays: names.Arrays) -> Config | None:
    """Returns {kind, num_labels, options} of a state dict, None for other arrays."""
    for name, kind in KINDS.items():
        if any(all(name in arrays for name in signature) for signature in kind.signatures):
            classes = names.shape_of(arrays, f"{kind.head}.weight")[0]
            return {"kind": name, "num_labels": classes, "options": kind.options(arrays)}
    return None


def prepared(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the preparation of CIFAR-10 for 10 classes, else of CIFAR-100."""
    return CIFAR[10 if config["num_labels"] == 10 else 100]


class Kind(NamedTuple):
    """A family: its class here, sets of names that tell it, its stem and head there, options by shapes, table."""

    module: type[nn.Module]
    signatures: tuple[tuple[str, ...], ...]
    stem: str
    head: str
    options: Callable[[names.Arrays], Config]
    table: Callable[[Any], dict[str, str]]


def _kind_of(module: nn.Module) -> str:
    for name, kind in KINDS.items():
        if isinstance(module, kind.module):
            return name
    raise ValueError(f"{type(module).__name__} is no network of CIFAR distillation. There is: {', '.join(KINDS)}.")


WIDE_BLOCKS = ("block{}.layer.", "layer{}.")  # of RepDistiller and of torchdistill, whose shortcuts differ too
WIDE_SHORTCUTS = ("convShortcut", "shortcut.0")


def _wide_options(arrays: names.Arrays) -> Config:
    raw = "layer2.0.shortcut.0.weight" in arrays
    first = WIDE_BLOCKS[raw].format(1)
    depth = 6 * names.count(arrays, first + "{}.bn1.weight") + 4
    return {
        "depth": depth,
        "widen": names.shape_of(arrays, f"{first}0.conv1.weight")[0] // 16,
        "raw_shortcut": raw,
    }


def _wide_table(module: WideResNet) -> dict[str, str]:
    """Names of a WRN; the first BatchNorm of stages 2 and 3 belongs to the stage before here."""
    block, shortcut = WIDE_BLOCKS[module.raw_shortcut], WIDE_SHORTCUTS[module.raw_shortcut]
    table = {"stem": "conv1", "stage3/pre_activation": "bn1", "head": "fc"}
    for s in (1, 2, 3):
        for b in range((module.depth - 4) // 6):
            path, there = f"stage{s}/block{b}", f"{block.format(s)}{b}"
            table[f"{path}/norm1" if s == 1 or b else f"stage{s - 1}/pre_activation"] = f"{there}.bn1"
            table |= {f"{path}/{ours}": f"{there}.{theirs}" for ours, theirs in _WIDE.items()}
        table[f"stage{s}/block0/shortcut"] = f"{block.format(s)}0.{shortcut}"
    return table


_WIDE = {"conv1": "conv1", "norm2": "bn2", "conv2": "conv2"}


def _vgg_options(arrays: names.Arrays) -> Config:
    convolutions, widths = [], []
    for block in range(5):
        weights = [n for n in arrays if n.startswith(f"block{block}.") and n.endswith(".running_var")]
        convolutions.append(len(weights))
        widths.append(names.shape_of(arrays, f"block{block}.0.weight")[0])
    return {"convolutions": tuple(convolutions), "widths": tuple(widths)}


def _vgg_table(module: VGG) -> dict[str, str]:
    table = {"head": "classifier"}
    for block, convolutions in enumerate(module.convolutions):
        path = f"stage{block}" if block else "stem"
        for i in range(convolutions):  # convolution, BatchNorm and ReLU in turn
            table |= {
                f"{path}/conv{i + 1}": f"block{block}.{3 * i}",
                f"{path}/norm{i + 1}": f"block{block}.{3 * i + 1}",
            }
    return table


def _mobilenet_options(arrays: names.Arrays) -> Config:
    expanded, narrow = names.shape_of(arrays, "blocks.1.0.conv.0.weight")[:2]
    stem, last = (names.shape_of(arrays, f"conv{i}.0.weight")[0] for i in (1, 2))
    return {"width": stem / 32, "expansion": expanded // narrow, "last": last}


def _mobilenet_table(module: MobileNetV2) -> dict[str, str]:
    table = {"stem/conv": "conv1.0", "stem/norm": "conv1.1", "last/conv": "conv2.0", "last/norm": "conv2.1"}
    for i, (_, _, blocks, _, _) in enumerate(GROUPS):
        for j in range(blocks):
            table |= {f"group{i}_block{j}/{ours}": f"blocks.{i}.{j}.conv.{n}" for ours, n in _INVERTED.items()}
    return {**table, "head": "classifier.0"}


_INVERTED = {
    **{"expand/conv": 0, "expand/norm": 1, "depthwise": 3, "depthwise_norm": 4},
    **{"project/conv": 6, "project/norm": 7},
}


def _shuffle_options(arrays: names.Arrays) -> Config:
    units = tuple(names.count(arrays, f"layer{s}.{{}}.conv1.weight") for s in (1, 2, 3))
    if "conv2.weight" in arrays:
        widths = tuple(2 * names.shape_of(arrays, f"layer{s}.0.conv5.weight")[0] for s in (1, 2, 3))
        return {"widths": widths, "groups": 0, "last": names.shape_of(arrays, "conv2.weight")[0], "units": units}
    # The first unit of a stage is concatenated with its input, the others have the width of both.
    widths = tuple(names.shape_of(arrays, f"layer{s}.1.conv3.weight")[0] for s in (1, 2, 3))
    middle, inputs = (
        names.shape_of(arrays, "layer1.0.conv2.weight")[0],
        names.shape_of(arrays, "layer1.0.conv3.weight")[1],
    )
    return {"widths": widths, "groups": middle // inputs, "last": 0, "units": units}


def _pairs(path: str, there: str, numbers: Mapping[str, int]) -> dict[str, str]:
    """Convolutions and BatchNorms of equal numbers; a depthwise convolution has a name of its own here."""
    table = {}
    for ours, n in numbers.items():
        conv, norm = ("depthwise", "depthwise_norm") if ours == "depthwise" else (f"{ours}/conv", f"{ours}/norm")
        table |= {f"{path}/{conv}": f"{there}conv{n}", f"{path}/{norm}": f"{there}bn{n}"}
    return table


def _shuffle_table(module: ShuffleNet) -> dict[str, str]:
    table = {"stem/conv": "conv1", "stem/norm": "bn1", "head": "linear"}
    table |= {"last/conv": "conv2", "last/norm": "bn2"} if module.last else {}
    for s, units in enumerate(module.units, 1):
        for b in range(units):
            path, there = f"stage{s}/block{b}", f"layer{s}.{b}."
            if module.groups or b:
                table |= _pairs(path, there, {"conv1": 1, "depthwise": 2, "conv2": 3})
                continue
            table |= _pairs(f"stage{s}/shortcut", there, {"depthwise": 1, "conv2": 2})
            table |= _pairs(path, there, {"conv1": 3, "depthwise": 4, "conv2": 5})
    return table


KINDS = {
    "wide_resnet": Kind(
        WideResNet,
        (("block1.layer.0.bn1.weight", "fc.weight"), ("layer2.0.shortcut.0.weight", "fc.weight")),
        *("conv1", "fc"),
        _wide_options,
        _wide_table,
    ),
    "vgg": Kind(
        VGG,
        (("block0.0.weight", "block4.1.running_var", "classifier.weight"),),
        *("block0.0", "classifier"),
        _vgg_options,
        _vgg_table,
    ),
    "mobilenet_v2": Kind(
        MobileNetV2,
        (("conv1.0.weight", "blocks.0.0.conv.0.weight", "classifier.0.weight"),),
        *("conv1.0", "classifier.0"),
        _mobilenet_options,
        _mobilenet_table,
    ),
    "shufflenet": Kind(
        ShuffleNet,
        (("layer1.0.bn3.weight", "layer1.1.conv3.weight", "linear.weight"),),
        *("conv1", "linear"),
        _shuffle_options,
        _shuffle_table,
    ),
}
