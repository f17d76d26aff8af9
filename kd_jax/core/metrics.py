"""Metrics of one example each, and the bins of calibration that add up over a data set."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.losses.needs import by_token

# Per-example metrics. Logits are [..., classes], labels int [...], the result float32 [...]. An example without a
# label (-1) gives 0 and has to be left out with a mask, as everywhere.


@by_token
def accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Computes 1 where argmax(logits) == label, else 0. Ties go to the lowest class."""
    return (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)


@by_token
def confidence(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Computes max softmax(logits), whatever the labels are."""
    del labels
    return jnp.max(jax.nn.softmax(logits.astype(jnp.float32), axis=-1), axis=-1)


@by_token
def top5(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Computes 1 where the label is among the five largest logits, else 0; with fewer than five classes, always 1.

    It counts positions, since a count of larger logits would call a network that outputs constants (or nan) perfect.
    """
    _, best = jax.lax.top_k(logits, min(5, logits.shape[-1]))
    return jnp.any(best == labels[..., None], axis=-1).astype(jnp.float32)


@by_token
def nll(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Computes -log softmax(logits)[label], in nats."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    picked = jnp.take_along_axis(log_p, jnp.maximum(labels, 0)[..., None], axis=-1)[..., 0]
    return jnp.where(labels >= 0, -picked, 0.0)


@by_token
def agreement(logits: jax.Array, reference_logits: jax.Array) -> jax.Array:
    """Computes 1 where both networks predict the same class, right or wrong, else 0.

    "Top-1 agreement" of Stanton, Izmailov, Kirichenko, Alemi, Wilson, Does Knowledge Distillation Really Work?, 2021,
    arXiv 2106.05945.
    """
    return (jnp.argmax(logits, axis=-1) == jnp.argmax(reference_logits, axis=-1)).astype(jnp.float32)


@by_token
def kl(logits: jax.Array, reference_logits: jax.Array) -> jax.Array:
    """Computes KL(reference || network) = sum_c q_c (log q_c - log p_c) at temperature 1, in nats."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    log_q = jax.nn.log_softmax(reference_logits.astype(jnp.float32), axis=-1)
    # exp(-inf) * (-inf - x) is nan where a class is excluded in the reference; its share of the sum is 0.
    terms = jnp.where(log_q > -jnp.inf, jnp.exp(log_q) * (log_q - log_p), 0.0)
    return jnp.sum(terms, axis=-1)


def calibration_bins(
    logits: jax.Array, labels: jax.Array, mask: jax.Array | None = None, bins: int = 15
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Computes (sum of confidences, sum of hits, count), float32 [bins], in `bins` equal bins ((m-1)/bins, m/bins].

    Confidence is max softmax(logits). logits [batch, classes], labels [batch], mask bool [batch]; examples that are
    masked out or have no label (-1) count nowhere. Results of parts of a data set add up to those of the whole.
    Binning of Guo, Pleiss, Sun, Weinberger, On Calibration of Modern Neural Networks, 2017, arXiv 1706.04599.
    """
    return binned(confidence(logits, labels), accuracy(logits, labels), labels, mask, bins)


def binned(
    confidence: jax.Array, hits: jax.Array, labels: jax.Array, mask: jax.Array | None = None, bins: int = 15
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Computes the sums of calibration_bins from the confidence and the accuracy of each example [batch]."""
    index = jnp.clip(jnp.ceil(confidence * bins).astype(jnp.int32) - 1, 0, bins - 1)
    counted = labels >= 0 if mask is None else mask & (labels >= 0)
    member = (index[:, None] == jnp.arange(bins)[None, :]) & counted[:, None]
    # where and sum instead of a product with the one-hot matrix: matrix products may run in bfloat16.
    return (
        jnp.sum(jnp.where(member, confidence[:, None], 0.0), axis=0),
        jnp.sum(jnp.where(member, hits[:, None], 0.0), axis=0),
        jnp.sum(member.astype(jnp.float32), axis=0),
    )


def expected_calibration_error(confidence_sum: Any, correct_sum: Any, count: Any) -> float:
    """Computes ECE = sum_m |confidence_sum_m - correct_sum_m| / sum_m count_m, on the host; nan if all counts are 0.

    The arguments are [bins] sums of calibration_bins. Guo et al. 2017, arXiv 1706.04599, equation 3.
    """
    total = float(np.sum(np.asarray(count, np.float64)))
    gap = np.abs(np.asarray(confidence_sum, np.float64) - np.asarray(correct_sum, np.float64))
    return float(gap.sum() / total) if total else math.nan
