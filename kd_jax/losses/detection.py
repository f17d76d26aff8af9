"""What an anchor-free detector learns from: points are assigned to boxes, classes and sides are compared there.

A detector answers at points [batch, points, 3] (x, y, stride; in pixels): class logits [batch, points, classes], and
for each of the four sides of a box (left, top, right, bottom of the point) logits over bins, whose mean is the distance
in strides. Objects are [batch, objects, 5] (x1, y1, x2, y2, class), class -1 where there is none.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from kd_jax.losses._numerics import to_float
from kd_jax.losses.dense import box_distances, giou_loss
from kd_jax.ranges import NotNegative, Positive

Array = jax.Array


class Assigned(NamedTuple):
    """Which object each point answers for: `positive` bool [batch, points], and where it is, `boxes` [batch, points, 4]
    and `classes` int32 [batch, points]; of other points the class is -1."""

    positive: Array
    boxes: Array
    classes: Array


def assign(objects: Array, points: Array, *, bins: int, radius: Positive[float] = 1.5) -> Assigned:
    """Assigns points to objects as FCOS does: those inside a box and within `radius` strides of its centre.

    A box belongs to the points whose largest distance to its sides is at most (bins - 1) / 2 strides and more than half
    of that; the smallest stride takes all smaller boxes and the largest all larger ones. Of several boxes the smallest
    counts. objects [batch, n, 5], points [batch, points, 3]; ValueError on other shapes. Tian, Shen, Chen, He, "FCOS:
    Fully Convolutional One-Stage Object Detection", 2019, arXiv 1904.01355, with the centre sampling of its journal
    version (2006.09214); there the limits are 64, 128, ... pixels, 8 strides.
    """
    objects, points = to_float(objects, points)
    if objects.ndim != 3 or objects.shape[-1] != 5 or points.ndim != 3 or points.shape[-1] != 3:
        raise ValueError(
            f"objects are [batch, objects, 5] (x1, y1, x2, y2, class) and points [batch, points, 3] (x, y, stride), "
            f"got {objects.shape} and {points.shape}"
        )
    boxes, there = objects[..., :4], objects[..., 4] >= 0
    place, stride = points[..., None, :2], points[..., 2]
    low, high = boxes[:, None, :, :2], boxes[:, None, :, 2:]  # [batch, 1, n, 2], against [batch, points, 1, 2]
    sides = jnp.concatenate([place - low, high - place], axis=-1)
    inside = (sides.min(-1) > 0) & (jnp.abs(place - (low + high) / 2).max(-1) <= radius * stride[..., None])
    reach = (bins - 1) / 2 * stride
    smallest, largest = (edge(stride, axis=1, keepdims=True) for edge in (jnp.min, jnp.max))
    lower = jnp.where(stride == smallest, 0.0, reach / 2)[..., None]
    upper = jnp.where(stride == largest, jnp.inf, reach)[..., None]
    extent = sides.max(-1)
    fits = inside & (extent > lower) & (extent <= upper) & there[:, None]
    areas = jnp.where(fits, jnp.prod(boxes[..., 2:] - boxes[..., :2], axis=-1)[:, None], jnp.inf)
    number, positive = jnp.argmin(areas, axis=-1), fits.any(-1)
    chosen = jnp.take_along_axis(objects, number[..., None], axis=1)
    classes = jnp.where(positive, chosen[..., 4], -1).astype(jnp.int32)
    return Assigned(positive, jnp.where(positive[..., None], chosen[..., :4], 0.0), classes)


def boxes_at(sides: Array, points: Array) -> Array:
    """Returns the boxes [batch, points, 4] in pixels that logits over bins [batch, points, 4, bins] stand for."""
    points = points.astype(jnp.float32)
    distances = box_distances(sides) * points[..., 2:]
    return jnp.concatenate([points[..., :2] - distances[..., :2], points[..., :2] + distances[..., 2:]], axis=-1)


def overlaps(boxes: Array, targets: Array) -> Array:
    """Returns intersection over union of boxes [..., 4], float32 [...]; 0 of boxes without an area."""
    boxes, targets = to_float(boxes, targets)
    low, high = jnp.maximum(boxes[..., :2], targets[..., :2]), jnp.minimum(boxes[..., 2:], targets[..., 2:])
    shared = jnp.prod(jnp.maximum(high - low, 0), axis=-1)
    areas = [jnp.prod(jnp.maximum(x[..., 2:] - x[..., :2], 0), axis=-1) for x in (boxes, targets)]
    return shared / jnp.maximum(areas[0] + areas[1] - shared, 1e-6)


def mean_of_positives(values: Array, positive: Array) -> Array:
    """Returns the mean of [batch, points] over the points that are positive, [batch]; 0 where there is none."""
    return jnp.where(positive, values, 0).sum(1) / jnp.maximum(positive.sum(1), 1)


def quality_loss(
    classes: Array, sides: Array, points: Array, objects: Array, *, beta: NotNegative[Array | float] = 2.0
) -> Array:
    """Computes sum |y - p|^beta BCE(p, y) over points and classes, by the number of positive points; p = sigmoid.

    y is the IoU of the predicted box with its object, without a gradient, for the class of a positive point, and else
    0: the quality focal loss of Li et al., "Generalized Focal Loss", 2020, arXiv 2006.04388 (beta 2). Shapes as the
    module says; returns [batch]. The published sum is divided by the positives of the batch, here by the image's own.
    """
    assigned = assign(objects, points, bins=sides.shape[-1])
    quality = jax.lax.stop_gradient(overlaps(boxes_at(sides, points), assigned.boxes))
    (z,) = to_float(classes)
    hit = jax.nn.one_hot(assigned.classes, z.shape[-1], dtype=z.dtype)  # -1 is no class
    y = hit * quality[..., None]
    values = jnp.abs(y - jax.nn.sigmoid(z)) ** beta * _cross_entropy(z, y)
    return values.sum((1, 2)) / jnp.maximum(assigned.positive.sum(1), 1)


def overlap_loss(sides: Array, points: Array, objects: Array) -> Array:
    """Computes the mean over positive points of `giou_loss` of their box and their object, [batch].

    Li et al., 2020, arXiv 2006.04388, who weight each point by its score.
    """
    assigned = assign(objects, points, bins=sides.shape[-1])
    positive = assigned.positive[..., None]
    boxes = jnp.where(positive, boxes_at(sides, points), 0.0)
    return mean_of_positives(giou_loss(boxes, assigned.boxes), assigned.positive)


def distribution_loss(sides: Array, points: Array, objects: Array) -> Array:
    """Computes the mean over the sides of positive points of the cross-entropy with the two bins around the distance.

    A distance between the bins i and i + 1 has weights i + 1 - d and d - i; one beyond the last bin is the last. The
    distribution focal loss of Li et al., 2020, arXiv 2006.04388; returns [batch].
    """
    bins = sides.shape[-1]
    assigned = assign(objects, points, bins=bins)
    place, stride = points[..., :2].astype(jnp.float32), points[..., 2:].astype(jnp.float32)
    pixels = jnp.concatenate([place - assigned.boxes[..., :2], assigned.boxes[..., 2:] - place], axis=-1)
    distance = jnp.clip(pixels / stride, 0, bins - 1)
    numbers = jnp.arange(bins, dtype=jnp.float32)[None, None, None]
    weights = jnp.maximum(1 - jnp.abs(distance[..., None] - numbers), 0)
    log_p = jax.nn.log_softmax(sides.astype(jnp.float32))
    return mean_of_positives(-(weights * log_p).sum(-1).mean(-1), assigned.positive)


def class_nll(classes: Array, points: Array, objects: Array, *, bins: int) -> Array:
    """Computes the binary cross-entropy of all points and classes, by the number of positive points, [batch].

    The target is 1 for the class of a positive point and else 0: a measure, not what is trained on.
    """
    assigned = assign(objects, points, bins=bins)
    (z,) = to_float(classes)
    values = _cross_entropy(z, jax.nn.one_hot(assigned.classes, z.shape[-1], dtype=z.dtype))
    return values.sum((1, 2)) / jnp.maximum(assigned.positive.sum(1), 1)


def _cross_entropy(logits: Array, target: Array) -> Array:
    """The binary cross-entropy of sigmoid(logits), value by value."""
    return jax.nn.softplus(logits) - target * logits
