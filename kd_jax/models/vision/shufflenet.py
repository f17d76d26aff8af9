"""ShuffleNet V1 (3 groups) and V2 (width 1) for 32 x 32 images, as the CIFAR-100 pairs use them.

Zhang et al., "ShuffleNet", 2017, arXiv 1707.01083; Ma et al., "ShuffleNet V2", 2018, arXiv 1807.11164; the layout is
that of Tian et al., arXiv 1910.10699: the stem is a 1 x 1 convolution without stride or pooling.
Taps: stem, stage1 to stage3, stageN/pre_activation, stageN/blockM, final (what is pooled), embedding,
head.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from kd_jax.models.layers import ConvNorm, DepthwiseConv, Tap, classify_map, norm, shuffle_channels, torch_default
from kd_jax.types import Array


class UnitV1(nn.Module):
    """Grouped 1 x 1, shuffle, depthwise 3 x 3, grouped 1 x 1; added to the input, or concatenated when it strides.

    Returns the value before the last ReLU.
    """

    features: int
    stride: int
    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        out = self.features - x.shape[-1] if self.stride == 2 else self.features
        groups = 1 if x.shape[-1] == 24 else self.groups
        conv = {"relu": True, "dtype": self.dtype, "kernel_init": torch_default}
        y = ConvNorm(out // 4, 1, groups=groups, name="conv1", **conv)(x, train)
        y = DepthwiseConv(3, self.stride, self.dtype, torch_default, name="depthwise")(shuffle_channels(y, groups))
        # The published code has a ReLU here, the paper has none.
        y = nn.relu(norm(train, self.dtype, name="depthwise_norm")(y))
        y = ConvNorm(out, 1, groups=self.groups, name="conv2", **{**conv, "relu": False})(y, train)
        if self.stride == 1:
            return x + y
        return jnp.concatenate([y, nn.avg_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))], -1)


class StageV1(nn.Module):
    units: int
    features: int
    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        y = x
        for i in range(self.units):
            y = UnitV1(self.features, 2 if i == 0 else 1, self.groups, self.dtype, name=f"block{i}")(x, train)
            x = nn.relu(y)
        Tap(name="pre_activation")(y)
        return x


class Branch(nn.Module):
    """1 x 1 (left out in the shortcut), depthwise 3 x 3, 1 x 1; no ReLU at the end."""

    features: int
    stride: int
    first: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        conv = {"dtype": self.dtype, "kernel_init": torch_default}
        if self.first:
            x = ConvNorm(self.features, 1, name="conv1", **conv)(x, train)
        x = DepthwiseConv(3, self.stride, self.dtype, torch_default, name="depthwise")(x)
        x = norm(train, self.dtype, name="depthwise_norm")(x)
        return ConvNorm(self.features, 1, relu=False, name="conv2", **conv)(x, train)


class StageV2(nn.Module):
    units: int
    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        half = self.features // 2
        first_half = nn.relu(Branch(half, 2, False, self.dtype, name="shortcut")(x, train))
        y = Branch(half, 2, True, self.dtype, name="block0")(x, train)
        for i in range(1, self.units):
            x = shuffle_channels(jnp.concatenate([first_half, nn.relu(y)], -1), 2)
            first_half, x = x[..., :half], x[..., half:]
            y = Branch(half, 1, True, self.dtype, name=f"block{i}")(x, train)
        Tap(name="pre_activation")(jnp.concatenate([first_half, y], -1))
        return shuffle_channels(jnp.concatenate([first_half, nn.relu(y)], -1), 2)


class ShuffleNet(nn.Module):
    """ShuffleNet V2 with `groups=0`, else V1. `last`: width of the 1 x 1 convolution before pooling, 0 for none."""

    num_classes: int
    widths: tuple[int, ...]
    groups: int
    last: int
    units: tuple[int, ...] = (4, 8, 4)
    dtype: Any = "float32"

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        dtype = jnp.dtype(self.dtype)
        x = ConvNorm(24, 1, dtype=dtype, kernel_init=torch_default, name="stem")(x, train)
        for i, (units, width) in enumerate(zip(self.units, self.widths, strict=True)):
            name = f"stage{i + 1}"
            if self.groups:
                x = StageV1(units, width, self.groups, dtype, name=name)(x, train)
            else:
                x = StageV2(units, width, dtype, name=name)(x, train)
        if self.last:
            x = ConvNorm(self.last, 1, dtype=dtype, kernel_init=torch_default, name="last")(x, train)
        return classify_map(x, self.num_classes)


def shufflenet_v1(num_classes: int, dtype: Any = "float32", **options: Any) -> ShuffleNet:
    return ShuffleNet(num_classes, **{"widths": (240, 480, 960), "groups": 3, "last": 0, "dtype": dtype, **options})


def shufflenet_v2(num_classes: int, dtype: Any = "float32", **options: Any) -> ShuffleNet:
    return ShuffleNet(num_classes, **{"widths": (116, 232, 464), "groups": 0, "last": 1024, "dtype": dtype, **options})
