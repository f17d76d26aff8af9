"""A test image with the probabilities of teacher and student: what the teacher knows that the label does not say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from kd_jax.report.labels import legend_above
from kd_jax.report.style import LIGHT
from kd_jax.report.verdict import number


def top_classes(example: Mapping[str, Any], count: int = 5) -> list[int]:
    """Returns the classes that the teacher finds most likely; a label is always among them."""
    soft = np.array(example["teacher_soft"], np.float64)
    best = np.argsort(-soft)[:count].tolist()
    label = int(example["label"])
    return best if label in best or label < 0 else [*best[:-1], label]


def class_name(names: Sequence[str], index: int) -> str:
    if index < 0:
        return "none"
    return names[index] if index < len(names) else f"class {index}"


def image_array(example: Mapping[str, Any]) -> np.ndarray | None:
    """Returns the picture of an example, uint8 [height, width, 3], or None if it has none."""
    if example.get("image") is None:
        return None
    image = np.asarray(example["image"], np.uint8)
    image = image[..., None] if image.ndim == 2 else image
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image[..., :3]


def draw_example(left: Axes, right: Axes, example: Mapping[str, Any], names: Sequence[str]) -> None:
    image = image_array(example)
    if image is not None:
        left.imshow(image, interpolation="nearest")
    left.set_axis_off()
    left.set_title(class_name(names, int(example["label"])))
    shown = top_classes(example)
    places = np.arange(len(shown))
    for role, shift in (("teacher", -0.19), ("student", 0.19)):
        soft = example.get(f"{role}_soft")
        if soft is not None:
            heights = [100 * soft[i] for i in shown]
            right.barh(places + shift, heights, 0.34, color=LIGHT[role], label=role)
    right.set_yticks(places, [class_name(names, i) for i in shown])
    right.invert_yaxis()
    temperature = number(example, "temperature")
    softness = "" if temperature is None else f" at temperature {temperature:g}"
    right.set_xlabel(f"probability{softness} (%)")
    legend_above(right)
