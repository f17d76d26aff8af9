"""A multilayer perceptron on flattened inputs. Taps: stageN (after ReLU), stageN/pre_activation, embedding, head."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from kd_jax.models.layers import classify
from kd_jax.ranges import BelowOne
from kd_jax.types import Array


class DenseStage(nn.Module):
    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel_init = nn.initializers.he_normal()
        return nn.relu(nn.Dense(self.features, dtype=self.dtype, kernel_init=kernel_init, name="pre_activation")(x))


class MLP(nn.Module):
    num_classes: int
    widths: tuple[int, ...] = (64,)
    dropout: float = 0.0
    dtype: Any = "float32"

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        x = x.reshape(x.shape[0], -1).astype(jnp.dtype(self.dtype))
        for i, width in enumerate(self.widths):
            x = DenseStage(width, jnp.dtype(self.dtype), name=f"stage{i + 1}")(x)
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return classify(x, self.num_classes)


def mlp(
    num_classes: int, widths: tuple[int, ...] = (64,), dropout: BelowOne[float] = 0.0, dtype: Any = "float32"
) -> MLP:
    """Returns an MLP; `widths=()` is a linear classifier."""
    return MLP(num_classes, tuple(widths), dropout, dtype)
