"""A vision transformer with a decoder of pixels: linear, or by convolutions that double the map again and again.

linear       logits of every patch, interpolated: Strudel, Garcia, Laptev, Schmid, "Segmenter: Transformer for Semantic
             Segmentation", 2021, arXiv 2105.05633, its linear decoder
progressive  a convolution and doubling until the map is as large as the picture: SETR-PUP of Zheng et al., "Rethinking
             Semantic Segmentation from a Sequence-to-Sequence Perspective with Transformers", 2020, arXiv 2012.15840,
             without its auxiliary heads
Taps: stem, blockN and in it those of kd_jax/models/vision/vit.py, encoder (the map of the patches), of "progressive"
upN (1 / 2^(N-1) as large as the picture, the last up1), head.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.models.layers import ConvNorm, Tap
from kd_jax.models.vision.unet import pixel_head
from kd_jax.models.vision.vit_parts import INIT, TransformerBlock, layer_norm
from kd_jax.ranges import Count
from kd_jax.resolve import near
from kd_jax.types import Array

DECODERS = ("progressive", "linear")


class ViTDecoder(nn.Module):
    """Maps pictures [batch, H, W, C] of one size to logits [batch, H, W, num_classes]."""

    num_classes: int
    patch: int
    width: int
    depth: int
    heads: int
    decoder: str
    decoder_width: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        size, dtype = x.shape[1:3], jnp.dtype(self.dtype)
        if any(side % self.patch for side in size) or self.width % self.heads:
            raise ValueError(f"picture {size} must be a multiple of patch={self.patch}, width={self.width} of heads")
        square = (self.patch, self.patch)
        x = nn.Conv(self.width, square, square, "VALID", dtype=dtype, kernel_init=INIT, name="patches")(x.astype(dtype))
        grid = x.shape[1:3]
        positions = self.param("positions", INIT, (1, grid[0] * grid[1], self.width)).astype(dtype)
        x = Tap(name="stem")(x.reshape(x.shape[0], -1, self.width) + positions)
        for i in range(self.depth):
            x = TransformerBlock(self.heads, 4 * self.width, self.dropout, dtype, name=f"block{i}")(x, train)
        x = layer_norm(dtype, "norm")(x).reshape(-1, *grid, self.width)
        x = Tap(name="encoder")(x)
        if self.decoder == "linear":
            logits = pixel_head(x, self.num_classes)
            return jax.image.resize(logits, (*logits.shape[:1], *size, self.num_classes), "bilinear")
        for level in reversed(range(1, self.patch.bit_length())):
            x = ConvNorm(self.decoder_width, dtype=dtype, name=f"conv{level}")(x, train)
            shape = (len(x), x.shape[1] * 2, x.shape[2] * 2, x.shape[3])
            x = Tap(name=f"up{level}")(jax.image.resize(x, shape, "bilinear"))
        return pixel_head(x, self.num_classes)


def vit_decoder(
    num_classes: int,
    patch: Count[int] = 8,
    width: Count[int] = 64,
    depth: Count[int] = 4,
    heads: Count[int] = 4,
    decoder: str = "progressive",
    decoder_width: Count[int] = 32,
    dropout: float = 0.0,
    dtype: Any = "float32",
) -> ViTDecoder:
    """Returns a transformer of `depth` blocks with a decoder of DECODERS, of pictures whose sides are whole patches.

    ValueError for another decoder, and for one that doubles a patch whose side is no power of 2.
    """
    if decoder not in DECODERS:
        raise ValueError(f"vit_decoder: decoder={decoder!r}. {near(decoder, DECODERS)}")
    if decoder == "progressive" and patch & (patch - 1):
        raise ValueError(f"vit_decoder: the progressive decoder doubles patches, and patch={patch} is no power of 2")
    return ViTDecoder(num_classes, patch, width, depth, heads, decoder, decoder_width, dropout, dtype)
