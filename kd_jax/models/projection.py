"""The two-layer projection head of contrastive and self-supervised learning."""

from __future__ import annotations

import flax.linen as nn

from kd_jax.models.connectors import dense
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
