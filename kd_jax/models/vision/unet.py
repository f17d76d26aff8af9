"""U-Net: an encoder of levels that halve the picture, and a decoder that joins them again at their size.

Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", 2015, arXiv 1505.04597.
Here convolutions are padded, so that the logits are as large as the picture, have BatchNorm, and pixels are repeated
where the paper has transposed convolutions. Taps: down1 (as large as the picture), down2 (half of it), ..., bottom,
..., up2, up1 (as large as the picture again), head; in every level first and second.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from kd_jax.models.layers import ConvNorm, uniform_fan_in
from kd_jax.types import Array


class Level(nn.Module):
    """Two 3 x 3 convolutions, each with BatchNorm and ReLU."""

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        for name in ("first", "second"):
            x = ConvNorm(self.features, dtype=self.dtype, name=name)(x, train)
        return x


class UNet(nn.Module):
    """Maps pictures [batch, H, W, C] to logits [batch, H, W, num_classes]; H and W are divided by 2 at every level."""

    num_classes: int
    widths: tuple[int, ...]
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        factor = 2 ** (len(self.widths) - 1)
        if x.ndim != 4 or x.shape[1] % factor or x.shape[2] % factor:
            raise ValueError(
                f"U-Net of {len(self.widths)} levels: pictures [batch, H, W, C] have sides that {factor} divides, got "
                f"{x.shape}"
            )
        dtype = jnp.dtype(self.dtype)
        x, skips = x.astype(dtype), []
        for i, width in enumerate(self.widths[:-1]):
            x = Level(width, dtype, name=f"down{i + 1}")(x, train)
            skips.append(x)
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = Level(self.widths[-1], dtype, name="bottom")(x, train)
        for i, width in reversed([*enumerate(self.widths[:-1])]):
            x = jnp.concatenate([jnp.repeat(jnp.repeat(x, 2, 1), 2, 2), skips[i]], -1)
            x = Level(width, dtype, name=f"up{i + 1}")(x, train)
        return pixel_head(x, self.num_classes)


def pixel_head(x: Array, num_classes: int) -> Array:
    """Maps [batch, H, W, channels] to logits in float32 or wider, in the module that calls it; tap "head"."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    first = uniform_fan_in(x.shape[-1])
    return nn.Dense(num_classes, kernel_init=first, bias_init=first, name="head")(x)


def unet(num_classes: int, widths: tuple[int, ...] = (8, 16, 32), dtype: Any = "float32") -> UNet:
    """Returns a U-Net of as many levels as `widths`, channels of each from the top to the bottom.

    ValueError for less than two levels.
    """
    if len(widths) < 2:
        raise ValueError(f"U-Net: widths={tuple(widths)} are those of two levels or more")
    return UNet(num_classes, tuple(widths), dtype)
