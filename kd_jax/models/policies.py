"""Policies: from an observation to action logits, and to the value of the state.

Taps: stageN (before its activation), embedding, head; value_stageN and value of the state's value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from kd_jax.models.layers import classify
from kd_jax.types import Array


class Policy(nn.Module):
    num_classes: int
    channels: tuple[int, ...]
    widths: tuple[int, ...]
    value: bool

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Any:
        del train
        x = x.astype(jnp.float32)
        logits = classify(self.trunk(x, "stage"), self.num_classes, kernel_init=nn.initializers.orthogonal(0.01))
        if not self.value:
            return logits
        last = self.trunk(x, "value_stage")
        values = nn.Dense(1, kernel_init=nn.initializers.orthogonal(1.0), name="value")(last)
        return {"policy": logits, "value": values[:, 0]}

    def trunk(self, x: Array, name: str) -> Array:
        for i, width in enumerate(self.channels):
            x = nn.relu(nn.Conv(width, (3, 3), padding="VALID", name=f"{name}{i + 1}")(x))
        x = x.reshape(x.shape[0], -1)
        activation = nn.relu if self.channels else nn.tanh
        for i, width in enumerate(self.widths, len(self.channels)):
            x = activation(nn.Dense(width, kernel_init=nn.initializers.orthogonal(2**0.5), name=f"{name}{i + 1}")(x))
        return x


def policy(
    num_classes: int, widths: Sequence[int] = (64, 64), channels: Sequence[int] = (), value: bool = False
) -> Policy:
    """Returns a perceptron (tanh) of the `widths`; after convolutions of 3 x 3 of `channels` for a grid (then relu).

    With `value` the output is {"policy": [batch, actions], "value": [batch]}; nothing is shared by the two.
    Orthogonal first weights, small ones of the head, as is usual for PPO (Engstrom et al., "Implementation Matters in
    Deep Policy Gradients", 2020, arXiv 2005.12729).
    """
    return Policy(num_classes, tuple(channels), tuple(widths), value)
