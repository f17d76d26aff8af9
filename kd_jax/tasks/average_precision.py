"""COCO's average precision of collected detections, by the package faster-coco-eval."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

EVALUATOR = "faster_coco_eval"
METRICS = ("ap", "ap50", "ap75")
MOST = 100  # detections of an image and a class that count, as of COCO
GROUPS = 10  # of images, for the standard error


def require_evaluator() -> None:
    """Raises ValueError in one line where the package that computes AP is not installed."""
    if importlib.util.find_spec(EVALUATOR) is None:
        raise ValueError(
            "Detection is scored by faster-coco-eval, which is not installed: pip install faster-coco-eval"
        )


def average_precision(scored: Mapping[str, np.ndarray], classes: int) -> dict[str, Any]:
    """Returns {"ap", "ap_error", "ap50", "ap75", "ap_by_class"} of images with labels; None where they hold no object.

    `scored`: "boxes" [n, most, 4], "scores" and "classes" [n, most] of detections (class -1: none), and "objects"
    [n, objects, 5] (class -1: none, nan: the image is not labelled). The standard error is the jackknife's over GROUPS
    groups of images, each left out in turn (Efron, Stein, "The Jackknife Estimate of Variance", 1981); None of fewer
    images. ValueError without faster-coco-eval.
    """
    require_evaluator()
    images = np.flatnonzero(~np.isnan(scored["objects"][..., 4]).all(1))
    truth, answers = _true_boxes(scored["objects"], images), _answered(scored, images)
    values = _evaluated(truth, answers, images.tolist(), classes)
    error = None
    if values["ap"] is not None and len(images) >= GROUPS:
        left = []
        for i in range(GROUPS):
            rest = {*images.tolist()} - {*images[i::GROUPS].tolist()}
            objects, detected = ([row for row in rows if row["image_id"] in rest] for rows in (truth, answers))
            left.append(_evaluated(objects, detected, sorted(rest), classes)["ap"])
        aps = np.array([ap for ap in left if ap is not None])
        error = float(np.sqrt((len(aps) - 1) / len(aps) * ((aps - aps.mean()) ** 2).sum()))
    return values | {"ap_error": error}


def _true_boxes(objects: np.ndarray, images: np.ndarray) -> list[dict[str, Any]]:
    """The objects as COCO writes them: a box is (x1, y1, width, height)."""
    rows = []
    for image in images.tolist():
        for x1, y1, x2, y2, kind in objects[image][objects[image, :, 4] >= 0].tolist():
            box, area = [x1, y1, x2 - x1, y2 - y1], (x2 - x1) * (y2 - y1)
            number = len(rows) + 1
            row = {"id": number, "image_id": image, "category_id": int(kind), "bbox": box, "area": area, "iscrowd": 0}
            rows.append(row)
    return rows


def _answered(scored: Mapping[str, np.ndarray], images: np.ndarray) -> list[dict[str, Any]]:
    """The detections as COCO writes them."""
    rows = []
    for image in images.tolist():
        lists = (scored[name][image].tolist() for name in ("boxes", "scores", "classes"))
        for (x1, y1, x2, y2), score, kind in zip(*lists, strict=True):
            if kind >= 0:
                box = [x1, y1, max(x2 - x1, 0.0), max(y2 - y1, 0.0)]
                rows.append({"image_id": image, "category_id": kind, "bbox": box, "score": score})
    return rows


def _evaluated(truth: list[dict], answers: list[dict], images: Iterable[int], classes: int) -> dict[str, Any]:
    """The metrics of some images; of no object there is none, and of no answer they are 0."""
    if not truth:
        return dict.fromkeys((*METRICS, "ap_by_class"))
    if not answers:
        return dict.fromkeys(METRICS, 0.0) | {"ap_by_class": [0.0] * classes}
    from faster_coco_eval import COCO, COCOeval_faster

    content = {
        "images": [{"id": image} for image in images],
        "categories": [{"id": i, "name": str(i)} for i in range(classes)],
        "annotations": truth,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = COCO(content)
        evaluation = COCOeval_faster(dataset, dataset.loadRes([dict(row) for row in answers]), "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]  # of any size alone
        evaluation.params.maxDets = [MOST]
        evaluation.evaluate()
        evaluation.accumulate()
    # [IoU, recall, class, area, detections an image]; -1 where a class has no object
    precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, 0]
    by_class = [_mean(precision[:, :, i]) for i in range(precision.shape[2])]
    return {
        "ap": _mean(precision),
        "ap50": _mean(precision[0]),
        "ap75": _mean(precision[5]),
        "ap_by_class": by_class,
    }


def _mean(precision: np.ndarray) -> float | None:
    there = precision[precision > -1]
    return float(there.mean()) if len(there) else None
