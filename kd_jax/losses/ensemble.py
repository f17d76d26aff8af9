"""Losses of one student against several teachers.

Teachers come as further arguments, fn(student, teacher_1, teacher_2, ...), each [..., classes], or stacked as one
[teachers, ..., classes]; all must have the student's shape (ValueError otherwise). All return [...], the student's
leading shape. A divergence at T is multiplied by T^2.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kd_jax.losses._numerics import expected, kl, log_probs, log_sum, squared, to_float
from kd_jax.losses.task import pick_label, require_labels
from kd_jax.ranges import Positive

Array = jax.Array


def _inputs(what: str, student_logits: Array, teachers: tuple[Array, ...]) -> tuple[Array, Array]:
    """Returns the student [..., classes] and the teachers [teachers, ..., classes]."""
    (s,) = to_float(student_logits)
    if len(teachers) == 1 and isinstance(teachers[0], (list, tuple)):
        teachers = tuple(teachers[0])
    if len(teachers) == 1 and jnp.ndim(teachers[0]) == s.ndim + 1:
        teachers = tuple(teachers[0])
    teachers = to_float(*teachers)
    if not teachers or any(t.shape != s.shape for t in teachers):
        raise ValueError(
            f"{what}: every teacher must have the student's shape {s.shape}, got {[t.shape for t in teachers]}"
        )
    return s, jnp.stack(teachers)


def _divergences(s: Array, t: Array, temperature: Array | float) -> Array:
    """Computes T^2 KL(p_k, p_s) for each teacher k: [teachers, ...]."""
    log_s = log_probs(s, temperature)
    # A loop: teachers are few, and under vmap XLA's CPU backend is about 5 times slower.
    return squared(temperature, s) * jnp.stack([kl(log_probs(z, temperature), log_s) for z in t])


def average_kl_loss(student_logits: Array, *teacher_logits: Array, temperature: Positive[Array | float] = 4.0) -> Array:
    """Computes the mean over teachers of T^2 KL(p_k, p_s).

    Shapes and errors: see the module. You, Xu, Xu, Tao, "Learning from Multiple Teacher Networks", KDD 2017.
    Its gradient is that of `average_probabilities_loss`.
    """
    s, t = _inputs("average_kl_loss", student_logits, teacher_logits)
    return jnp.mean(_divergences(s, t, temperature), axis=0)


def average_logits_loss(
    student_logits: Array, *teacher_logits: Array, temperature: Positive[Array | float] = 4.0
) -> Array:
    """Computes T^2 KL(softmax(mean_k z_k / T), p_s).

    Shapes and errors: see the module. You, Xu, Xu, Tao, KDD 2017, "Learning from Multiple Teacher Networks". TextBrewer
    uses the cross-entropy without T^2.
    """
    s, t = _inputs("average_logits_loss", student_logits, teacher_logits)
    return squared(temperature, s) * kl(log_probs(jnp.mean(t, axis=0), temperature), log_probs(s, temperature))


def average_probabilities_loss(
    student_logits: Array, *teacher_logits: Array, temperature: Positive[Array | float] = 4.0
) -> Array:
    """Computes T^2 KL(mean_k p_k, p_s).

    Shapes and errors: see the module. Hinton, Vinyals, Dean, 2015, arXiv 1503.02531 (arithmetic mean of an ensemble).
    """
    s, t = _inputs("average_probabilities_loss", student_logits, teacher_logits)
    log_t = jnp.stack([log_probs(z, temperature) for z in t])
    log_mean = log_sum(log_t, axis=0) - jnp.log(t.shape[0])
    return squared(temperature, s) * kl(log_mean, log_probs(s, temperature))


def entropy_weighted_loss(
    student_logits: Array, *teacher_logits: Array, temperature: Positive[Array | float] = 4.0
) -> Array:
    """Computes 1/K sum_k w_k T^2 KL(p_k, p_s), w_k = 1 - H_k / sum_j H_j, H_k the entropy of teacher k at T 1.

    Shapes and errors: see the module. Kwon, Na, Lee, Kim, "Adaptive Knowledge Distillation Based on Entropy" (EBKD),
    ICASSP 2020. As the CA-MKD authors' code: the weights sum to K - 1, and 1/K comes on top. Where all entropies are 0,
    all teachers weigh the same (published: NaN).
    """
    s, t = _inputs("entropy_weighted_loss", student_logits, teacher_logits)
    log_p = log_probs(t)
    entropy = -expected(jnp.exp(log_p), log_p)
    total = jnp.sum(entropy, axis=0, keepdims=True)
    share = jnp.where(total > 0, entropy / jnp.where(total > 0, total, 1), 1 / t.shape[0])
    return jnp.mean((1 - share) * _divergences(s, t, temperature), axis=0)


def confidence_weighted_loss(
    student_logits: Array, *teacher_logits: Array, labels: Array, temperature: Positive[Array | float] = 4.0
) -> Array:
    """Computes 1/K sum_k w_k T^2 KL(p_k, p_s), w_k = (1 - softmax_k CE_k) / (K - 1), CE_k of teacher k with the label.

    Shapes and errors: see the module; labels int [...] (-1 gives a finite value without meaning), at least two
    teachers. Zhang, Chen, Wang, "Confidence-Aware Multi-Teacher Knowledge Distillation" (CA-MKD), 2021, arXiv
    2201.00007. As the authors' code: the weights sum to 1, and 1/K comes on top.
    """
    s, t = _inputs("confidence_weighted_loss", student_logits, teacher_logits)
    if t.shape[0] < 2:
        raise ValueError(f"confidence_weighted_loss: needs at least two teachers, got logits of shape {t.shape}")
    labels = require_labels("confidence_weighted_loss", labels, s)
    wrong = -jnp.stack([pick_label(log_probs(z), labels) for z in t])
    weight = (1 - jax.nn.softmax(wrong, axis=0)) / (t.shape[0] - 1)
    return jnp.mean(weight * _divergences(s, t, temperature), axis=0)
