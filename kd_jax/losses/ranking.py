"""Losses on scores of candidates: retrieval, rerankers and recommenders. Scores are [batch, candidates].

`where` is bool [batch, candidates] (or [batch], whole rows): what it leaves out counts nowhere, whatever it holds.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kd_jax.losses._numerics import (
    einsum,
    kl,
    log_softmax,
    log_sum,
    require_same_shape,
    scalar_like,
    softened,
    squared,
    to_float,
)
from kd_jax.ranges import Count, Finite, Positive

Array = jax.Array


def _require_scores(what: str, scores: Array) -> None:
    if scores.ndim != 2:
        raise ValueError(f"{what}: expected scores [batch, candidates], got {scores.shape}")


def _candidates(what: str, where: Array | None, scores: Array) -> Array:
    """Returns bool [batch, candidates] of those that count."""
    if where is None:
        return jnp.ones(scores.shape, bool)
    where = jnp.asarray(where).astype(bool)
    if where.shape not in (scores.shape, scores.shape[:1]):
        raise ValueError(f"{what}: where must be {scores.shape} or {scores.shape[:1]}, got {where.shape}")
    return jnp.broadcast_to(where if where.ndim == 2 else where[:, None], scores.shape)


def margin_mse_loss(student: Array, teacher: Array, *, where: Array | None = None) -> Array:
    """Computes the mean over negatives j of ((s_0 - s_j) - (t_0 - t_j))^2; column 0 is the positive.

    Scores [batch, 1 + negatives] of one shape, ValueError otherwise; returns [batch], 0 where no pair counts.
    Hofstatter, Althammer, Schroder, Sertkan, Hanbury, "Improving Efficient Neural Ranking Models with
    Cross-Architecture Knowledge Distillation", 2020, arXiv 2010.02666.
    """
    s, t = to_float(student, teacher)
    _require_scores("margin_mse_loss", s)
    require_same_shape("margin_mse_loss", s, t)
    if s.shape[1] < 2:
        raise ValueError(f"margin_mse_loss: a margin needs a positive and a negative, got scores {s.shape}")
    there = _candidates("margin_mse_loss", where, s)
    s, t = (jnp.where(there, x, 0) for x in (s, t))
    gaps = (s[:, :1] - s[:, 1:]) - (t[:, :1] - t[:, 1:])
    counted = there[:, :1] & there[:, 1:]
    return jnp.sum(jnp.where(counted, gaps**2, 0), axis=1) / jnp.maximum(counted.sum(1), 1).astype(s.dtype)


def listwise_kl_loss(
    student: Array,
    teacher: Array,
    *,
    temperature: Positive[Array | float] = 1.0,
    teacher_temperature: Positive[Array | float | None] = None,
    where: Array | None = None,
) -> Array:
    """Computes T^2 KL(softmax(t / T_t), softmax(s / T)) over the candidates that `where` names.

    Scores [batch, candidates] of one shape, ValueError otherwise; returns [batch], 0 for a row without candidates. T_t
    is T unless there is a teacher_temperature. `where` takes items seen before, and padding, out of both softmaxes; a
    teacher's score of -inf alone leaves the candidate to the student. Lin, Yang, Lin, "Distilling Dense Representations
    for Ranking using Tightly-Coupled Teachers", 2020, arXiv 2010.11386. sentence-transformers multiplies by the
    student's T squared too.
    """
    s, t = to_float(student, teacher)
    _require_scores("listwise_kl_loss", s)
    require_same_shape("listwise_kl_loss", s, t)
    there = _candidates("listwise_kl_loss", where, s)
    of_teacher = temperature if teacher_temperature is None else teacher_temperature
    log_s = log_softmax(softened(jnp.where(there, s, -jnp.inf), temperature))
    log_t = log_softmax(softened(jnp.where(there, t, -jnp.inf), of_teacher))
    return squared(temperature, s) * kl(log_t, log_s)


def max_similarity(
    query: Array, documents: Array, *, query_mask: Array | None = None, document_mask: Array | None = None
) -> Array:
    """Computes the sum over query tokens of the largest dot product with a document token (late interaction).

    query [batch, q, width], documents [batch, n, k, width], masks bool [batch, q] and [batch, n, k]; returns [batch,
    n], 0 for a document or query without tokens. ValueError on other shapes. Santhanam, Khattab, Saad-Falcon, Potts,
    Zaharia, "ColBERTv2", 2021, arXiv 2112.01488. Padding takes no part in the maximum.
    """
    q, d = to_float(query, documents)
    if q.ndim != 3 or d.ndim != 4 or q.shape[0] != d.shape[0] or q.shape[-1] != d.shape[-1]:
        raise ValueError(
            f"max_similarity: expected a query [batch, q, width] and documents [batch, n, k, width], got {q.shape} and "
            f"{d.shape}"
        )
    for what, mask, shape in (("query_mask", query_mask, q.shape[:2]), ("document_mask", document_mask, d.shape[:3])):
        if mask is not None and jnp.shape(mask) != shape:
            raise ValueError(f"max_similarity: {what} must be {shape}, got {jnp.shape(mask)}")
    real_q = jnp.ones(q.shape[:2], bool) if query_mask is None else jnp.asarray(query_mask).astype(bool)
    real_d = jnp.ones(d.shape[:3], bool) if document_mask is None else jnp.asarray(document_mask).astype(bool)
    q, d = jnp.where(real_q[..., None], q, 0), jnp.where(real_d[..., None], d, 0)
    products = jnp.where(real_d[:, :, None], einsum("bqw,bnkw->bnqk", q, d), -jnp.inf)
    counted = real_q[:, None] & real_d.any(-1, keepdims=True)
    return jnp.sum(jnp.where(counted, jnp.max(products, axis=-1), 0), axis=-1)


def position_weights(number: Count[int], *, sharpness: Positive[Array | float]) -> Array:
    """Computes exp(-k / sharpness), k from 1, over their sum; returns [number].

    Tang, Wang, "Ranking Distillation" (RD), 2018, arXiv 1809.07428.
    """
    return jax.nn.softmax(-jnp.arange(1, number + 1) / jnp.asarray(sharpness, jnp.float32))


def discrepancy_weights(student: Array, sampled: Array, *, items: Count[int], mu: Positive[Array | float]) -> Array:
    """Computes max(tanh(mu (rank_k - k)), 0), k from 0, detached: items that the student ranks too low weigh more.

    student [batch, number] are its scores of the teacher's best items in the teacher's order, sampled [batch, m] those
    of items drawn at random, from which rank_k = floor((items - 1) * share of `sampled` above s_k). Returns [batch,
    number]; ValueError on other shapes. Tang, Wang (RD), 2018, arXiv 1809.07428; the authors multiply it with
    `position_weights` without dividing by the sum again, from the tenth epoch on.
    """
    s, drawn = to_float(student, sampled)
    _require_scores("discrepancy_weights", s)
    if drawn.ndim != 2 or drawn.shape[0] != s.shape[0]:
        raise ValueError(f"discrepancy_weights: scores {s.shape} need sampled ones [batch, m], got {drawn.shape}")
    above = jnp.mean(drawn[:, None, :] > s[:, :, None], axis=-1, dtype=s.dtype)
    rank = jnp.floor((items - 1) * above)
    return jax.lax.stop_gradient(jnp.maximum(jnp.tanh(scalar_like(mu, s) * (rank - jnp.arange(s.shape[1])[None])), 0))


def ranking_distillation_loss(student: Array, weights: Array, *, where: Array | None = None) -> Array:
    """Computes -sum_k w_k log sigmoid(s_k) over the teacher's best items, in its order.

    Scores [batch, number], weights [number] or [batch, number]; returns [batch]; ValueError on other shapes. Tang, Wang
    (RD), 2018, arXiv 1809.07428, without the authors' second term, the cross-entropy of the labels, and without the
    overflow of log(sigmoid) below -104.
    """
    (s, weights) = to_float(student, weights)
    _require_scores("ranking_distillation_loss", s)
    if weights.shape not in (s.shape, s.shape[1:]):
        raise ValueError(f"ranking_distillation_loss: scores {s.shape} need weights of them, got {weights.shape}")
    there = _candidates("ranking_distillation_loss", where, s)
    weights = jnp.broadcast_to(weights if weights.ndim == 2 else weights[None], s.shape)
    return -jnp.sum(jnp.where(there, weights * jax.nn.log_sigmoid(jnp.where(there, s, 0)), 0), axis=1)


def relaxed_ranking_loss(interesting: Array, uninteresting: Array, *, where: Array | None = None) -> Array:
    """Computes sum_k [log(sum_{j >= k} exp s_j + sum_l exp u_l) - s_k]: the order of the interesting ones alone.

    interesting s [batch, number] are the student's scores of the teacher's best items in its order, uninteresting u
    [batch, m] those of others; `where` is of the interesting ones. Returns [batch]; ValueError on other shapes. Kang,
    Hwang, Kweon, Yu, "DE-RRD: A Knowledge Distillation Framework for Recommender System", 2020, arXiv 2012.04357. The
    authors sum over users and exponentiate without a maximum.
    """
    s, u = to_float(interesting, uninteresting)
    _require_scores("relaxed_ranking_loss", s)
    if u.ndim != 2 or u.shape[0] != s.shape[0]:
        raise ValueError(f"relaxed_ranking_loss: scores {s.shape} need uninteresting ones [batch, m], got {u.shape}")
    there = _candidates("relaxed_ranking_loss", where, s)
    s, u = jnp.where(there, s, 0), jnp.where(there.any(1, keepdims=True), u, 0)
    later = jnp.triu(jnp.ones((s.shape[1], s.shape[1]), bool))[None] & there[:, None, :]
    rest = jnp.broadcast_to(u[:, None, :], (*s.shape, u.shape[1]))
    scores = jnp.concatenate([jnp.where(later, s[:, None, :], -jnp.inf), rest], axis=-1)
    return jnp.sum(jnp.where(there, log_sum(scores) - s, 0), axis=1)


def collaborative_loss(
    student: Array,
    teacher: Array,
    *,
    temperature: Positive[Array | float] = 1.0,
    offset: Finite[Array | float] = 0.0,
    where: Array | None = None,
) -> Array:
    """Computes -sum_i [w_i log sigmoid(s_i) + (1 - w_i) log sigmoid(-s_i)], w = sigmoid((t + offset) / T).

    Scores [batch, candidates] of one shape, ValueError otherwise; returns [batch]. Lee, Choi, Lee, Shim,
    "Collaborative Distillation for Top-N Recommendation" (CD), 2019, arXiv 1911.05276. No T^2: only the teacher is
    divided by T. Public code sums over users and adds 1e-10 inside the logarithm.
    """
    s, t = to_float(student, teacher)
    _require_scores("collaborative_loss", s)
    require_same_shape("collaborative_loss", s, t)
    there = _candidates("collaborative_loss", where, s)
    s, t = (jnp.where(there, x, 0) for x in (s, t))
    share = jax.nn.sigmoid((t + scalar_like(offset, t)) / scalar_like(temperature, t))
    values = share * jax.nn.log_sigmoid(s) + (1 - share) * jax.nn.log_sigmoid(-s)
    return -jnp.sum(jnp.where(there, values, 0), axis=1)
