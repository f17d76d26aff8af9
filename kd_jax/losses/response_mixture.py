"""Divergences of the student and the teacher from a mixture of both: generalised JSD and skewed KL.

Shapes, temperatures and `axis_name` as in response.py, from which these names can be imported too.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kd_jax.losses._numerics import (
    kl,
    log_probs,
    over_classes,
    over_shards,
    possible,
    require_same_shape,
    scalar_like,
    squared,
    to_float,
)
from kd_jax.losses.needs import by_token
from kd_jax.ranges import BelowOne, Positive, Share

Array = jax.Array


def _both(what: str, student_logits: Array, teacher_logits: Array) -> tuple[Array, Array]:
    s, t = to_float(student_logits, teacher_logits)
    require_same_shape(what, s, t)
    return s, t


def _log_mixture(log_p: Array, log_q: Array, share: Array) -> Array:
    """Computes log(share p + (1 - share) q); the share is a number, or one value for each leading position."""
    share = over_classes(share, log_p)
    of_p, of_q = jnp.log(share) + log_p, jnp.log1p(-share) + log_q
    there = possible(of_p, of_q)  # the gradient of logaddexp is NaN where both are -inf
    mixed = jnp.logaddexp(jnp.where(there, of_p, 0), jnp.where(there, of_q, 0))
    return jnp.where(there, mixed, -jnp.inf)


def _mixture_terms(log_p: Array, log_q: Array, share: Array) -> tuple[Array, Array]:
    """Computes p log(p / m) and q log(q / m) by class, m = share p + (1 - share) q; 0 where p (q) is 0."""
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    log_m = jnp.log(jnp.maximum(share * p + (1 - share) * q, jnp.finfo(p.dtype).tiny))

    def terms(x: Array, log_x: Array) -> Array:
        return jnp.where(x > 0, x * (jnp.where(x > 0, log_x, 0) - log_m), 0)

    return terms(p, log_p), terms(q, log_q)


@jax.custom_jvp
def _divergence_from_mixture(log_p: Array, log_q: Array, share: Array) -> Array:
    """Computes share KL(p, m) + (1 - share) KL(q, m), m = share p + (1 - share) q, over the last axis."""
    share = over_classes(share, log_p)
    of_p, of_q = _mixture_terms(log_p, log_q, share)
    return jnp.sum(share * of_p + (1 - share) * of_q, axis=-1)


@_divergence_from_mixture.defjvp
def _divergence_from_mixture_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    # What m adds to the derivative cancels, so it needs no logarithm that the value does not.
    (log_p, log_q, share), (along_p, along_q, along_share) = primals, tangents
    wide = over_classes(share, log_p)
    of_p, of_q = _mixture_terms(log_p, log_q, wide)
    of_p_sum, of_q_sum = jnp.sum(of_p, axis=-1), jnp.sum(of_q, axis=-1)
    along = jnp.sum(wide * of_p * along_p + (1 - wide) * of_q * along_q, axis=-1)
    return share * of_p_sum + (1 - share) * of_q_sum, along + along_share * (of_p_sum - of_q_sum)


@by_token
def jsd_loss(
    student_logits: Array,
    teacher_logits: Array,
    *,
    beta: Share[Array | float] = 0.5,
    temperature: Positive[Array | float] = 1.0,
    axis_name: str | None = None,
) -> Array:
    """Computes T^2 [beta KL(p_t, m) + (1 - beta) KL(p_s, m)], m = beta p_t + (1 - beta) p_s.

    Logits [..., classes] of one shape, ValueError otherwise; returns [...]. beta 0 is KL(p_t, p_s), beta 1 is
    KL(p_s, p_t), as published, and not the limits of the formula, which are 0. Agarwal, Vieillard, Zhou, Stanczyk,
    Ramos, Geist, Bachem, "On-Policy Distillation of Language Models" (GKD), 2023, arXiv 2306.13649. T^2 is ours; trl
    has none.
    """
    s, t = _both("jsd_loss", student_logits, teacher_logits)
    beta = scalar_like(beta, s)
    log_s, log_t = log_probs(s, temperature, axis_name), log_probs(t, temperature, axis_name)
    inner = jnp.where((beta > 0) & (beta < 1), beta, 0.5)  # keeps the branch not taken finite
    between = _divergence_from_mixture(log_t, log_s, inner)
    # An end that is not taken compares a side with itself: with a class of logit -inf it could be infinite, its
    # gradient NaN.
    forward = kl(log_t, jnp.where(over_classes(beta, s) <= 0, log_s, log_t))
    reverse = kl(log_s, jnp.where(over_classes(beta, s) >= 1, log_t, log_s))
    value = jnp.where(beta <= 0, forward, jnp.where(beta >= 1, reverse, between))
    return squared(temperature, s) * over_shards(value, axis_name)


@by_token
def skew_kl_loss(
    student_logits: Array,
    teacher_logits: Array,
    *,
    alpha: BelowOne[Array | float] = 0.1,
    temperature: Positive[Array | float] = 1.0,
    axis_name: str | None = None,
) -> Array:
    """Computes T^2 KL(p_t, alpha p_t + (1 - alpha) p_s).

    Logits [..., classes] of one shape, ValueError otherwise; returns [...]. 0 <= alpha < 1.
    Ko, Kim, Chen, Yun, "DistiLLM: Towards Streamlined Distillation for Large Language Models", 2024, arXiv 2402.03898.
    The authors' code leaves out the teacher's entropy (a constant) and has no temperature; T^2 is ours.
    """
    s, t = _both("skew_kl_loss", student_logits, teacher_logits)
    log_s, log_t = log_probs(s, temperature, axis_name), log_probs(t, temperature, axis_name)
    return squared(temperature, s) * kl(log_t, _log_mixture(log_t, log_s, scalar_like(alpha, s)), axis_name)


@by_token
def skew_reverse_kl_loss(
    student_logits: Array,
    teacher_logits: Array,
    *,
    alpha: BelowOne[Array | float] = 0.1,
    temperature: Positive[Array | float] = 1.0,
    axis_name: str | None = None,
) -> Array:
    """Computes T^2 KL(p_s, (1 - alpha) p_t + alpha p_s).

    Shapes, errors and paper as `skew_kl_loss`. The authors' code has no temperature; T^2 is ours.
    """
    s, t = _both("skew_reverse_kl_loss", student_logits, teacher_logits)
    log_s, log_t = log_probs(s, temperature, axis_name), log_probs(t, temperature, axis_name)
    return squared(temperature, s) * kl(log_s, _log_mixture(log_s, log_t, scalar_like(alpha, s)), axis_name)
