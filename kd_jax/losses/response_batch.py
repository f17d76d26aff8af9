"""Losses on logits that compare over the batch, and transforms of logits and temperatures before a loss."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from kd_jax.losses._numerics import (
    center,
    einsum,
    keep_rows,
    kl,
    log_probs,
    mean_possible,
    of_all,
    possible,
    require_same_shape,
    row_mask,
    safe_norm,
    scalar_like,
    squared,
    to_float,
)
from kd_jax.ranges import NotNegative, Positive

Array = jax.Array


def _pearson(a: Array, b: Array, axis: int, mask: Array, there: Array) -> Array:
    """Computes sum ab / (|a| |b| + 1e-8) of centred a, b; 0 with gradient 0 where either is constant."""
    a, b = center(a, axis, mask, there), center(b, axis, mask, there)
    norms = safe_norm(a, axis) * safe_norm(b, axis)
    return jnp.where(norms > 0, jnp.sum(a * b, axis=axis) / (norms + 1e-8), 0)


def dist_loss(
    student_logits: Array,
    teacher_logits: Array,
    *,
    beta: NotNegative[Array | float] = 1.0,
    gamma: NotNegative[Array | float] = 1.0,
    temperature: Positive[Array | float] = 1.0,
    where: Array | None = None,
) -> Array:
    """Computes T^2 [beta (1 - rho over the classes) + gamma (1 - mean over classes of rho along the batch)].

    rho is the Pearson correlation of probabilities. Logits [..., classes] of one shape, where bool [...] (positions
    that take part); ValueError otherwise; returns [...], 0 where masked. Leading axes are one batch. Huang, You, Wang,
    Qian, Xu, "Knowledge Distillation from A Stronger Teacher" (DIST), 2022, arXiv 2205.10536. As the authors' code,
    1e-8 is added to the product of norms. A constant row or column counts as uncorrelated, with gradient 0 (published:
    up to 1e8). A batch of one has no correlation along the batch: gamma times 1.
    """
    s, t = to_float(student_logits, teacher_logits)
    require_same_shape("dist_loss", s, t)
    leading, classes = s.shape[:-1], s.shape[-1]
    rows = s.size // classes
    mask = jnp.ones((rows,), bool) if where is None else jnp.asarray(where).astype(bool)
    if where is not None and mask.shape != leading:
        raise ValueError(f"dist_loss: where must have shape {leading}, got {mask.shape}")
    mask = mask.reshape(rows)

    def probabilities(logits: Array) -> Array:
        logits = keep_rows(logits.reshape(rows, classes), mask).reshape(logits.shape)
        return keep_rows(jnp.exp(log_probs(logits, temperature)).reshape(rows, classes), mask)

    p_s, p_t = probabilities(s), probabilities(t)
    there = possible(s, t).reshape(rows, classes)
    full = jnp.broadcast_to(mask[:, None], p_s.shape)
    between_classes = 1 - _pearson(p_s, p_t, 1, jnp.ones(p_s.shape, bool), there)
    within_class = 1 - mean_possible(_pearson(p_s, p_t, 0, full, there), jnp.any(full & there, axis=0))
    values = scalar_like(beta, s) * between_classes + scalar_like(gamma, s) * within_class
    return squared(temperature, s) * keep_rows(values, mask).reshape(leading)


def multi_level_logit_loss(
    student_logits: Array,
    teacher_logits: Array,
    *,
    temperatures: Positive[Sequence[Array | float]] = (2.0, 3.0, 4.0, 5.0, 6.0),
    where: Array | None = None,
) -> Array:
    """Computes the sum over T of [T^2 KL(p_t, p_s)
    + ||P_t P_t' - P_s P_s'||^2 / batch + ||P_t' P_t - P_s' P_s||^2 / classes].

    Logits [batch, classes] of one shape, where bool [batch], ValueError otherwise; returns [batch]: row i holds its own
    KL, its row of the batch's Gram matrix, and the class term whole; masked rows 0. P is [batch, classes] at T.
    Jin, Wang, Lin, "Multi-Level Logit Distillation", CVPR 2023.
    The Gram terms have no T^2, as published; the masks of low confidence in the authors' script are left to `where`.
    """
    s, t = to_float(student_logits, teacher_logits)
    require_same_shape("multi_level_logit_loss", s, t)
    if s.ndim != 2:
        raise ValueError(f"multi_level_logit_loss: expected logits [batch, classes], got {s.shape}")
    mask = row_mask(where, s.shape[0], "multi_level_logit_loss")
    there = jnp.any(possible(s, t) & mask[:, None], axis=0)
    s, t = keep_rows(s, mask), keep_rows(t, mask)
    total = jnp.zeros(s.shape[:1], s.dtype)
    for temperature in temperatures:
        log_s, log_t = log_probs(s, temperature), log_probs(t, temperature)
        p_s, p_t = keep_rows(jnp.exp(log_s), mask), keep_rows(jnp.exp(log_t), mask)
        batch = jnp.sum((einsum("ic,jc->ij", p_t, p_t) - einsum("ic,jc->ij", p_s, p_s)) ** 2, axis=1)
        classes = jnp.sum((einsum("ic,id->cd", p_t, p_t) - einsum("ic,id->cd", p_s, p_s)) ** 2) / s.shape[1]
        classes = classes * of_all(there, s)
        total = total + squared(temperature, s) * kl(log_t, log_s) + batch + classes
    return keep_rows(total, mask)


def standardize_logits(logits: Array) -> Array:
    """Computes (z - mean z) / (std z + 1e-7) over the classes, std with divisor classes - 1.

    logits [..., classes]; returns the same shape, for any logit loss. Gradients flow through mean and std.
    Sun, Ren, Li, Wang, Cao, "Logit Standardization in Knowledge Distillation", 2024, arXiv 2403.01427.
    Equal logits give 0 with gradient 0 (published: 1e7); classes of logit -inf keep it and do not count.
    """
    (z,) = to_float(logits)
    there = possible(z)
    z = center(z, -1, there=there)
    more, all_but_one = jnp.sum(there, axis=-1, keepdims=True) - 1, max(z.shape[-1] - 1, 1)
    deviation = safe_norm(z, -1, keepdims=True) / all_but_one**0.5
    deviation = deviation * jnp.sqrt(all_but_one / jnp.maximum(more, 1).astype(z.dtype))  # times 1 where all are there
    return jnp.where(there, jnp.where(deviation > 0, z / (deviation + 1e-7), 0), -jnp.inf)


def learned_temperature(
    raw: Array,
    *,
    start: Positive[Array | float] = 1.0,
    end: Positive[Array | float] = 20.0,
    strength: NotNegative[Array | float],
) -> Array:
    """Computes start + end * sigmoid(raw), with the gradient of raw multiplied by -strength.

    So T is trained to make the loss larger. raw of any shape (one temperature, or one an example); returns the same
    shape. strength 0 freezes T; CTKD raises it from 0 to 1 over 10 epochs by a cosine. Li, Li, Yang, Zhao, Song, Luo,
    Li, Yang, "Curriculum Temperature for Knowledge Distillation", 2022, arXiv 2211.16231. As published, the largest
    temperature is start + end. The authors' lambda is -strength.
    """
    (raw,) = to_float(raw)
    still = jax.lax.stop_gradient(raw)
    reversed_raw = still - scalar_like(strength, raw) * (raw - still)
    return scalar_like(start, raw) + scalar_like(end, raw) * jax.nn.sigmoid(reversed_raw)
