"""Networks that transcribe: log-mel energies [batch, F, bands] -> logits of symbols [batch, ceil(F / 4), symbols].

`frames` bool [batch, ceil(F / 4)] is False on padding. There both answer symbol 0, CTC's blank, whatever they see, so
that a transcript is read from logits alone. Taps: subsampled, blockN, embedding (what the head reads), head.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from kd_jax.models.layers import Tap
from kd_jax.ranges import BelowOne, Count
from kd_jax.types import Array

SURE = -30.0  # the logit of symbols that are no blank on padding; the blank's is 0


class FeedForward(nn.Module):
    width: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        width = x.shape[-1]
        x = nn.LayerNorm(dtype=self.dtype, name="norm")(x)
        x = nn.swish(nn.Dense(self.width, dtype=self.dtype, name="inner")(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(width, dtype=self.dtype, name="outer")(x)


class ConvolutionModule(nn.Module):
    """Gated pointwise convolution, depthwise one over time, swish, pointwise one; LayerNorm in place of BatchNorm."""

    kernel: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, frames: Array) -> Array:
        width = x.shape[-1]
        x = nn.LayerNorm(dtype=self.dtype, name="norm")(x)
        x = nn.glu(nn.Dense(2 * width, dtype=self.dtype, name="gated")(x))
        x = over_time(jnp.where(frames[..., None], x, 0), self.kernel, self, self.dtype)
        x = nn.swish(nn.LayerNorm(dtype=self.dtype, name="depthwise_norm")(x))
        return nn.Dense(width, dtype=self.dtype, name="pointwise")(x)


def over_time(x: Array, kernel: int, module: nn.Module, dtype: Any) -> Array:
    """Returns a depthwise convolution over time, as shifted sums: XLA's grouped one is slow on CPUs."""
    init = nn.initializers.normal(kernel**-0.5)
    weights = module.param("depthwise", init, (kernel, x.shape[-1]), jnp.float32).astype(dtype)
    padded = jnp.pad(x, ((0, 0), (kernel // 2, (kernel - 1) // 2), (0, 0)))
    return sum((padded[:, i : i + x.shape[1]] * weights[None, i : i + 1] for i in range(kernel)), jnp.zeros_like(x))


class Block(nn.Module):
    heads: int
    kernel: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, frames: Array, train: bool) -> Array:
        dtype, width = self.dtype, x.shape[-1]
        x = x + 0.5 * FeedForward(4 * width, self.dropout, dtype, name="first")(x, train)
        attention = nn.MultiHeadDotProductAttention(self.heads, dtype=dtype, name="attention")
        readable = frames[:, None, None, :]
        attended: Any = attention(nn.LayerNorm(dtype=dtype, name="attention_norm")(x), mask=readable)
        x = x + attended
        x = x + ConvolutionModule(self.kernel, dtype, name="convolution")(x, frames)
        x = x + 0.5 * FeedForward(4 * width, self.dropout, dtype, name="second")(x, train)
        return nn.LayerNorm(dtype=dtype, name="norm")(x)


class Conformer(nn.Module):
    symbols: int
    width: int
    depth: int
    heads: int
    kernel: int
    channels: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, mel: Array, frames: Array, train: bool = False) -> Array:
        dtype = jnp.dtype(self.dtype)
        x = mel.astype(dtype)[..., None]
        for i in range(2):
            strided = nn.Conv(self.channels, (3, 3), (2, 2), padding=1, dtype=dtype, name=f"subsampling{i}")
            x = nn.relu(strided(x))
            x = x if i else jnp.where(halfway(frames, x.shape[1])[..., None, None], x, 0)
        x = nn.Dense(self.width, dtype=dtype, name="projection")(x.reshape(*x.shape[:2], -1))
        x = Tap(name="subsampled")(x + positions(x.shape[1], self.width).astype(dtype)[None])
        for i in range(self.depth):
            x = Block(self.heads, self.kernel, self.dropout, dtype, name=f"block{i}")(x, frames, train)
        return symbols_of(x, frames, self.symbols, dtype)


class Convolutional(nn.Module):
    symbols: int
    width: int
    depth: int
    kernel: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, mel: Array, frames: Array, train: bool = False) -> Array:
        dtype = jnp.dtype(self.dtype)
        x = mel.astype(dtype)
        x = nn.swish(nn.Conv(self.width, (5,), (2,), padding=2, dtype=dtype, name="subsampling0")(x))
        x = nn.LayerNorm(dtype=dtype, name="subsampling_norm")(x)
        x = jnp.where(halfway(frames, x.shape[1])[..., None], x, 0)
        x = Tap(name="subsampled")(nn.Conv(self.width, (3,), (2,), padding=1, dtype=dtype, name="subsampling1")(x))
        for i in range(self.depth):
            x = x + ConvolutionModule(self.kernel, dtype, name=f"block{i}")(x, frames)
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = nn.LayerNorm(dtype=dtype, name="norm")(x)
        return symbols_of(x, frames, self.symbols, dtype)


def halfway(frames: Array, length: int) -> Array:
    """Returns which of `length` frames, two of which make one of `frames` [batch, ceil(length / 2)], are no padding.

    What a convolution makes of padding is its bias, which the next must not see: a longer batch would change answers.
    ValueError where there are not as many.
    """
    if frames.shape[1] != -(-length // 2):
        raise ValueError(
            f"batch.frames {frames.shape} are not those of the network, {(len(frames), -(-length // 2))}: it takes one "
            "frame in 4, so config.prepare.kwargs.stride is 4."
        )
    return jnp.repeat(frames, 2, axis=1)[:, :length]


def symbols_of(x: Array, frames: Array, symbols: int, dtype: Any) -> Array:
    """Returns logits [batch, frames, symbols]: those of the module "head", and on padding those of a blank."""
    x = Tap(name="embedding")(x)
    logits = nn.Dense(symbols, dtype=dtype, name="head")(x)
    blank = np.full(symbols, SURE, np.float32)
    blank[0] = 0
    return jnp.where(frames[..., None], logits, jnp.asarray(blank, logits.dtype)[None, None])


def positions(length: int, width: int) -> Array:
    """Returns [length, width]: sines and cosines of wavelengths from 2 pi to 20000 pi (Vaswani et al., 1706.03762)."""
    angles = np.arange(length)[:, None] / 10000 ** (np.arange(0, width, 2) / width)
    return jnp.asarray(np.concatenate([np.sin(angles), np.cos(angles)], 1)[:, :width], jnp.float32)


def conformer(
    num_classes: int,
    width: Count[int] = 80,
    depth: Count[int] = 2,
    heads: Count[int] = 4,
    kernel: Count[int] = 9,
    channels: Count[int] = 16,
    dropout: BelowOne[float] = 0.0,
    dtype: Any = "float32",
) -> Conformer:
    """Returns a network of Conformer blocks: half a feed-forward, attention, convolution, half a feed-forward.

    Gulati et al., "Conformer: Convolution-augmented Transformer for Speech Recognition", 2020, arXiv 2005.08100, with
    absolute positions and LayerNorm in place of relative ones and BatchNorm. `width` is a multiple of `heads`.
    """
    if width % heads:
        raise ValueError(f"models.speech.conformer: width={width} is no multiple of heads={heads}.")
    return Conformer(num_classes, width, depth, heads, kernel, channels, dropout, dtype)


def convolutional(
    num_classes: int,
    width: Count[int] = 40,
    depth: Count[int] = 3,
    kernel: Count[int] = 9,
    dropout: BelowOne[float] = 0.0,
    dtype: Any = "float32",
) -> Convolutional:
    """Returns a small network: two strided convolutions over time, then `depth` gated depthwise ones, no attention."""
    return Convolutional(num_classes, width, depth, kernel, dropout, dtype)
