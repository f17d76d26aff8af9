"""Logits that are not built yet: hidden states, and the head that they are multiplied by."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from kd_jax.types import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Projected:
    """Logits [..., V] as the product that they are: softcap(sum over i of hidden[i] @ heads[i] + bias), not yet built.

    A network that taps one lets losses and scores build the logits of a chunk of tokens at
    a time (kd_jax/core/chunked.py). hidden[i] is [..., D]; heads[i] is [V, D] where `by_class` says so, else [D, V];
    bias [V] or None; softcap 0 is none. `chunk` tokens are built at a time on each device. `built` are the logits that
    the network returns: what it taps stands for its answer only where they are the same value.
    """

    hidden: tuple[Array, ...]
    heads: tuple[Array, ...]
    bias: Array | None = None
    built: Array | None = None
    by_class: tuple[bool, ...] = dataclasses.field(default=(True,), metadata={"static": True})
    softcap: float = dataclasses.field(default=0.0, metadata={"static": True})
    chunk: int = dataclasses.field(default=256, metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.hidden[0].shape[:-1], self.heads[0].shape[0 if self.by_class[0] else 1])

    @property
    def dtype(self) -> Any:
        return jax.numpy.promote_types(self.hidden[0].dtype, jax.numpy.float32)
