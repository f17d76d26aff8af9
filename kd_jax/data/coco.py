"""Pictures with boxes in COCO's form: for each split a .json of images, annotations and categories.

    pictures/train/_annotations.coco.json, pictures/test/..., maybe valid/     with the pictures beside them
    pictures/annotations/instances_train.json, ..._test.json, maybe ..._val.json, pictures in images/ or train/, test/
    pictures/annotations.json                                                  of which a share is held out

The word train, val, valid, validation or test in a file's path says which split it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from kd_jax.data import splits
from kd_jax.data.boxes import checked, with_boxes
from kd_jax.data.images.pictures import opened
from kd_jax.data.load import DEFAULTS
from kd_jax.data.source import DataNotFound, Splits
from kd_jax.files import path_of, read_utf8

WORDS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
TEST_SEED = 0  # the test pictures are the same in every run
ROUNDING = 1.0  # pixels by which a box may leave its picture, as tools round: it is cut off there
Part = tuple[list[np.ndarray], list[Any], list[Any]]  # pictures, and of each its boxes and their classes


class Read(NamedTuple):
    """What a .json says: its images, {id of an image: its annotations}, and {id of a category: its name}."""

    path: Path
    images: list[dict[str, Any]]
    objects: dict[Any, list[dict[str, Any]]]
    categories: dict[Any, str]


def folder(config: Mapping[str, Any]) -> Splits:
    """Loads the pictures and boxes of the folder data.directory, as this module says; they are held in memory.

    With `image_size` pictures are resized to squares of that side, and their boxes with them; 0 takes them as they are,
    of one size. `channels` is 3 (RGB) or 1. `test` is the share held out where no file is of a test split; crowds
    (iscrowd) are left out. Classes are the categories of train in the order of their ids.
    DataNotFound without a folder or a .json in it; ValueError, with the names of file and picture, for a picture that
    is not there, a box outside of its picture or without an area, a category that train has not, and several sizes.
    """
    fields = {**DEFAULTS, **config}
    root = path_of(fields["directory"], "data.directory")
    if not fields["directory"] or not root.is_dir():
        raise DataNotFound(f"coco: there is no folder {fields['directory']!r} of pictures with boxes (data.directory).")
    if fields["channels"] not in (1, 3):
        raise ValueError(f"data.channels={fields['channels']}: pictures have 3 (RGB) or 1 (grey)")
    files = {split: read(path) for split, path in files_of(root).items()}
    categories = files["train"].categories
    numbers = {key: i for i, key in enumerate(sorted(categories))}
    size, channels = fields["image_size"], fields["channels"]
    parts = {split: _part(root, of_split, numbers, size, channels) for split, of_split in files.items()}
    if "test" not in parts:
        whole, count = parts["train"], len(files["train"].images)
        rest, held = splits.hold_out(np.zeros(count, np.int32), fields["test"], TEST_SEED)
        if not len(held) or not len(rest):
            raise ValueError(f"{root} has no test split: data.test={fields['test']} of {count} pictures is none.")
        parts |= {"train": _rows(whole, rest), "test": _rows(whole, held)}
    names = [categories[key] for key in sorted(categories)]
    held_out: Any = parts.get("validation", fields["validation"])
    options: dict[str, Any] = dict(names=names, name="coco", split_seed=fields["split_seed"])
    return with_boxes(train=parts["train"], test=parts["test"], validation=held_out, **options)


def files_of(root: Path) -> dict[str, Path]:
    """Returns the .json of each split; DataNotFound where there is none, ValueError where a split has several."""
    paths = sorted([*root.glob("*.json"), *root.glob("*/*.json")])
    if not paths:
        raise DataNotFound(f"coco: {root} and its folders hold no .json of images, annotations and categories.")
    if len(paths) == 1:
        return {"train": paths[0]}
    files: dict[str, Path] = {}
    for path in paths:
        name = path.relative_to(root).as_posix()
        words = [WORDS[w] for w in re.findall(r"(?<![a-z])(train|val|valid|validation|test)(?![a-z])", name.lower())]
        split = words[-1] if words else ""
        if not split or split in files:
            why = f"is of {split}, as {files[split].name} is" if split else "is of none of train, val and test"
            raise ValueError(f"coco: {path} {why}: leave one .json a split in {root}.")
        files[split] = path
    if "train" not in files:
        raise ValueError(f"coco: {root} has a .json for {', '.join(files)} and none for train.")
    return files


def read(path: Path) -> Read:
    """Reads a .json of COCO's form; ValueError for another."""
    try:
        content = json.loads(read_utf8(path))
        images, categories = list(content["images"]), {c["id"]: str(c["name"]) for c in content["categories"]}
        objects: dict[Any, list[dict[str, Any]]] = {image["id"]: [] for image in images}
        for one in content["annotations"]:
            if one["image_id"] not in objects:
                raise ValueError(f"an annotation is of image {one['image_id']}, which is not listed")
            if not one.get("iscrowd", 0):
                objects[one["image_id"]].append({"bbox": one["bbox"], "category_id": one["category_id"]})
        for image in images:
            str(image["file_name"])
    except KeyError as e:
        raise ValueError(f"{path} is not of COCO's form: something in it has no {e}.") from e
    except (json.JSONDecodeError, TypeError, ValueError) as e:
        raise ValueError(f"{path} is not of COCO's form, images, annotations and categories: {e}.") from e
    if not images or not categories:
        raise ValueError(f"{path} lists {len(images)} images and {len(categories)} categories.")
    return Read(path, images, objects, categories)


def _part(root: Path, of_split: Read, numbers: Mapping[Any, int], size: int, channels: int) -> Part:
    """The pictures of a split, their boxes and classes, in the order of the file."""
    images, boxes, classes = [], [], []
    for image in of_split.images:
        where = f"{of_split.path.name}: {image['file_name']}"
        picture = opened(_place(root, of_split.path, image["file_name"]))
        objects = of_split.objects[image["id"]]
        if strange := [o["category_id"] for o in objects if o["category_id"] not in numbers]:
            raise ValueError(f"{where} has an object of category {strange[0]}; those of train are {sorted(numbers)}.")
        height, width = picture.height, picture.width
        corners = _corners(where, objects, width, height)
        rows = checked(where, corners, [numbers[o["category_id"]] for o in objects], (height, width), len(numbers))
        picture = picture.convert("RGB" if channels == 3 else "L")
        if size:
            picture = picture.resize((size, size), Image.Resampling.BILINEAR)
            rows[:, :4] *= np.array([size / width, size / height] * 2, np.float32)
        images.append(np.asarray(picture, np.uint8).reshape(picture.height, picture.width, channels))
        if images[-1].shape != images[0].shape:
            raise ValueError(
                f"{where} is {width} x {height} pixels, the first picture {images[0].shape[1]} x {images[0].shape[0]}: "
                "data.image_size makes them of one size."
            )
        boxes.append(rows[:, :4].tolist())
        classes.append(rows[:, 4].astype(int).tolist())
    return images, boxes, classes


def _corners(where: str, objects: Sequence[Mapping[str, Any]], width: int, height: int) -> np.ndarray:
    """Boxes [n, 4] as x1, y1, x2, y2, of x, y, width, height; what rounding let leave the picture is cut off."""
    try:
        sides = np.array([o["bbox"] for o in objects], np.float64).reshape(len(objects), 4)
    except (TypeError, ValueError) as e:
        raise ValueError(f"{where}: a box is four numbers, x, y, width, height: {e}.") from e
    corners = np.concatenate([sides[:, :2], sides[:, :2] + sides[:, 2:]], axis=1)
    inside = np.clip(corners, 0, [width, height] * 2)
    return np.where(np.abs(corners - inside) <= ROUNDING, inside, corners)


def _place(root: Path, path: Path, name: str) -> Path:
    """Where a picture lies: beside its .json, in the folder, in images/, or in the folder that the .json names."""
    folders = [path.parent, root, root / "images", root / path.stem, root / path.stem.removeprefix("instances_")]
    for place in folders:
        if (place / name).is_file():
            return place / name
    raise ValueError(f"{path.name}: there is no picture {name} in {', '.join(map(str, folders[:3]))}.")


def _rows(part: Part, rows: np.ndarray) -> Part:
    images, boxes, classes = ([values[i] for i in rows] for values in part)
    return images, boxes, classes
