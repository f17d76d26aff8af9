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
from kd_jax.ranges import Inside, Positive, Share

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
