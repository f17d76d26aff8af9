"""Losses of one student against teachers of unequal competence: specialists on some classes, right on some examples.

Logits are [..., classes], of one shape (ValueError otherwise); all return [...].
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.losses._numerics import (
    kl,
    log_probs,
    log_softmax,
    log_sum,
    require_same_shape,
    softened,
    squared,
    to_float,
)
from kd_jax.losses.ensemble import average_kl_loss, confidence_weighted_loss
from kd_jax.ranges import Count, Positive

Array = jax.Array


def specialists_loss(
    student: Array,
    generalist: Array,
    *specialists: Array,
    classes: tuple[tuple[int, ...], ...],
    temperature: Positive[Array | float] = 4.0,
    top: Count[int] = 1,
    dustbin: bool = False,
) -> Array:
    """Computes T^2 [KL(p_g, p_s) + sum over active specialists m of KL(p_m, p_s) on the classes S_m and a dustbin].

    g is the generalist, S_m = classes[m]; the dustbin is one class for all others, whose probabilities are added up. A
    specialist is active where one of its classes is among the `top` most probable of the generalist. dustbin=True takes
    p_m from the specialist alone, which must have learnt from some examples of other classes. dustbin=False is for one
    that learnt from S_m alone: p_m(c) = p_g(S_m) p_m(c | S_m), and the dustbin's is the generalist's.
    Raises ValueError where classes do not fit. Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network",
    2015, arXiv 1503.02531, section 5.3; they minimise this objective for each test image, here it trains a student.
    """
    (s, g), others = to_float(student, generalist), to_float(*specialists)
    for teacher in (g, *others):
        require_same_shape("specialists_loss", s, teacher)
    if len(classes) != len(others) or not others:
        raise ValueError(f"specialists_loss: classes are given for {len(classes)} of {len(others)} specialists.")
    log_s, log_g = log_probs(s, temperature), log_probs(g, temperature)
    _, best = jax.lax.top_k(g, top)
    total = kl(log_g, log_s)
    for chosen, z in zip(classes, others, strict=True):
        ids = _class_ids(chosen, s.shape[-1])
        if dustbin:
            log_m = _with_dustbin(log_probs(z, temperature), ids)
        else:
            within = log_softmax(softened(z[..., ids], temperature))  # 0 where S_m is one class
            mass = _with_dustbin(log_g, ids)
            share = log_sum(mass[..., :-1], keepdims=True)
            log_m = jnp.concatenate([share + within, mass[..., -1:]], axis=-1)
        active = jnp.isin(best, ids).any(-1)
        total += jnp.where(active, kl(log_m, _with_dustbin(log_s, ids)), 0)
    return squared(temperature, s) * total


def _class_ids(chosen: tuple[int, ...], number: int) -> np.ndarray:
    ids = np.unique(np.asarray(chosen, int))
    if len(ids) != len(chosen) or not 0 < len(ids) < number or ids[0] < 0 or ids[-1] >= number:
        raise ValueError(
            f"specialists_loss: the classes of a specialist are some of 0 .. {number - 1}, not all, each once; "
            f"got {tuple(chosen)}."
        )
    return ids


def _with_dustbin(log_p: Array, ids: np.ndarray) -> Array:
    """Returns [..., len(ids) + 1]: the log-probabilities of the classes `ids`, then that of all others together."""
    rest = np.setdiff1d(np.arange(log_p.shape[-1]), ids)
    return jnp.concatenate([log_p[..., ids], log_sum(log_p[..., rest], keepdims=True)], axis=-1)


def confidence_transfer_loss(
    student: Array, *teachers_and_labels: Array, temperature: Positive[Array | float] = 4.0
) -> Array:
    """Computes confidence_weighted_loss of K teachers, and average_kl_loss / K where the label is -1.

    Arguments: student, teacher_1, .., teacher_K, labels int [...], -1 for none. The weights of the K teachers have the
    same sum in both. CA-MKD: see losses.ensemble.
    """
    *teachers, labels = teachers_and_labels
    by_confidence = confidence_weighted_loss(student, *teachers, labels=labels, temperature=temperature)
    alike = average_kl_loss(student, *teachers, temperature=temperature) / len(teachers)
    return jnp.where(labels >= 0, by_confidence, alike)
