"""What a detector learns from another one at the same points; shapes as in losses/detection.py.

Maps of a feature pyramid are [batch, height, width, channels]; `image` [batch, height, width, ...] is what both saw, of
which only the size is read, and objects [batch, objects, 5] are (x1, y1, x2, y2, class), class -1 where there is none.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kd_jax.losses._numerics import require_maps, require_same_shape, to_float
from kd_jax.losses.dense import box_masks, focal_attention_loss, focal_feature_loss, localization_loss
from kd_jax.ranges import NotNegative, Positive

Array = jax.Array


def class_response_loss(student: Array, teacher: Array, *, beta: NotNegative[Array | float] = 1.0) -> Array:
    """Computes sum |p_s - p_t|^beta BCE(p_s, p_t) over points and classes, by the sum of the teacher's best p; sigmoid.

    Class logits [batch, points, classes] of one shape, ValueError otherwise; returns [batch]. Yang, Zhou, Li, Jin, Xu,
    "Bridging Cross-task Protocol Inconsistency for Distillation in Dense Object Detection", 2023, arXiv 2308.14286,
    where beta is 1 and the divisor the number of positive points of the batch. Here it is what the teacher takes for
    objects in the image, at least 1, so that an image without labels is learned from as well.
    """
    s, t = to_float(student, teacher)
    require_same_shape("class_response_loss", s, t)
    p, q = jax.nn.sigmoid(s), jax.nn.sigmoid(t)
    values = jnp.abs(p - q) ** beta * (jax.nn.softplus(s) - q * s)
    return values.sum((1, 2)) / jnp.maximum(q.max(-1).sum(1), 1)


def box_response_loss(
    student: Array, teacher: Array, teacher_classes: Array, *, temperature: Positive[Array | float] = 10.0
) -> Array:
    """Computes the mean over points, each weighted by the teacher's best class probability, of `localization_loss`.

    Logits over bins [batch, points, 4, bins] of student and teacher, and the teacher's class logits; returns [batch];
    ValueError on other shapes. Zheng et al., "Localization Distillation for Dense Object Detection" (LD), 2021, arXiv
    2102.12252, where the points are the positive ones, and then valuable ones around them, and the weight the student's
    own score. The teacher's score weights all points here: an image without labels has no positive ones.
    """
    s, t, classes = to_float(student, teacher, teacher_classes)
    if s.ndim != 4 or s.shape[2] != 4 or classes.shape[:2] != s.shape[:2]:
        raise ValueError(
            f"box_response_loss: sides are [batch, points, 4, bins] and classes [batch, points, classes], got "
            f"{s.shape} and {classes.shape}"
        )
    weight = jax.nn.sigmoid(classes).max(-1)
    values = localization_loss(s, t, temperature=temperature).mean(-1)
    return (weight * values).sum(1) / jnp.maximum(weight.sum(1), 1e-6)


def region_imitation_loss(
    student: Array,
    teacher: Array,
    objects: Array,
    image: Array,
    *,
    foreground: NotNegative[Array | float] = 1.0,
    background: NotNegative[Array | float] = 0.25,
) -> Array:
    """Computes a_f / (2 N_f) sum over cells in a box |s - t|^2 + a_b / (2 N_b) sum over all others.

    Maps of one shape, ValueError otherwise; N are the cells of each kind, at least 1, and |.|^2 the mean over channels;
    returns [batch]. Guo, Han, Wang, Wu, Chen, Xu, Tian, "Distilling Object Detectors via Decoupled Features" (DeFeat),
    2021, arXiv 2103.14475, who sum over channels. With background=0 it is imitation in the objects' region alone.
    """
    s, t = to_float(student, teacher)
    require_maps("region_imitation_loss", s, t)
    require_same_shape("region_imitation_loss", s, t)
    inside, _ = _masks(objects, image, t)
    there = (inside > 0).astype(s.dtype)
    apart = ((s - t) ** 2).mean(-1)
    parts = [
        scale / 2 * (apart * mask).sum((1, 2)) / jnp.maximum(mask.sum((1, 2)), 1)
        for scale, mask in ((foreground, there), (background, 1 - there))
    ]
    return parts[0] + parts[1]


def focal_region_loss(
    student: Array,
    teacher: Array,
    objects: Array,
    image: Array,
    *,
    alpha: NotNegative[Array | float] = 1e-3,
    beta: NotNegative[Array | float] = 5e-4,
    gamma: NotNegative[Array | float] = 1e-3,
    temperature: Positive[float] = 0.5,
) -> Array:
    """Computes alpha * foreground + beta * background + gamma * attention: the focal part of FGD.

    The first two are `focal_feature_loss` with the masks of `box_masks`, the third is `focal_attention_loss`. Maps of
    one shape, ValueError otherwise; returns [batch]. Yang, Li, Jiang, Gong, Yuan, Zhao, Yuan, "Focal and Global
    Knowledge Distillation for Detectors", 2021, arXiv 2111.11837, with the weights for one-stage detectors, without
    its global part, a learned relation of all cells.
    """
    s, t = to_float(student, teacher)
    require_maps("focal_region_loss", s, t)
    inside, outside = _masks(objects, image, t)
    return (
        alpha * focal_feature_loss(s, t, inside, temperature=temperature)
        + beta * focal_feature_loss(s, t, outside, temperature=temperature)
        + gamma * focal_attention_loss(s, t, temperature=temperature)
    )


def _masks(objects: Array, image: Array, like: Array) -> tuple[Array, Array]:
    size, whole = like.shape[1:3], (float(image.shape[1]), float(image.shape[2]))
    return box_masks(objects[..., :4], where=objects[..., 4] >= 0, size=size, image=whole)
