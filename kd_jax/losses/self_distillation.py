"""Losses of a network that is its own teacher: earlier predictions, an average of itself, or no teacher at all.

Logits are [..., classes]; all return [...]. What teaches the network is a target, so no gradient reaches it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kd_jax.losses._numerics import (
    expected,
    kl,
    log_probs,
    mean_possible,
    over_classes,
    possible,
    require_same_shape,
    scalar_like,
    to_float,
)
from kd_jax.losses.task import pick_label, require_labels
from kd_jax.ranges import Count, Inside, Positive, Share

Array = jax.Array


def consistency_loss(student_logits: Array, teacher_logits: Array) -> Array:
    """Computes the mean over classes of (p_s - p_t)^2, which is bounded: a wrong target cannot pull without end.

    Logits [..., classes] of one shape, ValueError otherwise; returns [...]. Tarvainen, Valpola, "Mean teachers are
    better role models", 2017, arXiv 1703.01780; the mean over classes is that of the authors' code.
    """
    s, t = to_float(student_logits, teacher_logits)
    require_same_shape("consistency_loss", s, t)
    return mean_possible((jnp.exp(log_probs(s)) - jnp.exp(log_probs(t))) ** 2, possible(s, t))


def progressive_loss(
    logits: Array,
    labels: Array,
    *,
    predictions: Array,
    index: Array,
    alpha: Share[Array | float] = 0.8,
    progress: Share[Array | float] = 1.0,
) -> Array:
    """Computes cross-entropy with (1 - a) onehot(label) + a q, a = alpha progress, q = predictions[index].

    a is 0 where q is 0. logits [batch, classes], labels int [batch], predictions [examples, classes] (rows of 0: not
    seen yet), index int [batch]; ValueError on other shapes; returns [batch]. A label of -1 gives a finite value that
    means nothing. Kim, Ji, Yoon, Hwang, "Self-Knowledge Distillation with Progressive Refinement of Targets" (PS-KD),
    2020, arXiv 2006.12000, where alpha grows with the epoch.
    """
    logits, predictions = to_float(logits, predictions)
    labels = require_labels("progressive_loss", labels, logits)
    if predictions.ndim != 2 or predictions.shape[-1] != logits.shape[-1]:
        raise ValueError(
            f"progressive_loss: predictions must be [examples, classes] for logits {logits.shape}, "
            f"got {predictions.shape}"
        )
    log_p, previous = log_probs(logits), predictions[index]
    strength = scalar_like(alpha, logits) * scalar_like(progress, logits)
    strength = jnp.where(previous.sum(-1) > 0, strength, 0)
    return -(1 - strength) * pick_label(log_p, labels) - strength * expected(previous, log_p)


def virtual_teacher_loss(
    logits: Array, labels: Array, *, correct: Inside[Array | float] = 0.99, temperature: Positive[Array | float] = 20.0
) -> Array:
    """Computes KL(q, softmax(logits)), q = d^(1 / T) / sum d^(1 / T), d = `correct` at the label and even elsewhere.

    Logits [..., classes], labels int [...], ValueError otherwise; returns [...]. As T grows, or where `correct` is
    1 / classes, q becomes uniform: (1 - a) cross-entropy + a times this loss is then label smoothing by a, less the
    constant a log(classes). Yuan, Tay, Li, Wang, Feng, "Revisiting Knowledge Distillation via Label Smoothing
    Regularization" (Tf-KD_reg), 2019, arXiv 1909.11723. As in the authors' code only the teacher is softened, where the
    paper softens both; they divide by T the probabilities d, not their logarithms, which makes q nearly uniform.
    """
    (logits,) = to_float(logits)
    classes = logits.shape[-1]
    if classes < 2:
        raise ValueError(f"virtual_teacher_loss: needs at least 2 classes, got logits {logits.shape}")
    labels = require_labels("virtual_teacher_loss", labels, logits)
    correct = scalar_like(correct, logits)
    is_label = jnp.expand_dims(jnp.arange(classes), tuple(range(labels.ndim))) == labels[..., None]
    there = possible(logits)
    others = jnp.maximum(jnp.sum(there, axis=-1, keepdims=True) - 1, 1).astype(logits.dtype)
    even = jnp.log1p(-correct) - jnp.log(classes - 1.0) + jnp.log((classes - 1) / others)  # plus 0 where all are there
    log_d = jnp.where(is_label, jnp.log(correct), jnp.where(there, even, -jnp.inf))
    return kl(log_probs(log_d / over_classes(temperature, logits)), log_probs(logits))


def centred_views_loss(
    *views: Array,
    center: Array,
    teacher_views: Count[int] = 2,
    temperature: Positive[Array | float] = 0.1,
    teacher_temperature: Positive[Array | float] = 0.04,
) -> Array:
    """Computes the mean over pairs of a teacher's and another view of -sum p log q (DINO).

    p = softmax((t_v - center) / Tt), q = softmax(s_u / Ts), u != v. `views` are the student's answers [batch, K] to all
    views, then the teacher's to the first `teacher_views` of them; center [K]. ValueError on other shapes, and where no
    pair is left; returns [batch]. Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", 2021,
    arXiv 2104.14294. No factor T^2.
    """
    what = "centred_views_loss"
    (center, *rest) = to_float(center, *views)
    students, teachers = rest[: len(rest) - teacher_views], rest[len(rest) - teacher_views :]
    shapes = {x.shape for x in rest}
    if len(shapes) != 1 or not 1 <= teacher_views <= len(students) or len(students) < 2:
        raise ValueError(
            f"{what}: expected the student's answers to two views or more, then the teacher's to the first "
            f"{teacher_views}, all [batch, K]; got {[x.shape for x in views]}"
        )
    if center.shape != students[0].shape[-1:]:
        raise ValueError(f"{what}: answers {students[0].shape} need a center {students[0].shape[-1:]}: {center.shape}")
    center = jnp.expand_dims(center, tuple(range(students[0].ndim - 1)))
    shares = [jnp.exp(log_probs(t - center, teacher_temperature)) for t in teachers]
    logs = [log_probs(s, temperature) for s in students]
    pairs = [-expected(p, q) for v, p in enumerate(shares) for u, q in enumerate(logs) if u != v]
    return jnp.mean(jnp.stack(pairs), axis=0)
