"""Pictures with boxes as data: checked, padded to one number of objects, and as the splits of a run.

An example's label is float32 [objects, 5] (x1, y1, x2, y2 in pixels, class): class -1 where there is no object, and nan
in all of it where the picture is not labelled. A picture without objects is labelled: all of its classes are -1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kd_jax.data import arrays, scenes
from kd_jax.data.load import DEFAULTS
from kd_jax.data.source import Splits

Pictures = tuple[Any, Sequence[Any], Sequence[Any]]  # images, and for each its boxes [n, 4] and their classes [n]


def digit_scenes(config: Mapping[str, Any]) -> Splits:
    """Loads scenes of several digits (kd_jax/data/scenes.py): 2000 to train on, 300 to validate, 500 to test.

    uint8 [n, side, side, 1] of `image_size` pixels, 64 where that is 0; `split_seed` draws the scenes.
    """
    fields = {**DEFAULTS, **config}
    size = fields["image_size"] or scenes.SIZE
    parts = {name: scenes.split(name, fields["split_seed"], size) for name in scenes.COUNTS}
    pairs = {name: (part.images, objects_of(part.boxes, part.classes)) for name, part in parts.items()}
    return arrays.from_arrays(**pairs, names=tuple(map(str, range(10))), name="digit_scenes")


def with_boxes(
    *,
    train: Pictures,
    test: Pictures,
    validation: Pictures | float = 0.0,
    names: Sequence[str],
    name: str = "boxes",
    split_seed: int = 0,
) -> Splits:
    """Returns splits of (images, boxes, classes): images [n, H, W, C] uint8 or float, all of one size; for each image
    its boxes [objects, 4] (x1, y1, x2, y2 in pixels) and their classes [objects], numbers of `names`.

    None in place of an image's boxes: it is not labelled; an empty list: it holds no object. `validation` is another
    such triple, or the fraction of train to hold out. Raises ValueError in one line for images of several sizes, for
    boxes that leave the picture or have no area, for unknown classes, and where no training image has a box.
    """
    parts = {"train": train, "test": test}
    parts |= {} if isinstance(validation, (int, float)) else {"validation": validation}
    for split, part in parts.items():
        if not isinstance(part, (tuple, list)) or len(part) != 3:
            raise ValueError(f"{name}/{split} is (images, boxes, classes), not a {type(part).__name__}")
    most = max((len(b) for part in parts.values() for b in part[1] if b is not None), default=0)
    if not any(b is not None and len(b) for b in train[1]):
        raise ValueError(f"{name}/train: no image has a box, so there is nothing to learn from")
    pairs: dict[str, Any] = {
        split: _labelled(f"{name}/{split}", part, most, len(names)) for split, part in parts.items()
    }
    held = pairs.pop("validation", validation)
    return arrays.from_arrays(**pairs, validation=held, names=tuple(names), name=name, split_seed=split_seed)


def objects_of(boxes: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Returns labels float32 [n, objects, 5] of padded boxes [n, objects, 4] and classes [n, objects], -1 none."""
    return np.concatenate([boxes, classes[..., None]], axis=-1).astype(np.float32)


def _labelled(where: str, part: Pictures, most: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The images as one array, and their labels [n, most, 5]."""
    images, boxes, kinds = part
    images = _one_array(where, images)
    if not len(images) == len(boxes) == len(kinds):
        raise ValueError(f"{where}: {len(images)} images, {len(boxes)} lists of boxes and {len(kinds)} of classes")
    labels = np.zeros((len(images), most, 5), np.float32)
    labels[..., 4] = -1
    for i, (of_image, of_boxes) in enumerate(zip(boxes, kinds, strict=True)):
        if of_image is None:
            labels[i] = np.nan
            continue
        rows = checked(f"{where}: image {i}", of_image, of_boxes, images.shape[1:3], classes)
        labels[i, : len(rows)] = rows
    return images, labels


def _one_array(where: str, images: Any) -> np.ndarray:
    sizes = {np.shape(image) for image in images}
    if len(sizes) > 1:
        one, other = sorted(sizes)[:2]
        raise ValueError(f"{where}: images of several sizes, {one} and {other}; resize them, and their boxes, to one")
    return np.asarray(images)


def checked(where: str, boxes: Any, classes: Any, size: tuple[int, int], number: int) -> np.ndarray:
    """Returns objects float32 [n, 5] of the boxes [n, 4] and classes [n] of one picture of `size` (height, width).

    Raises ValueError that begins with `where` for a box outside the picture or without an area, and a class that is
    none of 0 .. number - 1.
    """
    rows, kinds = np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(classes, np.int64).reshape(-1)
    if len(rows) != len(kinds):
        raise ValueError(f"{where} has {len(rows)} boxes and {len(kinds)} classes")
    height, width = size
    for row, kind in zip(rows, kinds, strict=True):
        shown = "({:g}, {:g}, {:g}, {:g})".format(*row)
        x1, y1, x2, y2 = row
        if not np.isfinite(row).all() or x2 <= x1 or y2 <= y1:
            raise ValueError(f"{where} has the box {shown}; a box is (x1, y1, x2, y2) with x1 < x2 and y1 < y2")
        if x1 < 0 or y1 < 0 or x2 > width or y2 > height:
            raise ValueError(f"{where} has the box {shown}, outside of its {width} x {height} pixels (width, height)")
        if not 0 <= kind < number:
            raise ValueError(f"{where} has an object of class {kind}; the classes are 0 to {number - 1}")
    return np.concatenate([rows, kinds[:, None]], axis=1).astype(np.float32)
