"""Segmentation: the class of every pixel, by softmax; scored by overlap, by boundaries and by pixels."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.losses.task import cross_entropy_loss
from kd_jax.ranges import Count
from kd_jax.tasks.common import frequencies, means
from kd_jax.tasks.logits import calibration_error, class_sums, class_values, watch
from kd_jax.tasks.segment_overlap import boundary_sums, confusions, f_of_boundaries, iou, iou_error, overlap_sums
from kd_jax.tasks.segment_show import show
from kd_jax.types import Array, Headline, Outputs, Run, Task, Term

ROWS = {
    "miou": ("mean IoU of the classes", "%"),
    "boundary_f": ("boundary F1, mean of classes", "%"),
    "accuracy": ("pixels that are right", "%"),
    "nll": ("NLL a pixel", ""),
    "ece": ("calibration error (ECE)", "%"),
    "agreement": ("agrees with teacher", "%"),
    "kl": ("KL from teacher, a pixel", ""),
}


def task(source: Any = None, tolerance: Count[int] = 1) -> Task:
    """Returns the task of masks int [batch, H, W], -1 = ignored; networks answer [batch, H, W, classes].

    The logits are as large as the mask: a network that works at a stride resizes them itself, as those of
    models.vision.vit_decoder do. Headline is the mean over classes of intersection over union, from the confusion of
    the whole split; classes that are neither a label nor an answer are left out. `tolerance` is in pixels, of
    boundary_f (tasks/segment_overlap.py). The loss is cross-entropy, averaged over the pixels of the batch that have a
    label.
    """
    return Task(
        terms=terms,
        check=functools.partial(check, source=source),
        sums=functools.partial(sums, tolerance=tolerance),
        finish=finish,
        headline=Headline("miou", +1, "%", "miou_error"),
        chance=chance,
        rows=ROWS,
        watch=watch,
        show=show,
        name="segment",
        predict=mask_of,
        predicts="the number of the class of every pixel, [H, W]",
    )


def mask_of(logits: Array) -> Array:
    """Returns the number of the likeliest class of every pixel, int32 [batch, H, W]."""
    return jnp.argmax(logits, -1).astype(jnp.int32)


def chance(labels: np.ndarray) -> float:
    """Returns the mean IoU of always answering the commonest class of the masks; nan where there is none."""
    shares = frequencies(labels)
    return float(shares.max() / len(shares)) if len(shares) else math.nan


def terms(source: Any) -> dict[str, Term]:
    """Returns the cross-entropy of the pixels of a batch that have a label; ValueError where there are no masks."""
    if source is not None and not source.per_pixel:
        labels = source.labels
        what = "not in memory" if labels is None else f"{labels.dtype} {labels.shape}"
        height, width, *_ = (*source.image_shape, "?")
        raise ValueError(
            f"The labels of {source.name} are {what}, and the task takes masks: integers [examples, {height}, {width}],"
            f" as large as the images {source.image_shape}, -1 where a pixel has no class."
        )
    return {"ce": Term(pixel_cross_entropy, ("student.logits",), ("batch.target",), where="batch.labelled")}


def pixel_cross_entropy(logits: Array, masks: Array) -> Array:
    """Computes -log softmax(logits)[class] of every pixel, [batch, H, W]; ValueError for logits of another size."""
    _require_size(jnp.shape(logits), jnp.shape(masks))
    return cross_entropy_loss(logits, masks)


def check(outputs: Outputs, batch: Mapping[str, Any], source: Any = None) -> None:
    """Raises ValueError unless the output is [batch, H, W, classes] for masks [batch, H, W]."""
    shape, size = jax.tree.map(jnp.shape, outputs.logits), jnp.shape(batch["label"])
    classes = source.num_classes if source is not None else shape[-1]
    _require_size(shape, size)
    if shape != (*size, classes):
        raise ValueError(f"it answers with {shape}; on this data it is [batch, H, W, classes], {(*size, classes)}")


def _require_size(shape: Any, size: tuple[int, ...]) -> None:
    if isinstance(shape, tuple) and len(shape) == 4 and shape[1:3] != size[1:]:
        raise ValueError(
            f"it answers {shape[1]} x {shape[2]} pixels to a mask of {size[1]} x {size[2]}: a network that works at a "
            "stride ends in jax.image.resize(logits, ..., 'bilinear')"
        )


def sums(run: Run, batch: Mapping[str, Array], reference: Outputs | None, key: Array, tolerance: int) -> dict[str, Any]:
    """Returns sums over the pixels that have a label; those of the comparison with the reference over all pixels."""
    outputs, labels = run(), batch["label"]
    everywhere = jnp.broadcast_to(batch["mask"][:, None, None], labels.shape)
    counted = everywhere & (labels >= 0)
    values, answers = class_values(outputs, labels, reference), mask_of(outputs.logits)
    classes = outputs.logits.shape[-1]
    totals = class_sums(values, labels, counted, everywhere)
    totals |= overlap_sums(confusions(answers, labels, counted, classes), counted)
    return totals | boundary_sums(answers, labels, counted, classes, tolerance)


def finish(sums: Mapping[str, tuple[Any, Any]], collected: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the means over pixels, the IoU and the boundary F1 by class and their means, and the error of the mIoU.

    Images are the independent draws of that error (tasks/segment_overlap.py).
    """
    values: dict[str, Any] = {**dict.fromkeys(("miou", "miou_error", "boundary_f", "ece")), **means(sums)}
    confusion, pixels = sums["pairs/confusion"]
    if not pixels:
        return values
    by_class, boundary = iou(confusion), f_of_boundaries(sums["pairs/precise"], sums["pairs/covered"])
    values |= {"miou": _mean(by_class), "boundary_f": _mean(boundary), "ece": calibration_error(sums)}
    values |= {"iou_by_class": _listed(by_class), "boundary_f_by_class": _listed(boundary)}
    values["miou_error"] = iou_error(sums["moments/first"][0], *sums["moments/second"])
    return values


def _mean(by_class: np.ndarray) -> float | None:
    there = by_class[~np.isnan(by_class)]
    return float(there.mean()) if len(there) else None


def _listed(by_class: np.ndarray) -> list[float | None]:
    return [None if math.isnan(value) else float(value) for value in by_class]
