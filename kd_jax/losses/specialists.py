"""Losses of one student against teachers of unequal competence: specialists on some classes, right on some examples.

Logits are [..., classes], of one shape (ValueError otherwise); all return [...].
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.losses._numerics import kl, log_probs, require_same_shape, squared, to_float
from kd_jax.losses.ensemble import average_kl_loss, confidence_weighted_loss

Array = jax.Array


def specialists_loss(
    student: Array,
    generalist: Array,
    *specialists: Array,
    classes: tuple[tuple[int, ...], ...],
    temperature: Array | float = 4.0,
    top: int = 1,
    dustbin: bool = False,
) -> Array:
    """T^2 [KL(p_g, p_s) + sum over active specialists m of KL(p_m, p_s) on the classes of m and a dustbin].

    The dustbin is one class for all others, whose probabilities are added up. `classes[m]` are those of specialist m;
    it is active where one of them is among the `top` most probable of the generalist. With `dustbin` the specialist's
    own probability of the others is read, so it must have learnt from some of them. Without, it knows its own classes
    S_m alone, and the generalist says how probable they are together: p_m(c) = p_g(S_m) p_m(c | S_m).
    Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv 1503.02531, section 5.3: their
    objective, there minimised for each test image, as the loss of a student. Raises ValueError where classes do not
    fit.
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
        own = _own_classes(chosen, s.shape[-1])
        if dustbin:
            log_m = _with_dustbin(log_probs(z, temperature), own)
        else:
            within, mass = log_probs(z[..., own], temperature), _with_dustbin(log_g, own)
            share = jax.nn.logsumexp(mass[..., :-1], axis=-1, keepdims=True)
            log_m = jnp.concatenate([share + within, mass[..., -1:]], axis=-1)
        active = jnp.isin(best, own).any(-1)
        total += jnp.where(active, kl(log_m, _with_dustbin(log_s, own)), 0)
    return squared(temperature, s) * total


def _own_classes(chosen: tuple[int, ...], number: int) -> np.ndarray:
    own = np.unique(np.asarray(chosen, int))
    if len(own) != len(chosen) or not 0 < len(own) < number or own[0] < 0 or own[-1] >= number:
        raise ValueError(
            f"specialists_loss: the classes of a specialist are some of 0 .. {number - 1}, not all, each once; "
            f"got {tuple(chosen)}."
        )
    return own


def _with_dustbin(log_p: Array, own: np.ndarray) -> Array:
    """[..., own + 1]: the log-probabilities of the own classes, then that of all others together."""
    rest = np.setdiff1d(np.arange(log_p.shape[-1]), own)
    return jnp.concatenate([log_p[..., own], jax.nn.logsumexp(log_p[..., rest], axis=-1, keepdims=True)], axis=-1)


def confidence_transfer_loss(student: Array, *teachers_and_labels: Array, temperature: Array | float = 4.0) -> Array:
    """confidence_weighted_loss(student, teacher_1, .., teacher_K, labels) where only some examples have a label.

    Labels int [...]. An example without one (-1) weighs all teachers alike, with the same sum: average_kl_loss / K.
    CA-MKD: see losses.ensemble.
    """
    *teachers, labels = teachers_and_labels
    known = confidence_weighted_loss(student, *teachers, labels=labels, temperature=temperature)
    alike = average_kl_loss(student, *teachers, temperature=temperature) / len(teachers)
    return jnp.where(labels >= 0, known, alike)
