"""Pictures with a class at every pixel: scenes of digits, and fluorescent nuclei under a microscope."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kd_jax.data import arrays, scenes
from kd_jax.data.folders import in_package
from kd_jax.data.load import DEFAULTS
from kd_jax.data.source import DataNotFound, Splits

SCENE, SIZE = 32, 48  # pixels of a side: of a scene, of a crop of nuclei
COUNTS = {"train": 600, "validation": 150, "test": 300}  # scenes
OBJECTS, SIDES = (1, 3), (10, 16)  # digits of a scene, and pixels of their sides
NUCLEI = ("background", "nucleus", "edge")
# Columns of the picture of nuclei that a split holds, and how many pixels its crops lie apart.
COLUMNS = {"train": (0, 320, 24), "validation": (320, 416, SIZE), "test": (416, 512, SIZE)}
_ADVICE = (
    "The picture lies in the wheel of stardist: pip install --no-deps stardist. Or data.directory names the folder of "
    "img2d.tif and mask2d.tif."
)


def digit_scenes(config: Mapping[str, Any]) -> Splits:
    """Makes 32 x 32 pictures of one to three digits with the class of every pixel: background, or a digit.

    600 of train, 150 of validation and 300 of test, which show other images of digits (kd_jax/data/scenes.py);
    `split_seed` draws the scenes. 0 is the background, digit d has the number d + 1.
    """
    seed = {**DEFAULTS, **config}["split_seed"]
    parts = {}
    for number, (split, count) in enumerate(COUNTS.items()):
        digits = scenes.digits_of(split)
        made = scenes.make(*digits, count, seed=(seed, number), size=SCENE, objects=OBJECTS, sides=SIDES)
        parts[split] = (made.images, made.masks + 1)
    return arrays.from_arrays(**parts, names=("background", *map(str, range(10))), name="digit_scenes")


def nuclei(config: Mapping[str, Any]) -> Splits:
    """Loads 48 x 48 crops of one picture of nuclei, with background, nucleus, and the edge of a nucleus as classes.

    The picture has 512 x 512 pixels and 125 nuclei (of the Data Science Bowl 2018: Caicedo et al., "Nucleus
    segmentation across imaging experiments", Nature Methods 2019); it is divided in space: the left 320 columns are
    train, in crops that overlap by half (240), then 96 columns are validation and 96 test (20 crops each, side by
    side), so scores are of few nuclei of one tissue. An edge pixel is one of a nucleus next to a pixel that is not its.
    DataNotFound where the picture is not on this machine, ValueError where it is another.
    """
    folder = in_package("nuclei", {**DEFAULTS, **config}["directory"], "stardist", "data/images", "folder", _ADVICE)
    image, instances = (_read(folder / name) for name in ("img2d.tif", "mask2d.tif"))
    if image.shape != (512, 512) or instances.shape != image.shape or image.max() > 255:
        raise ValueError(f"nuclei: {folder} holds pictures {image.shape} and {instances.shape}, expected 512 x 512")
    classes = np.where(instances == 0, 0, np.where(edges_of(instances), 2, 1)).astype(np.int32)
    parts = {split: crops(image.astype(np.uint8)[..., None], classes, *place) for split, place in COLUMNS.items()}
    return arrays.from_arrays(**parts, names=NUCLEI, name="nuclei")


def _read(path: Path) -> np.ndarray:
    if not path.is_file():
        raise DataNotFound(f"nuclei: there is no file {path}. {_ADVICE}")
    with Image.open(path) as opened:
        return np.asarray(opened)


def edges_of(instances: np.ndarray) -> np.ndarray:
    """Returns bool [H, W]: pixels of an instance with another number above, below, left or right of them."""
    padded = np.pad(instances, 1, mode="edge")
    around = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    return (instances > 0) & np.any([other != instances for other in around], axis=0)


def crops(image: np.ndarray, mask: np.ndarray, low: int, high: int, apart: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (pictures, masks) of SIZE x SIZE in the columns low..high - 1, `apart` pixels from each other."""
    rows, columns = range(0, len(image) - SIZE + 1, apart), range(low, high - SIZE + 1, apart)
    places = [(slice(r, r + SIZE), slice(c, c + SIZE)) for r in rows for c in columns]
    return np.stack([image[at] for at in places]), np.stack([mask[at] for at in places])
