"""Losses on logits that treat the labelled class apart from the others."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kd_jax.losses._numerics import (
    expected,
    kl,
    log_probs,
    log_softmax,
    log_sum,
    require_same_shape,
    scalar_like,
    softened,
    squared,
    to_float,
)
from kd_jax.losses.needs import by_token
from kd_jax.losses.task import pick_label, require_labels
from kd_jax.ranges import NotNegative, Positive

Array = jax.Array


def _inputs(what: str, student_logits: Array, teacher_logits: Array, labels: Array) -> tuple[Array, Array, Array]:
    s, t = to_float(student_logits, teacher_logits)
    require_same_shape(what, s, t)
    if s.shape[-1] < 2:
        raise ValueError(f"{what}: needs at least 2 classes, got logits {s.shape}")
    return s, t, require_labels(what, labels, s)


def _is_label(labels: Array, classes: int) -> Array:
    """Returns bool [..., classes], True at the label; a label outside the classes counts as the nearest class."""
    index = jnp.clip(labels, 0, classes - 1)[..., None]
    return jnp.expand_dims(jnp.arange(classes), tuple(range(labels.ndim))) == index


def _binary(logits: Array, labels: Array, temperature: Array | float) -> Array:
    """Computes log (p_label, 1 - p_label) at T: [..., 2]."""
    log_p = log_probs(logits, temperature)
    rest = log_sum(jnp.where(_is_label(labels, logits.shape[-1]), -jnp.inf, log_p))
    return jnp.stack([pick_label(log_p, labels), rest], axis=-1)


def _others(logits: Array, labels: Array, temperature: Array | float) -> Array:
    """Computes log softmax(z / T) over all classes but the label, -inf at the label."""
    # After the division: a temperature that is learned would get the gradient inf * 0.
    scaled = softened(logits, temperature)
    return log_softmax(jnp.where(_is_label(labels, logits.shape[-1]), -jnp.inf, scaled))


@by_token
def dkd_loss(
    student_logits: Array,
    teacher_logits: Array,
    labels: Array,
    *,
    alpha: NotNegative[Array | float] = 1.0,
    beta: NotNegative[Array | float] = 8.0,
    temperature: Positive[Array | float] = 4.0,
) -> Array:
    """Computes T^2 [alpha KL(b_t, b_s) + beta KL(o_t, o_s)], b = (p_label, 1 - p_label), o_c = p_c / (1 - p_label).

    o is over the other classes. Logits [..., classes] of one shape, at least 2 classes, labels int [...] (-1 gives a
    finite value without meaning); ValueError otherwise; returns [...].
    Zhao, Cui, Song, Qiu, Liang, "Decoupled Knowledge Distillation", 2022, arXiv 2203.08679.
    As mdistiller, in logarithms: theirs takes log(0) where a probability underflows, and leaves e^-1000 of the label.
    """
    s, t, labels = _inputs("dkd_loss", student_logits, teacher_logits, labels)
    target = kl(_binary(t, labels, temperature), _binary(s, labels, temperature))
    others = kl(_others(t, labels, temperature), _others(s, labels, temperature))
    return squared(temperature, s) * (scalar_like(alpha, s) * target + scalar_like(beta, s) * others)


@by_token
def nkd_loss(
    student_logits: Array,
    teacher_logits: Array,
    labels: Array,
    *,
    gamma: NotNegative[Array | float] = 1.5,
    temperature: Positive[Array | float] = 1.0,
) -> Array:
    """Computes -p_t[label] log p_s[label] - gamma T^2 sum over the other classes of o_t log o_s,
    o_c = p_c / (1 - p_label).

    p is at T 1, o at T. Logits [..., classes] of one shape, at least 2 classes, labels int [...] (-1 gives a finite
    value without meaning); ValueError otherwise; returns [...]. A cross-entropy: not 0 at equal logits, and its label
    term has no minimum there. Yang, Zeng, Li, Zhang, Yuan, Li, "From Knowledge Distillation to Self-Knowledge
    Distillation: A Unified Approach with Normalized Loss and Customized Soft Labels", 2023, arXiv 2303.13005.
    p_t[label] is detached, as published.
    """
    s, t, labels = _inputs("nkd_loss", student_logits, teacher_logits, labels)
    weight = jax.lax.stop_gradient(jnp.exp(pick_label(log_probs(t), labels)))
    target = -weight * jnp.where(weight > 0, pick_label(log_probs(s), labels), 0)
    log_s, log_t = _others(s, labels, temperature), _others(t, labels, temperature)
    others = -expected(jnp.exp(log_t), log_s)
    return target + scalar_like(gamma, s) * squared(temperature, s) * others


@by_token
def wsld_loss(
    student_logits: Array, teacher_logits: Array, labels: Array, *, temperature: Positive[Array | float] = 2.0
) -> Array:
    """Computes -(1 - exp(-CE_s / (CE_t + 1e-7))) T^2 sum_c p_t log p_s, CE = cross-entropy with the label at T 1.

    Logits [..., classes] of one shape, labels int [...] (-1 gives a finite value without meaning); ValueError
    otherwise; returns [...]. Zhou, Song, Chen, Zhou, Wang, Yuan, Zhang, "Rethinking Soft Labels for Knowledge
    Distillation: A Bias-Variance Tradeoff Perspective", 2021, arXiv 2102.00650. The weight is detached, as published.
    """
    s, t, labels = _inputs("wsld_loss", student_logits, teacher_logits, labels)
    hard_s = -pick_label(log_probs(s), labels)
    hard_t = -pick_label(log_probs(t), labels)
    weight = jax.lax.stop_gradient(1 - jnp.exp(-hard_s / (hard_t + 1e-7)))
    soft = -expected(jnp.exp(log_probs(t, temperature)), log_probs(s, temperature))
    return weight * squared(temperature, s) * soft
