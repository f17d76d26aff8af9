"""The k most likely classes of logits that are not built, a few positions at a time."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from kd_jax.models.language.decoder_logits import built
from kd_jax.models.projected import Projected
from kd_jax.types import Array

Top = tuple[Array, Array, Array]


def likeliest(logits: Projected | Array, k: int, temperature: float) -> Top:
    """Returns the k largest log-probabilities at `temperature` [..., k], their classes, and the log of the others' sum.

    Logits [..., classes]. Of a Projected [batch, length, ...] they exist for about `chunk` tokens at a time: those of
    some positions in all rows, so that a batch stays on the devices that share it.
    """
    if not isinstance(logits, Projected):
        return _of(logits, k, temperature)
    if len(logits.shape) < 3:
        return _of(built(logits), k, temperature)
    by_position = tuple(jnp.moveaxis(x, 1, 0) for x in logits.hidden)
    at_once = max(1, logits.chunk // math.prod((logits.shape[0], *logits.shape[2:-1])))

    def position(hidden: tuple[Array, ...]) -> Top:
        return _of(built(dataclasses.replace(logits, hidden=hidden, built=None)), k, temperature)

    top = jax.lax.map(position, by_position, batch_size=at_once)
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), top)


def _of(logits: Array, k: int, temperature: float) -> Top:
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32) / temperature)
    top, ids = jax.lax.top_k(log_p, min(k, log_p.shape[-1]))
    others = jnp.put_along_axis(log_p, ids, -jnp.inf, axis=-1, inplace=False)
    return top, ids, jax.nn.logsumexp(others, axis=-1)
