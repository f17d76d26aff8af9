"""ConvNeXt and ConvNeXt V2.

Liu et al., "A ConvNet for the 2020s", 2022, arXiv 2201.03545; Woo et al., "ConvNeXt V2", 2023, arXiv 2301.00808 (global
response normalisation in place of the layer scale). Deviation: no stochastic depth. Taps: stem, stage1 to stage4
(linear, so that stageN/pre_activation is the same value), stageN/blockM, final (what is pooled), embedding (the pooled
map after the last LayerNorm), head.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from kd_jax.models.layers import DepthwiseConv, Tap, classify
from kd_jax.types import Array

EPSILON = 1e-6
SMALL = nn.initializers.truncated_normal(0.02)


class ResponseNorm(nn.Module):
    """Global response normalisation: x scaled by its norm over space, over the mean of all channels' norms, plus x."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (x.shape[-1],)
        zeros = nn.initializers.zeros
        scale, bias = (self.param(n, zeros, shape, jnp.float32)[None, None, None] for n in ("scale", "bias"))
        y = x.astype(jnp.float32)
        norms = jnp.sqrt((y * y).sum((1, 2), keepdims=True))
        norms = norms / (norms.mean(-1, keepdims=True) + EPSILON)
        return (scale * (y * norms) + bias + y).astype(x.dtype)


class ConvNextBlock(nn.Module):
    """Depthwise 7 x 7, LayerNorm, two dense layers; `layer_scale` is the first value of the scale, 0 for none."""

    layer_scale: float
    response_norm: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]
        y = DepthwiseConv(7, 1, self.dtype, SMALL, bias=True, name="depthwise")(x)
        y = nn.LayerNorm(EPSILON, dtype=self.dtype, name="norm")(y)
        y = nn.gelu(nn.Dense(4 * width, dtype=self.dtype, kernel_init=SMALL, name="mlp1")(y), approximate=False)
        y = ResponseNorm(name="response_norm")(y) if self.response_norm else y
        y = nn.Dense(width, dtype=self.dtype, kernel_init=SMALL, name="mlp2")(y)
        if self.layer_scale:
            first = nn.initializers.constant(self.layer_scale)
            scale = self.param("layer_scale", first, (width,), jnp.float32).astype(self.dtype)
            y = y * scale[None, None, None]
        return x + y


class ConvNextStage(nn.Module):
    """LayerNorm and a 2 x 2 convolution of stride 2, but in the first stage; then the blocks."""

    blocks: int
    features: int
    shrink: bool
    layer_scale: float
    response_norm: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if self.shrink:
            x = nn.LayerNorm(EPSILON, dtype=self.dtype, name="shrink_norm")(x)
            options = {"padding": "VALID", "dtype": self.dtype, "kernel_init": SMALL}
            x = nn.Conv(self.features, (2, 2), (2, 2), **options, name="shrink")(x)
        for i in range(self.blocks):
            x = ConvNextBlock(self.layer_scale, self.response_norm, self.dtype, name=f"block{i}")(x)
        return Tap(name="pre_activation")(x)


class ConvNext(nn.Module):
    """`epsilon` is that of the last LayerNorm; `patch` the size and stride of the first convolution."""

    num_classes: int
    blocks: tuple[int, ...] = (3, 3, 9, 3)
    widths: tuple[int, ...] = (96, 192, 384, 768)
    patch: int = 4
    layer_scale: float = 1e-6
    response_norm: bool = False
    epsilon: float = EPSILON
    dtype: Any = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        dtype, patch = jnp.dtype(self.dtype), (self.patch,) * 2
        options = {"padding": "VALID", "dtype": dtype, "kernel_init": SMALL}
        x = nn.Conv(self.widths[0], patch, patch, **options, name="stem")(x)
        x = nn.LayerNorm(EPSILON, dtype=dtype, name="stem_norm")(x)
        for i, (blocks, width) in enumerate(zip(self.blocks, self.widths, strict=True)):
            options = (self.layer_scale, self.response_norm, dtype)
            x = ConvNextStage(blocks, width, i > 0, *options, name=f"stage{i + 1}")(x)
        x = Tap(name="final")(x).mean((1, 2))
        x = nn.LayerNorm(self.epsilon, dtype=dtype, name="norm")(x)
        return classify(x, self.num_classes, SMALL, nn.initializers.zeros)


def convnext_tiny(num_classes: int, dtype: Any = "float32", **options: Any) -> ConvNext:
    """Returns ConvNeXt-T; `options` are the fields of ConvNext."""
    return ConvNext(num_classes, dtype=dtype, **options)
