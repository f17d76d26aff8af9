"""Losses of several transcripts of one recording."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from kd_jax.losses._numerics import to_float
from kd_jax.losses.task import ctc_loss
from kd_jax.ranges import NotNegative

Array = jax.Array


def ctc_sequence_loss(
    logits: Array,
    logit_paddings: Array,
    hypotheses: Array,
    hypothesis_paddings: Array,
    weights: Array,
    *,
    blank_id: NotNegative[int] = 0,
) -> Array:
    """Computes sum_n w_n ctc_loss(logits, hypothesis n): the teacher's n best transcripts in place of the true one.

    logits [batch, frames, classes], logit_paddings [batch, frames] (1 on padding), hypotheses int [batch, n, length],
    hypothesis_paddings [batch, n, length] (1 on padding), weights [batch, n], 0 where there is no such hypothesis: what
    stands there does not matter. Returns [batch]; ValueError on other shapes. Takashima, Sheng, Kawai, "An
    Investigation of a Knowledge Distillation Method for CTC Acoustic Models", ICASSP 2018.
    """
    (weights,) = to_float(weights)
    hypotheses, paddings = jnp.asarray(hypotheses), jnp.asarray(hypothesis_paddings)
    if hypotheses.ndim != 3 or paddings.shape != hypotheses.shape or weights.shape != hypotheses.shape[:2]:
        raise ValueError(
            f"ctc_sequence_loss: hypotheses [batch, n, length] need paddings of their shape and weights [batch, n], "
            f"got {hypotheses.shape}, {paddings.shape} and {weights.shape}"
        )
    counted = weights != 0
    paddings = jnp.where(counted[..., None], paddings, 1)  # an empty transcript, which every recording can say
    hypotheses = jnp.where(counted[..., None], hypotheses, blank_id)
    each = jax.vmap(functools.partial(ctc_loss, blank_id=blank_id), in_axes=(None, None, 1, 1), out_axes=1)
    values = each(logits, logit_paddings, hypotheses, paddings)
    return jnp.sum(jnp.where(counted, weights * values, 0), axis=1)
