"""How five libraries call the parts of an EfficientNet or MobileNetV3."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple


class Scheme(NamedTuple):
    """Names of a library: of the stem, last convolution, hidden layer and head, of block (group, number in it, number
    in all), and of a block's parts by whether it has an expansion and a squeeze."""

    stem: tuple[str, str]
    last: tuple[str, str]
    hidden: str
    head: str
    block: Callable[[int, int, int], str]
    parts: Callable[[bool, bool], Mapping[str, str]]


ROLES = ("expand/conv", "expand/norm", "depthwise", "depthwise_norm", "squeeze/reduce", "squeeze/expand")
ROLES += ("project/conv", "project/norm")


def _constant(*parts: str) -> Callable[[bool, bool], Mapping[str, str]]:
    return lambda expand, squeeze: dict(zip(ROLES, parts, strict=True))


def _timm_parts(expand: bool, squeeze: bool) -> Mapping[str, str]:
    squeezed = ("se.conv_reduce", "se.conv_expand")
    if expand:
        return dict(zip(ROLES, ("conv_pw", "bn1", "conv_dw", "bn2", *squeezed, "conv_pwl", "bn3"), strict=True))
    return dict(zip(ROLES[2:], ("conv_dw", "bn1", *squeezed, "conv_pw", "bn2"), strict=True))


def _torchvision_parts(expand: bool, squeeze: bool) -> Mapping[str, str]:
    layers = iter(range(4))
    parts: dict[str, str] = {}
    for role, there in (("expand/", expand), ("depthwise", True), ("squeeze", squeeze), ("project/", True)):
        if not there:
            continue
        i = next(layers)
        if role == "squeeze":
            parts |= {"squeeze/reduce": f"block.{i}.fc1", "squeeze/expand": f"block.{i}.fc2"}
        elif role == "depthwise":
            parts |= {"depthwise": f"block.{i}.0", "depthwise_norm": f"block.{i}.1"}
        else:
            parts |= {f"{role}conv": f"block.{i}.0", f"{role}norm": f"block.{i}.1"}
    return parts


SCHEMES = {
    "transformers": Scheme(
        ("embeddings.convolution", "embeddings.batchnorm"),
        ("encoder.top_conv", "encoder.top_bn"),
        "",
        "classifier",
        lambda g, j, i: f"encoder.blocks.{i}.",
        _constant(
            *("expansion.expand_conv", "expansion.expand_bn", "depthwise_conv.depthwise_conv"),
            *("depthwise_conv.depthwise_norm", "squeeze_excite.reduce", "squeeze_excite.expand"),
            *("projection.project_conv", "projection.project_bn"),
        ),
    ),
    "efficientnet_pytorch": Scheme(
        ("_conv_stem", "_bn0"),
        ("_conv_head", "_bn1"),
        "",
        "_fc",
        lambda g, j, i: f"_blocks.{i}.",
        _constant(
            *("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_se_reduce", "_se_expand", "_project_conv", "_bn2")
        ),
    ),
    "timm": Scheme(
        *(("conv_stem", "bn1"), ("conv_head", "bn2"), "", "classifier"),
        lambda g, j, i: f"blocks.{g}.{j}.",
        _timm_parts,
    ),
    "timm_mobilenetv3": Scheme(
        *(("conv_stem", "bn1"), ("blocks.{}.0.conv", "blocks.{}.0.bn1"), "conv_head", "classifier"),
        lambda g, j, i: f"blocks.{g}.{j}.",
        _timm_parts,
    ),
    "torchvision": Scheme(
        *(("features.0.0", "features.0.1"), ("features.{}.0", "features.{}.1"), "", "classifier.1"),
        lambda g, j, i: f"features.{g + 1}.{j}.",
        _torchvision_parts,
    ),
    "torchvision_mobilenetv3": Scheme(
        *(("features.0.0", "features.0.1"), ("features.{}.0", "features.{}.1"), "classifier.0", "classifier.3"),
        lambda g, j, i: f"features.{i + 1}.",
        _torchvision_parts,
    ),
}
