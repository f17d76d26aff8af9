"""Logits that are not built yet: hidden states and the head that they are multiplied by, or the largest of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from kd_jax.types import Array

LIKELIEST = "likeliest"  # the tap of stored answers to tokens


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
        return jnp.promote_types(self.hidden[0].dtype, jnp.float32)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Likeliest:
    """Logits [..., classes] of which the k largest are there and the others are alike: what is stored of a teacher.

    values float32 [..., k] at the classes ids int [..., k]; rest [...], that of every other class. `built` is as in
    Projected.
    """

    values: Array
    ids: Array
    rest: Array
    built: Array | None = None
    classes: int = dataclasses.field(default=0, metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.rest.shape, self.classes)

    @property
    def dtype(self) -> Any:
        return self.values.dtype

    def logits(self) -> Array:
        """Returns the logits, of all tokens at once."""
        every = jnp.broadcast_to(self.rest[..., None], self.shape)
        return jnp.put_along_axis(every, self.ids, self.values, axis=-1, inplace=False)
