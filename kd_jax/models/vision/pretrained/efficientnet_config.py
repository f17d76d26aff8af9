"""config.json of an EfficientNet of transformers, and the module that it describes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from kd_jax.models.vision.efficientnet import EfficientNet, Inverted

SIZES = (224, 240, 260, 300, 380, 456, 528, 600)  # of images, b0 to b7
STEM, LAST, RATIO = 32, 1280, 0.25
WIDTHS = (1.0, 1.1, 1.2, 1.4, 1.6, 1.8, 2.0)  # coefficients of b0 to b7
DEFAULTS = {
    "width_coefficient": 2.0,
    "depth_coefficient": 3.1,
    "depth_divisor": 8,
    "kernel_sizes": (3, 3, 5, 3, 5, 5, 3),
    "in_channels": (32, 16, 24, 40, 80, 112, 192),
    "out_channels": (16, 24, 40, 80, 112, 192, 320),
    "depthwise_padding": (),
    "strides": (1, 2, 2, 2, 1, 2, 1),
    "num_block_repeats": (1, 2, 2, 3, 3, 4, 1),
    "expand_ratios": (1, 6, 6, 6, 6, 6, 6),
    "squeeze_expansion_ratio": RATIO,
    "hidden_act": "swish",
    "batch_norm_eps": 1e-3,
    "pooling_type": "mean",
}


def from_config(config: Mapping[str, Any], num_classes: int) -> EfficientNet:
    """Returns the EfficientNet of a config.json of transformers.

    Its class adds the input to every block of a stage but the first, whatever the widths, and pads as TensorFlow does
    images of even sizes, but for blocks that depthwise_padding names. ValueError for another activation or pooling.
    """
    config = {**DEFAULTS, **config}
    if config["hidden_act"] not in ("swish", "silu") or config["pooling_type"] != "mean":
        raise ValueError("config.json: hidden_act must be 'swish' and pooling_type 'mean'.")
    groups, i = [], 0
    for g, repeats in enumerate(config["num_block_repeats"]):
        blocks = []
        inputs, features = (rounded(config, config[kind][g]) for kind in ("in_channels", "out_channels"))
        size, ratio = config["kernel_sizes"][g], config["expand_ratios"][g]
        for j in range(math.ceil(config["depth_coefficient"] * repeats)):
            stride, inputs = (config["strides"][g], inputs) if j == 0 else (1, features)
            blocks.append(
                Inverted(
                    features=features,
                    expanded=inputs * ratio,
                    size=size,
                    stride=stride,
                    expand=ratio != 1,
                    squeeze=max(1, int(inputs * config["squeeze_expansion_ratio"])),
                    skip=stride == 1 and j > 0,
                    activation="silu",
                    padding=_padding(size, stride, i in config["depthwise_padding"]),
                )
            )
            i += 1
        groups.append(tuple(blocks))
    return EfficientNet(
        num_classes=num_classes,
        stem=rounded(config, STEM),
        groups=tuple(groups),
        last=rounded(config, LAST),
        epsilon=config["batch_norm_eps"],
        padding=(0, 1),
    )


def rounded(config: Mapping[str, Any], width: int) -> int:
    """Returns a width times the coefficient, as a multiple of the divisor, at most a tenth narrower."""
    divisor, exact = config["depth_divisor"], width * config["width_coefficient"]
    near = max(divisor, int(exact + divisor / 2) // divisor * divisor)
    return int(near + divisor if near < 0.9 * exact else near)


def is_written(module: EfficientNet) -> bool:
    """Returns whether a config.json describes the module."""
    return from_config(to_config(module), module.num_classes) == module.clone(dtype="float32", name=None)


def to_config(module: EfficientNet) -> dict[str, Any]:
    """Returns the config.json that comes nearest to the module; `is_written` says whether it is the module's."""
    first = [group[0] for group in module.groups]
    inputs = [module.stem, *(group[0].features for group in module.groups[:-1])]
    blocks = [block for group in module.groups for block in group]
    config = {
        "model_type": "efficientnet",
        "architectures": ["EfficientNetForImageClassification" if module.num_classes else "EfficientNetModel"],
        "depth_coefficient": 1.0,
        "kernel_sizes": [block.size for block in first],
        "strides": [block.stride for block in first],
        "num_block_repeats": [len(group) for group in module.groups],
        "expand_ratios": [block.expanded // width for block, width in zip(first, inputs, strict=True)],
        "depthwise_padding": [
            i for i, b in enumerate(blocks) if b.stride == 2 and b.padding == _padding(b.size, 2, True)
        ],
        "squeeze_expansion_ratio": RATIO,
        "hidden_act": "swish",
        "hidden_dim": module.last,
        "batch_norm_eps": module.epsilon,
        "pooling_type": "mean",
    }
    widths = {"in_channels": inputs, "out_channels": [block.features for block in first]}
    return config | next(filter(lambda sizes: _of(sizes, module, widths), _widths(widths)), {**_exact(1.0), **widths})


def _widths(widths: Mapping[str, list[int]]) -> list[dict[str, Any]]:
    """What a config.json may say of widths: those of b0 times a coefficient, or each as it is."""
    published = {kind: list(DEFAULTS[kind]) for kind in widths}
    return [{"width_coefficient": w, "depth_divisor": 8, **published} for w in WIDTHS]


def _exact(coefficient: float) -> dict[str, Any]:
    return {"width_coefficient": coefficient, "depth_divisor": 1}


def _of(config: Mapping[str, Any], module: EfficientNet, widths: Mapping[str, list[int]]) -> bool:
    """Whether these fields of a config.json give the widths of the module."""
    ends = (rounded(config, STEM), rounded(config, LAST)) == (module.stem, module.last)
    return ends and all([rounded(config, n) for n in config[kind]] == widths[kind] for kind in widths)


def _padding(size: int, stride: int, symmetric: bool) -> tuple[int, int] | None:
    """(before, after): TensorFlow's for an even length; of a stride of 1 it is symmetric."""
    return None if symmetric or stride == 1 else (size // 2 - 1, size // 2)
