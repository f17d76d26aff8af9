"""How well masks cover each other and how near their boundaries lie, from sums that add up over a data set.

Masks are int [batch, H, W]; `counted` bool of that shape is False on pixels that have no label.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.types import Array

Sums = dict[str, tuple[Array, Array]]
STEPS = ((1, 0), (-1, 0), (0, 1), (0, -1))  # to the four neighbours of a pixel


def confusions(answers: Array, labels: Array, counted: Array, classes: int) -> Array:
    """Counts how often a pixel of a label (row) was given an answer (column), int32 [batch, classes, classes].

    Whole numbers, so that no matrix product rounds them and no order of the pixels matters.
    """
    cell = jnp.where(counted, labels * classes + answers, classes * classes)

    def count(cells: Array) -> Array:
        return jnp.zeros(classes * classes + 1, jnp.int32).at[cells].add(1)[:-1]

    return jax.vmap(count)(cell.reshape(len(cell), -1)).reshape(-1, classes, classes)


def overlap_sums(confusion: Array, counted: Array) -> Sums:
    """Returns the confusion of all images [classes, classes], and first and second moments over images.

    The moments are those of an image's intersections and, behind them, unions by class [2 classes], as shares of its
    pixels; their count is the number of images that have a label.
    """
    hits = jnp.diagonal(confusion, axis1=1, axis2=2)
    unions = confusion.sum(1) + confusion.sum(2) - hits
    shares = jnp.concatenate([hits, unions], 1).astype(jnp.float32) / math.prod(counted.shape[1:])
    moments = jnp.sum(shares[:, :, None] * shares[:, None], 0)  # no matrix product, which may run in bfloat16
    images = counted.any((1, 2)).sum()
    return {
        "pairs/confusion": (confusion.sum(0), counted.sum()),
        "moments/first": (shares.sum(0), images),
        "moments/second": (moments, images),
    }


def iou(confusion: np.ndarray) -> np.ndarray:
    """Returns intersection over union by class [classes] of counts [label, answer]; nan for a class that is neither."""
    hits, both = np.diag(confusion), confusion.sum(0) + confusion.sum(1) - np.diag(confusion)
    return np.where(both > 0, hits / np.maximum(both, 1), math.nan)


def iou_error(first: np.ndarray, second: np.ndarray, images: Any) -> float | None:
    """Returns the standard error of the mean IoU from the moments of `overlap_sums`; None for less than two images.

    By the delta method, images being the independent draws: with I and U the sums of a class and i and u an image's it
    is sqrt(n / (n - 1) sum over images of (mean over classes of (i - u I / U) / U)^2).
    """
    count, (hits, unions) = float(images), np.asarray(first, np.float64).reshape(2, -1)
    if count < 2:
        return None
    there = unions > 0
    slope = np.zeros((2, len(unions)))
    slope[0, there], slope[1, there] = 1 / unions[there], -hits[there] / unions[there] ** 2
    slope = slope.reshape(-1) / there.sum()
    return math.sqrt(max(float(slope @ second @ slope), 0.0) * count / (count - 1))


def boundary_sums(answers: Array, labels: Array, counted: Array, classes: int, tolerance: int) -> Sums:
    """Returns by class how many boundary pixels of the answers lie near one of the labels, and the reverse.

    That is {"pairs/precise": (near [classes], all [classes]), "pairs/covered": those of the labels near the answers'}.
    A pixel is near where a boundary pixel of the class lies at most `tolerance` rows and columns away.
    """
    ours, theirs = (boundaries(mask, counted, classes) for mask in (answers, labels))
    both = {"pairs/precise": (ours, dilated(theirs, tolerance)), "pairs/covered": (theirs, dilated(ours, tolerance))}
    return {name: ((edge & near).sum((0, 1, 2)), edge.sum((0, 1, 2))) for name, (edge, near) in both.items()}


def boundaries(mask: Array, counted: Array, classes: int) -> Array:
    """Returns bool [batch, H, W, classes]: pixels of a class next to a pixel of another, by rows or columns.

    What has no label is no other class, nor is what lies outside the picture.
    """
    padded, there = (jnp.pad(x, ((0, 0), (1, 1), (1, 1))) for x in (mask, counted))
    height, width = mask.shape[1:]
    edge = jnp.zeros(mask.shape, bool)
    for down, right in STEPS:
        window = (slice(None), slice(1 + down, 1 + down + height), slice(1 + right, 1 + right + width))
        edge |= there[window] & (padded[window] != mask)
    return (edge & counted)[..., None] & (mask[..., None] == jnp.arange(classes)[None, None, None])


def dilated(edges: Array, tolerance: int) -> Array:
    """Returns bool [batch, H, W, classes]: is there an edge at most `tolerance` rows and columns away?"""
    window = (1, 2 * tolerance + 1, 2 * tolerance + 1, 1)
    near = jax.lax.reduce_window(edges.astype(jnp.float32), 0.0, jax.lax.max, window, (1, 1, 1, 1), "SAME")
    return near > 0


def f_of_boundaries(precise: tuple[Any, Any], covered: tuple[Any, Any]) -> np.ndarray:
    """Returns 2 P R / (P + R) by class; P the share of the answers' boundary that is near the labels', R the reverse.

    nan for a class without any boundary, 0 for one that only one of the two has. Csurka, Larlus, Perronnin, "What is a
    good evaluation measure for semantic segmentation?" (BF), BMVC 2013. They average F over images, where P and R here
    are those of the whole split, and measure distances along straight lines, with a tolerance of 0.75 % of the
    diagonal.
    """
    (near_answers, answers), (near_labels, labels) = precise, covered
    precision, recall = (
        np.asarray(near, np.float64) / np.maximum(edge, 1)
        for near, edge in ((near_answers, answers), (near_labels, labels))
    )
    f = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return np.where(np.asarray(answers) + np.asarray(labels) > 0, f, math.nan)
