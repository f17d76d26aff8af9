"""Distillation from the class that the teacher predicts instead of its probabilities."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kd_jax.losses._numerics import require_same_shape, to_float
from kd_jax.losses.needs import by_token
from kd_jax.losses.task import cross_entropy_loss
from kd_jax.ranges import BelowOne

Array = jax.Array


@by_token
def hard_label_loss(student_logits: Array, teacher_logits: Array, *, smoothing: BelowOne[Array | float] = 0.0) -> Array:
    """Computes -log softmax(s)[argmax t], with label smoothing where `smoothing` > 0.

    Logits [..., classes] of one shape, ValueError otherwise; returns [...]. Ties go to the lowest class. Touvron, Cord,
    Douze, Massa, Sablayrolles, Jegou, "Training data-efficient image transformers & distillation through attention"
    (DeiT), 2020, arXiv 2012.12877.
    """
    s, t = to_float(student_logits, teacher_logits)
    require_same_shape("hard_label_loss", s, t)
    return cross_entropy_loss(s, jnp.argmax(t, axis=-1), smoothing=smoothing)
