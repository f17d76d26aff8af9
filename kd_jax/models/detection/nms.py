"""From what a detector answers to boxes: the best classes of all points, and none that overlaps a better one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from kd_jax.losses.detection import boxes_at, overlaps
from kd_jax.ranges import Count, Share
from kd_jax.types import Array


def boxes_of(output: Mapping[str, Array]) -> Array:
    """Returns the box of every point or query, float32 [batch, points, 4]: decoded from "sides", or "boxes" itself."""
    if "boxes" in output:
        return output["boxes"].astype(jnp.float32)
    return boxes_at(output["sides"], output["points"])


def detections(
    output: Mapping[str, Array],
    *,
    threshold: Share[float] = 0.05,
    overlap: Share[float] = 0.6,
    candidates: Count[int] = 100,
    most: Count[int] = 20,
) -> dict[str, Any]:
    """Returns the objects of each image, the surest first: {"boxes" [batch, most, 4], "scores", "classes"}.

    Of all points and classes the `candidates` of the highest probability, of those the ones above `threshold` that
    overlap no surer one of their class by an IoU of more than `overlap`; the best `most` remain. Where there are fewer,
    scores are 0, classes -1 and boxes 0.
    """
    scores = jax.nn.sigmoid(output["classes"].astype(jnp.float32))
    rows, points, classes = scores.shape
    score, flat = jax.lax.top_k(scores.reshape(rows, -1), min(candidates, points * classes))
    kind = flat % classes
    boxes = jnp.take_along_axis(boxes_of(output), (flat // classes)[..., None], axis=1)
    remaining = jax.vmap(_survivors, in_axes=(0, 0, None))(boxes, kind, overlap) & (score > threshold)
    best, order = jax.lax.top_k(jnp.where(remaining, score, 0.0), min(most, score.shape[1]))
    there = best > 0
    chosen = jnp.take_along_axis(boxes, order[..., None], axis=1)
    return {
        "boxes": jnp.where(there[..., None], chosen, 0.0),
        "scores": best,
        "classes": jnp.where(there, jnp.take_along_axis(kind, order, axis=1), -1),
    }


def _survivors(boxes: Array, classes: Array, overlap: float) -> Array:
    """Which of the boxes [n, 4], in falling order of their scores, no surer one of their class takes away, bool [n]."""
    close = overlaps(boxes[:, None], boxes[None]) > overlap
    rivals = close & (classes[:, None] == classes[None])
    later = jnp.arange(len(boxes))

    def step(i: Array, rest: Array) -> Array:
        return rest & ~(rest[i] & rivals[i] & (later > i))

    return jax.lax.fori_loop(0, len(boxes), step, jnp.ones(len(boxes), bool))
