"""Scenes of digits: pictures in which several handwritten digits lie at random places, with exact boxes and masks.

They are made of scikit-learn's digits, in NumPy, the same for the same seed. The splits hold scenes of different
digit images. Detection and segmentation learn from them.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from kd_jax.data import arrays, splits

COUNTS = {"train": 2000, "validation": 300, "test": 500}  # scenes
SIZE = 64  # pixels of a side
OBJECTS = (1, 5)  # digits of a scene, from .. to
SIDES = (12, 26)  # pixels of a digit's side, from .. to
INK = 64  # of 255: from this value on a pixel of a digit belongs to it
OVERLAP = 0.15  # a digit is placed where no other covers more than this share of the smaller box
TRIES = 20  # places tried for a digit, which is left out after that
HELD_OUT = 0.2  # of the digit images, for the test and, of the others, for the validation


class Scenes(NamedTuple):
    """`images` uint8 [n, H, W, 1]; `boxes` float32 [n, objects, 4] (x1, y1, x2, y2) in pixels, x2 and y2 exclusive,
    zeros where there is no object; `classes` int32 [n, objects], -1 there; `masks` int32 [n, H, W]: the class of each
    pixel, -1 of the background.
    """

    images: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    masks: np.ndarray


@functools.cache
def split(name: str, seed: int = 0, size: int = SIZE) -> Scenes:
    """Returns the scenes of "train", "validation" or "test", COUNTS[name] of them with a side of `size` pixels."""
    images, labels = digits_of(name)
    return make(images, labels, COUNTS[name], seed=(seed, [*COUNTS].index(name)), size=size)


def digits_of(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the digit images uint8 [n, 8, 8] and their classes of which the scenes of a split are made."""
    whole = arrays.digits(HELD_OUT)
    if name == "test":
        images, labels = whole.test.in_memory()
        return images[..., 0], labels
    images, labels = whole.train.in_memory()
    rest, held = splits.hold_out(labels, HELD_OUT, seed=0)
    rows = held if name == "validation" else rest
    return images[rows, ..., 0], labels[rows]


def make(
    digits: np.ndarray,
    labels: np.ndarray,
    count: int,
    *,
    seed: int | tuple[int, ...],
    size: int = SIZE,
    objects: tuple[int, int] = OBJECTS,
    sides: tuple[int, int] = SIDES,
) -> Scenes:
    """Returns `count` scenes of digits uint8 [n, h, w] with their classes int [n], drawn from `seed` alone.

    A scene has objects[0] to objects[1] digits, fewer where there was no place for one, each resized to a side of
    sides[0] to sides[1] pixels, on a background of smooth noise. A later digit lies over an earlier one. A box is that
    of the digit's pixels of at least INK, those covered by another digit among them; a mask has what is visible.
    ValueError where the largest digit does not fit into a scene.
    """
    if not 0 < sides[0] <= sides[1] <= size:
        raise ValueError(f"scenes of {size} pixels: sides={sides} of the digits go from 1 to the scene's side")
    if not 0 < objects[0] <= objects[1]:
        raise ValueError(f"scenes: objects={objects} of a scene are at least 1, the larger number last")
    rng = np.random.default_rng(seed)
    images = np.zeros((count, size, size, 1), np.uint8)
    boxes = np.zeros((count, objects[1], 4), np.float32)
    classes = np.full((count, objects[1]), -1, np.int32)
    masks = np.full((count, size, size), -1, np.int32)
    for n in range(count):
        canvas = _background(rng, size)
        placed = 0
        for _ in range(rng.integers(objects[0], objects[1] + 1)):
            which, side = rng.integers(len(digits)), rng.integers(sides[0], sides[1] + 1)
            digit = _resized(digits[which], side)
            box = _place(rng, digit, size, boxes[n, :placed])
            if box is None:
                continue
            _draw(canvas, masks[n], digit, box, rng.uniform(0.6, 1.0), int(labels[which]))
            boxes[n, placed], classes[n, placed] = box, labels[which]
            placed += 1
        images[n, ..., 0] = np.clip(np.round(canvas + rng.normal(0, 6, canvas.shape)), 0, 255)
    return Scenes(images, boxes, classes, masks)


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Returns smooth grey noise float [size, size], values of 0 to 90: a grid of 5 x 5 that is interpolated."""
    return _resized(rng.uniform(0, 90, (5, 5)), size)


def _resized(image: np.ndarray, side: int) -> np.ndarray:
    """Returns a square image [h, h] interpolated bilinearly to [side, side], float."""
    at = (np.arange(side) + 0.5) * len(image) / side - 0.5
    at = np.clip(at, 0, len(image) - 1)
    low = np.minimum(at.astype(int), len(image) - 2)
    matrix = np.zeros((side, len(image)))
    rows = np.arange(side)
    matrix[rows, low], matrix[rows, low + 1] = 1 - (at - low), at - low
    return matrix @ image.astype(np.float64) @ matrix.T


def _place(rng: np.random.Generator, digit: np.ndarray, size: int, others: np.ndarray) -> np.ndarray | None:
    """Returns a box for the ink of a digit that overlaps little with the others, or None after TRIES."""
    rows, columns = (np.flatnonzero((digit >= INK).any(axis)) for axis in (1, 0))
    height, width = rows[-1] + 1 - rows[0], columns[-1] + 1 - columns[0]
    for _ in range(TRIES):
        x, y = rng.integers(0, size - width + 1), rng.integers(0, size - height + 1)
        box = np.array([x, y, x + width, y + height], np.float32)
        shared = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
        areas = np.prod(others[:, 2:] - others[:, :2], axis=1)
        if (np.prod(np.maximum(shared, 0), axis=1) <= OVERLAP * np.minimum(areas, width * height)).all():
            return box
    return None


def _draw(
    canvas: np.ndarray, mask: np.ndarray, digit: np.ndarray, box: np.ndarray, brightness: float, label: int
) -> None:
    """Draws the ink of a digit into a canvas [H, W] and its class into a mask [H, W], in place."""
    x1, y1, x2, y2 = box.astype(int)
    rows, columns = (np.flatnonzero((digit >= INK).any(axis)) for axis in (1, 0))
    cut = digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    part, share = canvas[y1:y2, x1:x2], cut / 255
    part[:] = (1 - share) * part + share * 255 * brightness
    mask[y1:y2, x1:x2][cut >= INK] = label
