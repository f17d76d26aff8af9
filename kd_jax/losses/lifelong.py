"""Losses on the logits of some of the classes: those of one task, of all tasks so far, or of the earlier tasks."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kd_jax.losses._numerics import kl, log_probs, require_same_shape, softened, squared, to_float
from kd_jax.losses.task import pick_label, require_labels
from kd_jax.ranges import Positive

Array = jax.Array

_NEVER = -1e30  # a finite stand-in for -inf: a group without a class stays finite, in value and gradient


def rival_cross_entropy_loss(logits: Array, labels: Array, rivals: Array) -> Array:
    """Computes -log softmax(z over the classes that rival the label)[label].

    logits [batch, classes], labels int [batch] (-1 gives a finite value without meaning: mask it outside), rivals bool
    [classes, classes]: row c is True at the classes that an example of class c is told from, and at c. ValueError on
    other shapes; returns [batch]. Equal rows make one head that grows with the classes; rows of the label's task make a
    head for each task (van de Ven, Tolias, "Three scenarios for continual learning", 2019, arXiv 1904.07734).
    """
    (logits,) = to_float(logits)
    labels = require_labels("rival_cross_entropy_loss", labels, logits)
    classes = logits.shape[-1]
    if rivals.shape != (classes, classes):
        raise ValueError(f"rival_cross_entropy_loss: rivals must be bool {(classes, classes)}, got {rivals.shape}")
    allowed = jnp.asarray(rivals)[jnp.clip(labels, 0, classes - 1)]
    return -pick_label(jax.nn.log_softmax(jnp.where(allowed, logits, _NEVER), axis=-1), labels)


def grouped_kd_loss(
    student_logits: Array, teacher_logits: Array, groups: Array, *, temperature: Positive[Array | float] = 2.0
) -> Array:
    """Computes the sum over groups g of T^2 KL(softmax(t_g / T), softmax(s_g / T)), z_g the logits of the classes of g.

    Logits [batch, classes] of one shape, groups bool [groups, classes]; a group without a class counts 0. ValueError on
    other shapes; returns [batch]. With the heads of earlier tasks as groups it is the distillation of Li, Hoiem,
    "Learning without Forgetting" (LwF), 2016, arXiv 1606.09282. Theirs is the cross-entropy, with the same gradient,
    and has no T^2, which makes the weight independent of T.
    """
    s, t = to_float(student_logits, teacher_logits)
    require_same_shape("grouped_kd_loss", s, t)
    if s.ndim != 2 or groups.ndim != 2 or groups.shape[1] != s.shape[1]:
        raise ValueError(
            f"grouped_kd_loss: groups must be bool [groups, classes], got {groups.shape}, logits {s.shape}"
        )

    def log_p(z: Array) -> Array:
        scaled = softened(z, temperature)[:, None]
        return log_probs(jnp.where(groups[None], scaled, _NEVER))

    return squared(temperature, s) * jnp.sum(kl(log_p(t), log_p(s)), axis=-1)
