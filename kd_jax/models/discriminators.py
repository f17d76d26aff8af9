"""Discriminators: a score for each example, or each place of a map, that is high on what the teacher made.

The score is taken before any sigmoid. No BatchNorm: the statistics of a batch of students and of one of teachers
would tell the two apart, and couple the examples that a gradient penalty wants apart.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from kd_jax.ranges import Count
from kd_jax.types import Array

SLOPE = 0.2  # of the leaky ReLU: what discriminators are published with


class MLPDiscriminator(nn.Module):
    widths: tuple[int, ...]
    spectral: bool

    @nn.compact
    def __call__(self, x: Array, *condition: Array, train: bool) -> Array:
        x = jnp.concatenate([v.reshape(v.shape[0], -1).astype(jnp.float32) for v in (x, *condition)], axis=-1)
        for i, width in enumerate(self.widths):
            x = nn.leaky_relu(_layer(nn.Dense(width, name=f"dense{i}"), x, self.spectral, train), SLOPE)
        return _layer(nn.Dense(1, name="score"), x, self.spectral, train)[:, 0]


class PatchDiscriminator(nn.Module):
    widths: tuple[int, ...]
    spectral: bool
    stride: int = 1

    @nn.compact
    def __call__(self, x: Array, *condition: Array, train: bool) -> Array:
        if x.ndim != 4:
            raise ValueError(
                f"patches scores maps [batch, height, width, channels], got {x.shape}; mlp takes any value"
            )
        if other := [c.shape for c in condition if c.ndim != 4 or c.shape[:3] != x.shape[:3]]:
            raise ValueError(f"patches lays conditions beside maps {x.shape} of their height and width, got {other[0]}")
        x = jnp.concatenate([v.astype(jnp.float32) for v in (x, *condition)], axis=-1)
        for i, width in enumerate(self.widths):
            conv = nn.Conv(width, (3, 3), (self.stride, self.stride), padding=1, name=f"conv{i}")
            x = nn.leaky_relu(_layer(conv, x, self.spectral, train), SLOPE)
        return _layer(nn.Dense(1, name="score"), x, self.spectral, train)[..., 0]


def _layer(layer: nn.Module, x: Array, spectral: bool, train: bool) -> Array:
    if not spectral:
        return layer(x)
    return nn.SpectralNorm(layer, name=f"{layer.name}_norm")(x, update_stats=train)


def mlp(widths: tuple[int, ...] = (64, 64), spectral: bool = False) -> MLPDiscriminator:
    """Applies dense layers with leaky ReLU to the flattened value, beside which any conditions are laid: [batch].

    `spectral` divides every kernel by its largest singular value (one power iteration a step): Miyato, Kataoka,
    Koyama, Yoshida, "Spectral Normalization for Generative Adversarial Networks", 2018, arXiv 1802.05957.
    """
    return MLPDiscriminator(tuple(widths), spectral)


def patches(widths: tuple[int, ...] = (32,), spectral: bool = False, stride: Count[int] = 1) -> PatchDiscriminator:
    """Applies 3 x 3 convolutions with leaky ReLU to a map, a score at every place: [batch, height, width].

    Conditions, maps of the same height and width, are laid beside its channels. Isola, Zhu, Zhou, Efros,
    "Image-to-Image Translation with Conditional Adversarial Networks", 2016, arXiv 1611.07004, without strides unless
    they are given: maps that are distilled are small.
    """
    return PatchDiscriminator(tuple(widths), spectral, stride)
