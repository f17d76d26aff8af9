"""COCO's average precision of collected detections, by the package faster-coco-eval."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Mapping
from typing import Any

import numpy as np

EVALUATOR = "faster_coco_eval"
METRICS = ("ap", "ap50", "ap75")


def require_evaluator() -> None:
    """Raises ValueError in one line where the package that computes AP is not installed."""
    if importlib.util.find_spec(EVALUATOR) is None:
        raise ValueError(
            "Detection is scored by faster-coco-eval, which is not installed: pip install faster-coco-eval"
        )


def average_precision(scored: Mapping[str, np.ndarray], classes: int) -> dict[str, Any]:
    """Returns {"ap", "ap50", "ap75", "ap_by_class"} of images that have labels; None where they hold no object.

    `scored`: "boxes" [n, most, 4], "scores" and "classes" [n, most] of detections (class -1: none), and "objects"
    [n, objects, 5] (class -1: none, nan: the image is not labelled). ValueError without faster-coco-eval.
    """
    require_evaluator()
    objects = scored["objects"]
    images = np.flatnonzero(~np.isnan(objects[..., 4]).all(1))
    truth = [
        _annotation(image, objects[image, at, :4], int(objects[image, at, 4]), {"iscrowd": 0})
        for image in images
        for at in np.flatnonzero(objects[image, :, 4] >= 0)
    ]
    if not truth:
        return dict.fromkeys((*METRICS, "ap_by_class"))
    answers = [
        _annotation(image, scored["boxes"][image, at], int(kind), {"score": float(scored["scores"][image, at])})
        for image in images
        for at, kind in enumerate(scored["classes"][image])
        if kind >= 0
    ]
    if not answers:
        return dict.fromkeys(METRICS, 0.0) | {"ap_by_class": [0.0] * classes}
    return _evaluated(truth, answers, images, classes)


def _annotation(image: int, box: np.ndarray, kind: int, more: Mapping[str, Any]) -> dict[str, Any]:
    x1, y1, x2, y2 = map(float, box)
    width, height = max(x2 - x1, 0.0), max(y2 - y1, 0.0)
    row = {"image_id": int(image), "category_id": kind, "bbox": [x1, y1, width, height], "area": width * height}
    return row | more


def _evaluated(truth: list[dict], answers: list[dict], images: np.ndarray, classes: int) -> dict[str, Any]:
    from faster_coco_eval import COCO, COCOeval_faster

    content = {
        "images": [{"id": int(image)} for image in images],
        "categories": [{"id": i, "name": str(i)} for i in range(classes)],
        "annotations": [row | {"id": number} for number, row in enumerate(truth, 1)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = COCO(content)
        evaluation = COCOeval_faster(dataset, dataset.loadRes(answers), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    # [IoU, recall, class, area, detections an image]; -1 where a class has no object
    precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]
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
