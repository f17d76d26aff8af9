"""What a report shows of detectors: test pictures with boxes drawn into them, and the AP of each class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from kd_jax.models.detection.nms import detections
from kd_jax.tasks.show_pictures import displayed, score_by_class
from kd_jax.types import Shown

COLOURS = {"truth": (0, 190, 90), "teacher": (70, 130, 255), "baseline": (250, 160, 30), "student": (240, 60, 90)}
SIDE = 192  # pixels of a side that small pictures are enlarged to, so that a line is thin
SURE = 0.3  # boxes are drawn from this score on
BY_CLASS = "AP of each class on the test pictures, at the last step, in percent."


def show(shown: Shown, options: Mapping[str, Any], most: int) -> list[dict[str, Any]]:
    """Returns the sections that there are numbers for."""
    several = len(shown.source.class_names) > 1
    classes = score_by_class(shown, "ap_by_class", "AP by class", BY_CLASS) if several else []
    return [*pictures(shown, options, most), *classes]


def pictures(shown: Shown, options: Mapping[str, Any], most: int) -> list[dict[str, Any]]:
    """Returns the section of test pictures: the true boxes, and those of each network, side by side."""
    images = np.asarray(shown.batch["image"])
    if not shown.outputs or not len(images):
        return []
    names, drawn, labels = [str(name) for name in shown.source.class_names], [], []
    answers = {
        role: jax.tree.map(np.asarray, detections(outputs.logits, **options)) for role, outputs in shown.outputs.items()
    }
    for i in range(min(most, shown.count, len(images))):
        objects = np.asarray(shown.batch["label"][i])
        there = objects[objects[:, 4] >= 0]
        drawn.append(draw(images[i], there[:, :4], COLOURS["truth"]))
        labels.append(f"truth: {_listed(names, there[:, 4])}")
        for role, answer in answers.items():
            sure = answer["scores"][i] >= SURE
            drawn.append(draw(images[i], answer["boxes"][i][sure], COLOURS.get(role, COLOURS["student"])))
            labels.append(f"{role}: {_listed(names, answer['classes'][i][sure])}")
    lead = f"The first test pictures: the true boxes, then those that each network is surer of than {SURE}."
    return [{"kind": "images", "title": "Boxes", "lead": lead, "images": drawn, "labels": labels}]


def draw(image: np.ndarray, boxes: np.ndarray, colour: tuple[int, int, int]) -> list:
    """Returns a picture [H, W, 1 or 3] with boxes [n, 4] drawn into it, as lists [H', W', 3] of 0..255.

    A picture that is smaller than SIDE is enlarged by a whole factor; floats are stretched to 0..255.
    """
    picture = displayed(np.asarray(image))
    factor = max(1, SIDE // max(picture.shape[:2]))
    canvas = np.repeat(np.repeat(picture, factor, 0), factor, 1)
    height, width = canvas.shape[:2]
    for box in boxes:
        x1, y1, x2, y2 = (round(float(v) * factor) for v in box)
        x1, x2 = np.clip([x1, x2 - 1], 0, width - 1)
        y1, y2 = np.clip([y1, y2 - 1], 0, height - 1)
        canvas[[y1, y2], x1 : x2 + 1] = colour
        canvas[y1 : y2 + 1, [x1, x2]] = colour
    return canvas.tolist()


def _listed(names: list[str], classes: np.ndarray) -> str:
    return ", ".join(sorted(names[int(c)] for c in classes)) or "nothing"
