"""Projection heads of contrastive and self-supervised learning."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from kd_jax.models.connectors import dense
from kd_jax.ranges import Count
from kd_jax.types import Array


class ProjectionHead(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = self.width or x.shape[-1]
        return dense(nn.relu(dense(x, width, name="dense0")), width, name="dense1")


def head(width: int = 0) -> ProjectionHead:
    """Applies dense, ReLU, dense to the last axis, `width` wide, or as wide as the input if that is 0.

    Chen, Kornblith, Norouzi, Hinton, "A Simple Framework for Contrastive Learning of Visual Representations", 2020,
    arXiv 2002.05709; 0 is the head of SSKD (arXiv 2006.07114).
    """
    return ProjectionHead(width)


class PrototypeHead(nn.Module):
    prototypes: int
    hidden: int
    bottleneck: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i, width in enumerate((self.hidden, self.hidden, self.bottleneck)):
            x = nn.Dense(width, name=f"dense{i}")(x)
            x = nn.gelu(x, approximate=False) if i < 2 else x
        x = _unit(x, axis=-1)
        kernel = self.param("prototypes", nn.initializers.lecun_normal(), (self.bottleneck, self.prototypes))
        return x @ _unit(kernel, axis=0)


def _unit(x: Array, axis: int) -> Array:
    return x / jnp.sqrt(jnp.maximum((x * x).sum(axis, keepdims=True), 1e-12))


def prototype_head(
    prototypes: Count[int] = 65536, hidden: Count[int] = 2048, bottleneck: Count[int] = 256
) -> PrototypeHead:
    """Maps embeddings to their cosines with `prototypes`: three dense layers, GELU between, unit rows, unit columns.

    Caron et al., "Emerging Properties in Self-Supervised Vision Transformers" (DINO), 2021, arXiv 2104.14294; the
    lengths of the last layer's columns stay 1, as `norm_last_layer` of the authors' code. First weights have variance
    1 / fan in, that of the authors' 0.02 at 2,048: at a width of 64 theirs would leave nothing to divide by.
    """
    return PrototypeHead(prototypes, hidden, bottleneck)
