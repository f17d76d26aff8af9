"""A small convolutional network for grey or colour images of any size (digits, Fashion-MNIST).

Taps: stageN (after the ReLU), stageN/pre_activation, embedding, head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from kd_jax.models.layers import Tap, classify, conv, norm
from kd_jax.ranges import BelowOne
from kd_jax.types import Array


class ConvStage(nn.Module):
    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        x = norm(train, self.dtype, name="norm")(conv(self.features, 3, dtype=self.dtype, name="conv")(x))
        return nn.relu(Tap(name="pre_activation")(x))


def conv_stages(x: Array, widths: Sequence[int], train: bool, dtype: Any, first: int = 1) -> Array:
    """Runs a ConvStage a width, "stage<first>" on, in the module that calls; max-pooling before all but stage 1."""
    for i, width in enumerate(widths, first):
        # Pooling comes between the stages, so that the last one keeps a map to be taught on: 4 x 4 for digits.
        x = nn.max_pool(x, (2, 2), (2, 2)) if i > 1 and min(x.shape[1:3]) > 1 else x
        x = ConvStage(width, dtype, name=f"stage{i}")(x, train)
    return x


class CNN(nn.Module):
    num_classes: int
    widths: tuple[int, ...] = (16, 32)
    hidden: int = 0
    dropout: float = 0.0
    dtype: Any = "float32"

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        dtype = jnp.dtype(self.dtype)
        x = Tap(name="final")(conv_stages(x, self.widths, train, dtype)).mean((1, 2))
        if self.hidden:
            x = nn.relu(nn.Dense(self.hidden, dtype=dtype, kernel_init=nn.initializers.he_normal(), name="hidden")(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return classify(x, self.num_classes)


def cnn(
    num_classes: int,
    widths: tuple[int, ...] = (16, 32),
    hidden: int = 0,
    dropout: BelowOne[float] = 0.0,
    dtype: Any = "float32",
) -> CNN:
    """Returns a CNN: a 3 x 3 convolution a width, max-pooling between, mean over space, dense layer if `hidden` > 0."""
    return CNN(num_classes, tuple(widths), hidden, dropout, dtype)
