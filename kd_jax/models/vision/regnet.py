"""RegNetY: residual networks whose widths follow a quantised line, with squeeze and excitation.

Radosavovic, Kosaraju, Girshick, He, Dollar, "Designing Network Design Spaces", 2020, arXiv 2003.13678, as torchvision
has them (the parameter counts agree). Taps: stem, stageN, stageN/pre_activation (the sum before the last ReLU),
stageN/blockM, final (what is pooled), embedding, head.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from kd_jax.models.layers import ConvNorm, Tap, classify_map, conv
from kd_jax.ranges import Count
from kd_jax.types import Array


def stages_of(
    depth: int, first: int, slope: float, factor: float, group: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns (widths, depths) of the stages of `depth` blocks.

    Block j asks for first + slope * j channels, which are rounded to first * factor^k, k an integer, that to a multiple
    of 8, and the stage's to a multiple of the `group` width; blocks of one width are a stage.
    """
    asked = first + slope * np.arange(depth)
    power = np.round(np.log(asked / first) / np.log(factor))
    widths = (np.round(first * factor**power / 8) * 8).astype(int)
    stages, depths = np.unique(widths, return_counts=True)
    groups = np.minimum(group, stages)
    return tuple((np.round(stages / groups) * groups).astype(int).tolist()), tuple(depths.tolist())


class SqueezeExcitation(nn.Module):
    """Scales each channel by the sigmoid of two dense layers on the mean of the map."""

    squeezed: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = conv(self.squeezed, 1, dtype=self.dtype, bias=True, name="squeeze")(x.mean((1, 2), keepdims=True))
        return x * nn.sigmoid(conv(x.shape[-1], 1, dtype=self.dtype, bias=True, name="excite")(nn.relu(y)))


class Block(nn.Module):
    """1 x 1, 3 x 3 in groups, squeeze and excitation, 1 x 1, plus the shortcut; no ReLU after the sum."""

    features: int
    stride: int
    group: int
    ratio: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        features, dtype = self.features, self.dtype
        y = ConvNorm(features, 1, dtype=dtype, name="conv1")(x, train)
        y = ConvNorm(features, 3, self.stride, features // self.group, dtype=dtype, name="conv2")(y, train)
        squeezed = round(self.ratio * x.shape[-1])  # of the block's input
        y = SqueezeExcitation(squeezed, dtype, name="excitation")(y)
        y = ConvNorm(features, 1, relu=False, dtype=dtype, name="conv3")(y, train)
        if self.stride != 1 or x.shape[-1] != features:
            x = ConvNorm(features, 1, self.stride, relu=False, dtype=dtype, name="shortcut")(x, train)
        return x + y


class Stage(nn.Module):
    blocks: int
    features: int
    group: int
    ratio: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        y = x
        for i in range(self.blocks):
            block = Block(self.features, 2 if i == 0 else 1, self.group, self.ratio, self.dtype, name=f"block{i}")
            y = block(x, train)
            x = nn.relu(y)
        Tap(name="pre_activation")(y)
        return x


class RegNet(nn.Module):
    """Stages of residual blocks, each of which halves height and width, after a 3 x 3 stem of stride 2."""

    num_classes: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    group: int
    ratio: float = 0.25
    stem_width: int = 32
    dtype: Any = "float32"

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        dtype = jnp.dtype(self.dtype)
        x = ConvNorm(self.stem_width, 3, 2, dtype=dtype, name="stem")(x, train)
        for i, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            x = Stage(depth, width, min(self.group, width), self.ratio, dtype, name=f"stage{i + 1}")(x, train)
        return classify_map(x, self.num_classes, nn.initializers.normal(0.01), nn.initializers.zeros)


def _regnet(num_classes: int, dtype: Any, line: tuple[int, int, float, float, int], options: dict[str, Any]) -> RegNet:
    widths, depths = stages_of(*line)
    return RegNet(num_classes, **{"widths": widths, "depths": depths, "group": line[-1], "dtype": dtype, **options})


def regnet_y_16gf(num_classes: Count[int], dtype: Any = "float32", **options: Any) -> RegNet:
    """Returns RegNetY-16GF, DeiT's teacher: 83.6 million parameters, 82.9 % of ImageNet-1k at 224 x 224."""
    return _regnet(num_classes, dtype, (18, 200, 106.23, 2.48, 112), options)


def regnet_y_400mf(num_classes: Count[int], dtype: Any = "float32", **options: Any) -> RegNet:
    """Returns RegNetY-400MF: 4.3 million parameters."""
    return _regnet(num_classes, dtype, (16, 48, 27.89, 2.09, 8), options)
