"""Crowns of trees in aerial pictures, as tiles with boxes; the splits are different strips of the ground."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kd_jax.data.boxes import with_boxes
from kd_jax.data.folders import in_package
from kd_jax.data.load import DEFAULTS
from kd_jax.data.source import Splits

PICTURES = ("2019_YELL_2_528000_4978000_image_crop2", "2019_YELL_2_541000_4977000_image_crop", "OSBS_029", "SOAP_061")
TILE = 128  # pixels of a tile's side in the aerial picture, 10 cm each
SIZE = 64  # pixels that it is resized to
TEST, VALIDATION = 0.25, 0.15  # of the columns of a picture: the last ones, and those before them
VISIBLE = 0.5  # share of a crown that must lie in a tile
_ADVICE = (
    "The pictures lie in the wheel of deepforest: pip install --no-deps deepforest. Or data.directory names the folder "
    "with its pictures (.png) and boxes (.xml)."
)
Tiles = tuple[list[np.ndarray], list[list[tuple[float, ...]]], list[list[int]]]


def crowns(config: Mapping[str, Any]) -> Splits:
    """Loads 951 crowns of trees, drawn by hand into four aerial pictures (Weinstein, Marconi, Bohlman, Zare, White,
    "Individual Tree-Crown Detection in RGB Imagery Using Semi-Supervised Deep Learning Neural Networks", 2019).

    uint8 [n, side, side, 3] of `image_size` pixels, 64 where that is 0: tiles of 128 x 128 pixels that do not overlap.
    Of each picture the last quarter of the columns of tiles is test, 15 % before it validation. DataNotFound where the
    files are not on this machine, ValueError where one is of another form.
    """
    fields = {**DEFAULTS, **config}
    folder = in_package("crowns", fields["directory"], "deepforest", "data", "folder", _ADVICE)
    size = fields["image_size"] or SIZE
    parts: dict[str, Tiles] = {name: ([], [], []) for name in ("train", "validation", "test")}
    for name in PICTURES:
        picture, boxes = read(folder / f"{name}.xml")
        columns = picture.shape[1] // TILE
        for row in range(picture.shape[0] // TILE):
            for column in range(columns):
                add_tile(parts[split_of(column, columns)], picture, boxes, row * TILE, column * TILE, size)
    return with_boxes(**parts, names=("tree",), name="crowns")


def split_of(column: int, columns: int) -> str:
    """Returns the split of a column of tiles."""
    last, before = round(columns * (1 - TEST)), round(columns * (1 - TEST - VALIDATION))
    return "test" if column >= last else "validation" if column >= before else "train"


def add_tile(part: Tiles, picture: np.ndarray, boxes: np.ndarray, top: int, left: int, size: int) -> None:
    """Appends the tile at (top, left), resized, and the boxes of which the share VISIBLE lies in it."""
    tile = Image.fromarray(picture[top : top + TILE, left : left + TILE])
    moved = boxes - np.array([left, top, left, top])
    inside = np.clip(moved, 0, TILE)
    areas = [np.prod(x[:, 2:] - x[:, :2], axis=1) for x in (inside, moved)]
    rows = inside[(areas[0] > 0) & (areas[0] >= VISIBLE * areas[1])] * (size / TILE)
    images, lists, classes = part
    images.append(np.asarray(tile.resize((size, size), Image.Resampling.BILINEAR)))
    lists.append([tuple(row) for row in rows.tolist()])
    classes.append([0] * len(rows))


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns the picture beside an .xml file of PASCAL VOC's form, uint8 [H, W, 3], and its boxes [n, 4].

    ValueError for a file of another form.
    """
    try:
        root = ElementTree.parse(path).getroot()
        corners = ("xmin", "ymin", "xmax", "ymax")
        boxes = [[float(str(one.findtext(f"bndbox/{name}"))) for name in corners] for one in root.iter("object")]
        with Image.open(path.with_suffix(".png")) as opened:
            picture = np.asarray(opened.convert("RGB"))
    except (ElementTree.ParseError, ValueError, OSError) as e:
        raise ValueError(f"crowns: {path} and its picture are not those of deepforest: {e}") from e
    return picture, np.array(boxes, np.float64).reshape(-1, 4)
