"""MobileNetV2 for 32 x 32 images, at half width as the CIFAR-100 pairs use it, and MobileNetV1 for ImageNet.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018, arXiv 1801.04381; the layout is that of
Tian et al., arXiv 1910.10699: ReLU, not ReLU6; the first block also has its 1 x 1 convolution; no dropout.
Taps: stem, stage1 to stage4 (ends of the 24, 32, 96 and 320 wide groups times `width`; linear, so that
stageN/pre_activation is the same value), groupN_blockM, final (what is pooled, after the last 1 x 1 convolution),
embedding, head.
MobileNetV1: Howard et al., "MobileNets", 2017, arXiv 1704.04861; taps stem, stage1 to stage4 (maps of 1/4 to 1/32 of
the image's side, as in ResNets), stageN/pre_activation, stageN/blockM, final, embedding, head.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from kd_jax.models.layers import ConvNorm, DepthwiseConv, Tap, classify_map, norm
from kd_jax.types import Array

# (expanded, channels, blocks, stride, the stage that ends here)
GROUPS = (
    (False, 16, 1, 1, ""),
    (True, 24, 2, 1, "stage1"),
    (True, 32, 3, 2, "stage2"),
    (True, 64, 4, 2, ""),
    (True, 96, 3, 1, "stage3"),
    (True, 160, 3, 2, ""),
    (True, 320, 1, 1, "stage4"),
)


class InvertedResidual(nn.Module):
    features: int
    stride: int
    expansion: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        y = ConvNorm(x.shape[-1] * self.expansion, 1, dtype=self.dtype, name="expand")(x, train)
        y = DepthwiseConv(3, self.stride, self.dtype, name="depthwise")(y)
        y = nn.relu(norm(train, self.dtype, name="depthwise_norm")(y))
        y = ConvNorm(self.features, 1, relu=False, dtype=self.dtype, name="project")(y, train)
        return x + y if x.shape == y.shape else y


class LinearStage(nn.Module):
    """The value of a stage under two names: no activation follows, so it is its own pre-activation."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return Tap(name="pre_activation")(x)


class MobileNetV2(nn.Module):
    num_classes: int
    width: float = 0.5
    expansion: int = 6
    last: int = 1280
    dtype: Any = "float32"

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        dtype = jnp.dtype(self.dtype)
        x = ConvNorm(int(32 * self.width), 3, 2, dtype=dtype, name="stem")(x, train)
        for i, (expanded, features, blocks, stride, stage) in enumerate(GROUPS):
            for j in range(blocks):
                x = InvertedResidual(
                    int(features * self.width),
                    stride if j == 0 else 1,
                    self.expansion if expanded else 1,
                    dtype,
                    name=f"group{i}_block{j}",
                )(x, train)
            x = LinearStage(name=stage)(x) if stage else x
        x = ConvNorm(self.last, 1, dtype=dtype, name="last")(x, train)
        return classify_map(x, self.num_classes, nn.initializers.normal(0.01), nn.initializers.zeros)


def mobilenet_v2(num_classes: int, dtype: Any = "float32", **options: Any) -> MobileNetV2:
    return MobileNetV2(num_classes, dtype=dtype, **options)


class SeparableStage(nn.Module):
    """Depthwise 3 x 3, then 1 x 1 convolution, each with BatchNorm and ReLU; (features, stride) of each block."""

    blocks: tuple[tuple[int, int], ...]
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        y = x
        for i, (features, stride) in enumerate(self.blocks):
            x = DepthwiseConv(3, stride, self.dtype, name=f"block{i}_depthwise")(x)
            x = nn.relu(norm(train, self.dtype, name=f"block{i}_depthwise_norm")(x))
            y = ConvNorm(features, 1, relu=False, dtype=self.dtype, name=f"block{i}")(x, train)
            x = nn.relu(y)
        Tap(name="pre_activation")(y)
        return x


class MobileNetV1(nn.Module):
    """`stages` are the (features, stride) of every block; widths are multiplied by `width`."""

    num_classes: int
    width: float = 1.0
    stages: tuple[tuple[tuple[int, int], ...], ...] = (
        ((64, 1), (128, 2), (128, 1)),
        ((256, 2), (256, 1)),
        ((512, 2), *((512, 1),) * 5),
        ((1024, 2), (1024, 1)),
    )
    dtype: Any = "float32"

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        dtype = jnp.dtype(self.dtype)
        x = ConvNorm(int(32 * self.width), 3, 2, dtype=dtype, name="stem")(x, train)
        for i, blocks in enumerate(self.stages):
            widths = tuple((int(features * self.width), stride) for features, stride in blocks)
            x = SeparableStage(widths, dtype, name=f"stage{i + 1}")(x, train)
        return classify_map(x, self.num_classes)


def mobilenet_v1(num_classes: int, dtype: Any = "float32", **options: Any) -> MobileNetV1:
    return MobileNetV1(num_classes, dtype=dtype, **options)
