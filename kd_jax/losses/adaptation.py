"""Losses on unlabelled examples of a target domain."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kd_jax.losses._numerics import count, expected, keep_rows, log_probs, row_mask, to_float

Array = jax.Array


def information_loss(logits: Array, *, where: Array | None = None) -> Array:
    """Computes H(p_i) - H(mean_j p_j), p = softmax(logits).

    The mean over rows is minus the information of input and class. It is low where each prediction is certain and all
    classes are predicted equally often; the least possible mean is -log(classes). logits [batch, classes], where bool
    [batch]; returns [batch], 0 where masked. Raises ValueError on other shapes. As in Liang, Hu, Feng, "Do We Really
    Need to Access the Source Data? Source Hypothesis Transfer for Unsupervised Domain Adaptation" (SHOT), 2020, arXiv
    2002.08546, and DINE, 2022, arXiv 2104.01539.
    """
    if logits.ndim != 2:
        raise ValueError(f"information_loss: logits are [batch, classes], got {logits.shape}")
    (logits,) = to_float(logits)
    mask = row_mask(where, logits.shape[0], "information_loss")
    log_p = log_probs(keep_rows(logits, mask))
    p = jnp.exp(log_p)
    mean = jnp.sum(keep_rows(p, mask), axis=0) / count(mask, p)
    # The limit of p log p at 0 is 0, and far below float32 a logarithm would be -inf.
    diversity = -jnp.sum(jnp.where(mean > 0, mean * jnp.log(jnp.where(mean > 0, mean, 1)), 0))
    return keep_rows(-expected(p, log_p) - diversity, mask)
