"""Wide residual networks (BatchNorm and ReLU before each convolution) for 32 x 32 images.

Zagoruyko, Komodakis, "Wide Residual Networks", 2016, arXiv 1605.07146. Taps: stem (no activation), stageN (the
residual sum, as published distillation code uses it), stageN/pre_activation (that sum after the BatchNorm which the
next stage begins with), stageN/blockM, final (what is pooled: after BatchNorm and ReLU), embedding, head.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from kd_jax.models.layers import classify_map, conv, norm
from kd_jax.types import Array


class WideBlock(nn.Module):
    """A residual block; `activated`: the input has been through BatchNorm and ReLU already, in the stage before.

    The shortcut reads what has been through them, or `raw` where that is an array: the value before.
    """

    features: int
    stride: int
    activated: bool
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool, raw: Array | None = None) -> Array:
        y = x if self.activated else nn.relu(norm(train, self.dtype, name="norm1")(x))
        if x.shape[-1] != self.features or self.stride != 1:
            x = conv(self.features, 1, self.stride, dtype=self.dtype, name="shortcut")(y if raw is None else raw)
        y = conv(self.features, 3, self.stride, dtype=self.dtype, name="conv1")(y)
        y = nn.relu(norm(train, self.dtype, name="norm2")(y))
        y = nn.Dropout(self.dropout, deterministic=not train)(y)
        return x + conv(self.features, 3, dtype=self.dtype, name="conv2")(y)


class WideStage(nn.Module):
    """A row of blocks; `activate` is the BatchNorm and ReLU between this stage and what follows.

    The BatchNorm belongs to the stage here, and not to the next block as in the paper, so that its output is a tap of
    the same name as in other networks. The next block changes the width, so nothing needs the value before it.
    """

    blocks: int
    features: int
    stride: int
    dropout: float
    dtype: Any

    def setup(self) -> None:
        self.pre_activation = nn.BatchNorm(momentum=0.9, epsilon=1e-5, dtype=self.dtype)

    @nn.compact
    def __call__(self, x: Array, train: bool, raw: Array | None = None) -> Array:
        for i in range(self.blocks):
            stride, activated = (self.stride, self.stride != 1) if i == 0 else (1, False)
            block = WideBlock(self.features, stride, activated, self.dropout, self.dtype, name=f"block{i}")
            x = block(x, train, raw if i == 0 else None)
        return x

    def activate(self, x: Array, train: bool) -> Array:
        return nn.relu(self.pre_activation(x, use_running_average=not train))


class WideResNet(nn.Module):
    """Three stages; `raw_shortcut`: shortcuts read a block's input before BatchNorm and ReLU, as torchdistill's do."""

    num_classes: int
    depth: int
    widen: int
    dropout: float = 0.0
    dtype: Any = "float32"
    raw_shortcut: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        dtype = jnp.dtype(self.dtype)
        x = raw = conv(16, 3, dtype=dtype, name="stem")(x)
        for i, width in enumerate((16, 32, 64)):
            stride, blocks, name = 1 if i == 0 else 2, (self.depth - 4) // 6, f"stage{i + 1}"
            stage = WideStage(blocks, width * self.widen, stride, self.dropout, dtype, name=name)
            raw = stage(x, train, raw if self.raw_shortcut else None)
            x = stage.activate(raw, train)
        return classify_map(x, self.num_classes, bias_init=nn.initializers.zeros)


def wrn_16_1(num_classes: int, dtype: Any = "float32", **options: Any) -> WideResNet:
    return WideResNet(num_classes, 16, 1, dtype=dtype, **options)


def wrn_16_2(num_classes: int, dtype: Any = "float32", **options: Any) -> WideResNet:
    return WideResNet(num_classes, 16, 2, dtype=dtype, **options)


def wrn_40_1(num_classes: int, dtype: Any = "float32", **options: Any) -> WideResNet:
    return WideResNet(num_classes, 40, 1, dtype=dtype, **options)


def wrn_40_2(num_classes: int, dtype: Any = "float32", **options: Any) -> WideResNet:
    return WideResNet(num_classes, 40, 2, dtype=dtype, **options)
