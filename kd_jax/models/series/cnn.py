"""A convolutional network of time series [batch, length, 1, channels], or [batch, length, channels].

Taps: stageN (after the ReLU), stageN/pre_activation, embedding, head.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from kd_jax.models.layers import Tap, classify, norm
from kd_jax.ranges import BelowOne, Count
from kd_jax.types import Array


class TimeStage(nn.Module):
    features: int
    kernel: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        kernel_init = nn.initializers.he_normal()
        x = nn.Conv(
            self.features, (self.kernel, 1), use_bias=False, kernel_init=kernel_init, dtype=self.dtype, name="conv"
        )(x)
        return nn.relu(Tap(name="pre_activation")(norm(train, self.dtype, name="norm")(x)))


class TimeCNN(nn.Module):
    num_classes: int
    widths: tuple[int, ...]
    kernel: int
    pool: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        dtype = jnp.dtype(self.dtype)
        x = x.astype(dtype)
        x = x[:, :, None] if x.ndim == 3 else x
        for i, width in enumerate(self.widths):
            x = nn.max_pool(x, (self.pool, 1), (self.pool, 1)) if i and x.shape[1] >= self.pool else x
            x = TimeStage(width, self.kernel, dtype, name=f"stage{i + 1}")(x, train)
        x = nn.Dropout(self.dropout, deterministic=not train)(x.mean((1, 2)))
        return classify(x, self.num_classes)


def cnn(
    num_classes: int,
    widths: tuple[int, ...] = (32, 64, 64),
    kernel: Count[int] = 5,
    pool: Count[int] = 2,
    dropout: BelowOne[float] = 0.0,
    dtype: Any = "float32",
) -> TimeCNN:
    """Returns a network of one convolution over time a width, with pooling over time between them."""
    return TimeCNN(num_classes, tuple(widths), kernel, pool, dropout, dtype)
