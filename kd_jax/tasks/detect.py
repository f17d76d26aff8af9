"""Detection: the boxes of objects and their classes, scored by the average precision of COCO."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.core.terms import masked_sum_and_count
from kd_jax.data.moved_boxes import holds_objects
from kd_jax.losses.detection import (
    assign,
    boxes_at,
    class_nll,
    distribution_loss,
    mean_of_positives,
    overlap_loss,
    overlaps,
    quality_loss,
)
from kd_jax.models.detection.nms import boxes_of, detections
from kd_jax.ranges import Count, Share
from kd_jax.tasks.average_precision import average_precision, require_evaluator
from kd_jax.tasks.common import means
from kd_jax.tasks.detect_show import show
from kd_jax.types import Array, Headline, Outputs, Run, Task, Term

ROWS = {
    "ap": ("AP (COCO, IoU .5 to .95)", "%"),
    "ap50": ("AP at IoU .5", "%"),
    "ap75": ("AP at IoU .75", "%"),
    "nll": ("NLL of the classes, an object's point", "nats"),
    "iou": ("IoU of the boxes at objects' points", "%"),
    "shared_iou": ("IoU with the teacher's boxes", "%"),
}
PICTURES = 6  # of a report
WEIGHTS = {"quality": 1.0, "giou": 2.0, "dfl": 0.25}  # of the losses, as in GFL


def task(
    source: Any = None,
    threshold: Share[float] = 0.05,
    overlap: Share[float] = 0.6,
    candidates: Count[int] = 100,
    most: Count[int] = 20,
) -> Task:
    """Returns the task of objects float32 [batch, objects, 5] (x1, y1, x2, y2 in pixels, class; class -1: none, and nan
    in all of an image's: not labelled).

    Networks answer {"classes" [batch, points, classes], "sides" [batch, points, 4, bins], "points" [batch, points, 3]}
    (kd_jax/models/detection/dense.py), or {"classes", "boxes" [batch, points, 4]}, which can teach and cannot be
    trained here. The options are those of kd_jax/models/detection/nms.py. Headline is COCO's AP, the mean over classes
    and over IoU .5, .55, ..., .95 (T.-Y. Lin et al., "Microsoft COCO", 2014, arXiv 1405.0312). Raises ValueError in one
    line where faster-coco-eval is not installed.
    """
    require_evaluator()
    options = dict(threshold=threshold, overlap=overlap, candidates=candidates, most=most)
    return Task(
        terms=terms,
        check=functools.partial(check, source=source),
        sums=sums,
        collect=functools.partial(collect, options=options),
        finish=functools.partial(finish, classes=0 if source is None else source.num_classes),
        headline=Headline("ap", +1, "%", "ap_error"),
        rows=ROWS,
        watch=watch,
        show=functools.partial(show, options=options, most=PICTURES),
        name="detect",
        predict=functools.partial(detections, **options),
        predicts=(
            f"the {most} surest objects of a picture, {{boxes [{most}, 4] (x1, y1, x2, y2), scores, classes}}, class "
            "-1 where there are fewer"
        ),
    )


def terms(source: Any) -> dict[str, Term]:
    """Returns the losses of GFL (Li et al., 2020, arXiv 2006.04388): quality, boxes (GIoU, weight 2), sides (1/4)."""
    if source is not None:
        require_objects(source)
    return {
        name: Term(LOSSES[name], ("student.logits",), ("batch.label",), weight, where="batch.labelled")
        for name, weight in WEIGHTS.items()
    }


def _on_points(fn: Any, names: tuple[str, ...], output: Any, objects: Array) -> Array:
    """A loss of the entries `names` of a detector's output; ValueError for what is no output of one."""
    if not isinstance(output, Mapping) or not {"classes", "sides", "points"} <= {*output}:
        raise ValueError(
            'a detector that is trained answers {"classes" [batch, points, classes], "sides" [batch, points, 4, bins], '
            '"points" [batch, points, 3]}'
        )
    return fn(*(output[name] for name in names), objects)


LOSSES = {
    "quality": functools.partial(_on_points, quality_loss, ("classes", "sides", "points")),
    "giou": functools.partial(_on_points, overlap_loss, ("sides", "points")),
    "dfl": functools.partial(_on_points, distribution_loss, ("sides", "points")),
}


def pseudo_label_loss(
    student: Any, teacher: Any, *, threshold: Share[float] = 0.5, overlap: Share[float] = 0.6, most: Count[int] = 20
) -> Array:
    """Computes the losses of `terms` with what the teacher is surer of than `threshold` in place of labelled objects.

    Outputs of detectors, the teacher's of any kind that the task takes; returns [batch]. Hard pseudo-labels as of Sohn,
    Zhang, Li, Zhang, Lee, Pfister, "A Simple Semi-Supervised Learning Framework for Object Detection" (STAC), 2020,
    arXiv 2005.04757, whose threshold is 0.9; there the student's pictures are augmented strongly, and here as they are.
    """
    sure = detections(teacher, threshold=threshold, overlap=overlap, most=most)
    objects = jnp.concatenate([sure["boxes"], sure["classes"][..., None].astype(jnp.float32)], axis=-1)
    values = [weight * LOSSES[name](student, objects) for name, weight in WEIGHTS.items()]
    return values[0] + values[1] + values[2]


def require_objects(source: Any) -> None:
    """Raises ValueError unless the labels of a source are objects [n, objects, 5] of its classes."""
    labels = source.labels
    if labels is None:
        return
    if not holds_objects(labels):
        raise ValueError(
            f"The labels of {source.name} are {labels.dtype} {labels.shape}, and the task takes objects, float32 "
            "[images, objects, 5]: x1, y1, x2, y2, class. kd_jax.data.boxes.with_boxes makes them of lists of boxes."
        )
    if (labels[..., 4][labels[..., 4] == labels[..., 4]] >= source.num_classes).any():
        raise ValueError(
            f"{source.name}/{source.split}: the classes of objects are 0 to {source.num_classes - 1}, and the labels "
            f"hold {np.nanmax(labels[..., 4]):g}."
        )


def check(outputs: Outputs, batch: Mapping[str, Any], source: Any = None) -> None:
    """Raises ValueError unless the output is that of a detector of these classes."""
    rows, classes = jnp.shape(batch["label"])[0], "classes" if source is None else source.num_classes
    wanted = (
        f'{{"classes" [{rows}, points, {classes}], "sides" [{rows}, points, 4, bins], "points" [{rows}, points, 3]}}'
    )
    shapes = jax.tree.map(jnp.shape, outputs.logits)
    if not isinstance(shapes, Mapping) or "classes" not in shapes or not {"boxes", "sides"} & {*shapes}:
        raise ValueError(f"its output is {shapes}; a detector answers {wanted}")
    forms = {"classes": (3, 2, classes), "sides": (4, 2, 4), "boxes": (3, 2, 4), "points": (3, 2, 3)}
    for name, (axes, axis, size) in forms.items():
        shape = shapes.get(name)
        if shape is not None and (len(shape) != axes or shape[0] != rows or size not in (shape[axis], "classes")):
            raise ValueError(f"its output {name!r} has shape {shape}; a detector of these data answers {wanted}")


def sums(run: Run, batch: Mapping[str, Array], reference: Outputs | None, key: Array) -> dict[str, Any]:
    """Returns sums over the images with labels of the NLL and the IoU at objects' points, and over all with a teacher
    of the IoU with its boxes, weighted by its best probability."""
    del key
    output = run().logits
    totals: dict[str, Any] = {}
    if "sides" in output:
        labelled = batch["mask"] & batch["labelled"]
        objects = jnp.where(labelled[:, None, None], batch["label"], 0.0)
        bins = output["sides"].shape[-1]
        nll = class_nll(output["classes"], output["points"], objects, bins=bins)
        totals["nll"] = masked_sum_and_count(nll, labelled)
        assigned = assign(objects, output["points"], bins=bins)
        there = labelled & assigned.positive.any(1)
        totals["iou"] = masked_sum_and_count(_overlap(output["sides"], output["points"], objects), there)
    other = None if reference is None else reference.logits
    if isinstance(other, Mapping) and other["classes"].shape == output["classes"].shape:
        weight = jax.nn.sigmoid(other["classes"].astype(jnp.float32)).max(-1)
        shared = (overlaps(boxes_of(output), boxes_of(other)) * weight).sum(1) / jnp.maximum(weight.sum(1), 1e-6)
        totals["shared_iou"] = masked_sum_and_count(shared, batch["mask"])
    return totals


def collect(run: Run, batch: Mapping[str, Array], key: Array, options: Mapping[str, Any]) -> dict[str, Array]:
    """Returns what is detected in each image, and its objects."""
    del key
    return {**detections(run().logits, **options), "objects": batch["label"]}


def finish(
    sums: Mapping[str, tuple[Any, Any]], collected: Mapping[str, Mapping[str, np.ndarray]], classes: int
) -> dict[str, Any]:
    """Returns the means, AP over all IoUs, at .5 and .75, and AP by class; None where no object is labelled."""
    values: dict[str, Any] = {"nll": None, "iou": None} | means(sums)
    return values | average_precision(collected["scored"], classes)


def watch(path: str, batch: str) -> dict[str, Term]:
    """Returns the IoU of the boxes at objects' points."""
    fn = functools.partial(_on_points, _overlap, ("sides", "points"))
    return {"iou": Term(fn, (path,), (f"{batch}.label",), where=f"{batch}.labelled")}


def _overlap(sides: Array, points: Array, objects: Array) -> Array:
    """The mean IoU of the predicted boxes of an image's positive points with their objects, [batch]."""
    assigned = assign(objects, points, bins=sides.shape[-1])
    return mean_of_positives(overlaps(boxes_at(sides, points), assigned.boxes), assigned.positive)
