"""Pictures in a folder with a mask of the same name for each:

    train/images/NAME.jpg and train/masks/NAME.png, with test/ or validation/ beside train/
    images/NAME.jpg and masks/NAME.png, of which a share is held out
    classes.txt beside them, maybe: the names of the classes, one a line

A mask is a PNG whose pixels are numbers of classes (modes L, P, 1); 255 is no class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kd_jax.data import arrays, splits
from kd_jax.data.arrays import NO_CLASS
from kd_jax.data.images.files import SUFFIXES
from kd_jax.data.images.pictures import opened
from kd_jax.data.load import DEFAULTS
from kd_jax.data.source import DataNotFound, Splits
from kd_jax.files import path_of
from kd_jax.ranges import BELOW_ONE, NOT_NEGATIVE, check_numbers

MODES = ("L", "P", "1")
TEST_SEED = 0  # the test pictures are the same in every run
Pair = tuple[np.ndarray, np.ndarray]


def from_folder(
    path: str | Path,
    *,
    image_size: int = 0,
    channels: int = 3,
    test: float = 0.2,
    validation: float = 0.0,
    split_seed: int = 0,
    names: Sequence[str] | None = None,
    name: str = "masks",
) -> Splits:
    """Returns splits of pictures and masks in a folder, as this module says; they are held in memory.

    With `image_size` pictures are resized to that side (bilinear), masks by the nearest pixel; 0 takes them as they
    are, of one size. `channels` is 3 (RGB) or 1. `test` is the share held out where there is no test/, `validation` one
    of train. `names` are the classes, by default the lines of classes.txt, else the numbers up to the largest of train.
    DataNotFound for a missing folder; ValueError, with the file, for a picture without a mask or the reverse, a mask of
    another size or kind, a class out of range, and pictures of several sizes.
    """
    root = path_of(path, "data.directory")
    numbers = {"test": test, "validation": validation, "image_size": image_size}
    check_numbers("data", numbers, {"test": BELOW_ONE, "validation": BELOW_ONE, "image_size": NOT_NEGATIVE})
    if channels not in (1, 3):
        raise ValueError(f"data.channels={channels}: pictures have 3 (RGB) or 1 (grey)")
    if not str(path) or not root.is_dir():
        raise DataNotFound(f"{name}: there is no folder {str(path)!r} of pictures and masks (data.directory).")
    names, folders = names or _listed_classes(root), _folders(root)
    pairs = {split: _read(folder, image_size, channels) for split, folder in folders.items()}
    _check_classes(folders, pairs, names)
    if "test" not in pairs:
        x, y = pairs["train"]
        rest, held = splits.hold_out(np.zeros(len(x), np.int32), test, TEST_SEED)
        if not len(held) or not len(rest):
            raise ValueError(f"{root} has no test split: data.test={test} of {len(x)} pictures holds out {len(held)}.")
        pairs |= {"train": (x[rest], y[rest]), "test": (x[held], y[held])}
    held_out = {"validation": pairs.pop("validation", validation)}
    return arrays.from_arrays(**pairs, **held_out, names=names, split_seed=split_seed, name=name)


def _listed_classes(root: Path) -> list[str] | None:
    """Returns the lines of classes.txt, None where there is no such file."""
    path = root / "classes.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else None
    return None if lines is None else [line.strip() for line in lines if line.strip()]


def _folders(root: Path) -> dict[str, Path]:
    """Returns the folder of each split; the root alone where no folder is called after one."""
    folders = {s: root / s for s in ("train", "validation", "test") if (root / s).is_dir()} or {"train": root}
    if "train" not in folders:
        raise ValueError(f"{root} has {', '.join(folders)} and no train.")
    return folders


def folder(config: Mapping[str, Any]) -> Splits:
    """Loads the folder data.directory by `from_folder`; the share data.validation is held out by `data.load`."""
    fields = {**DEFAULTS, **config}
    taken = {key: fields[key] for key in ("image_size", "channels", "test")}
    return from_folder(fields["directory"], **taken)


def _read(folder: Path, image_size: int, channels: int) -> Pair:
    """Returns (pictures uint8 [n, H, W, channels], masks int32 [n, H, W]) in the order of their names."""
    pictures, masks = (_by_name(folder / what) for what in ("images", "masks"))
    for one, other, what in ((pictures, masks, "masks"), (masks, pictures, "images")):
        if lone := sorted({*one} - {*other}):
            raise ValueError(f"{one[lone[0]]} has no file of its name in {folder / what} ({len(lone)} of {len(one)}).")
    x, y = [], []
    for name, path in pictures.items():
        x.append(_picture(path, image_size, channels))
        y.append(_mask(masks[name], image_size))
        if y[-1].shape != x[-1].shape[:2]:
            raise ValueError(f"{masks[name]} is {y[-1].shape}, its picture {x[-1].shape[:2]}: a mask is as large.")
        if x[-1].shape != x[0].shape:
            raise ValueError(
                f"{path} is {x[-1].shape[:2]}, others are {x[0].shape[:2]}: data.image_size makes them of one size."
            )
    return np.stack(x), np.stack(y)


def _by_name(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}: pictures lie in images/, masks of the same names in masks/.")
    by_name = {p.stem: p for p in sorted(folder.iterdir()) if p.suffix.lower() in SUFFIXES}
    if not by_name:
        raise ValueError(f"{folder} holds no picture ({', '.join(SUFFIXES)}).")
    return by_name


def _picture(path: Path, size: int, channels: int) -> np.ndarray:
    image = opened(path).convert("RGB" if channels == 3 else "L")
    if size:
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image, np.uint8).reshape(image.height, image.width, channels)


def _mask(path: Path, size: int) -> np.ndarray:
    mask = opened(path)
    if mask.mode not in MODES:
        raise ValueError(f"{path} is {mask.mode}; a mask has a class's number at every pixel ({', '.join(MODES)}).")
    if size:
        mask = mask.resize((size, size), Image.Resampling.NEAREST)
    classes = np.asarray(mask).astype(np.int32)
    return np.where(classes == NO_CLASS, -1, classes)


def _check_classes(folders: Mapping[str, Path], pairs: Mapping[str, Pair], names: Sequence[str] | None) -> None:
    count = len(names) if names is not None else int(pairs["train"][1].max()) + 1
    for split, (_, masks) in pairs.items():
        wrong = np.flatnonzero((masks.reshape(len(masks), -1) >= count).any(1))
        if len(wrong):
            path = [*_by_name(folders[split] / "masks").values()][wrong[0]]
            raise ValueError(
                f"{path} has a pixel of class {masks[wrong[0]].max()}, and there are {count}, numbered from 0; "
                f"{NO_CLASS} is no class."
            )
