"""Pictures in files: folders of classes, or a CSV or JSONL file of paths and labels.

    train/CLASS/*.jpg with test/ or validation/ beside train/, and maybe unlabelled/, whose pictures join train
    CLASS/*.jpg, of which a share is held out
    labels.csv or labels.jsonl with path and label, and maybe split and further columns: kd_jax/data/images/listed.py

Classes are numbered in the order of their names, pictures in that of class and path, as torchvision's ImageFolder does.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from kd_jax.data import arrays
from kd_jax.data.images import listed
from kd_jax.data.images.encoded import SHOWN, Encoded, Options, splits_of, stamp_of
from kd_jax.data.images.files import SPLITS, SUFFIXES, of_files
from kd_jax.data.source import DataNotFound, Splits
from kd_jax.files import path_of
from kd_jax.ranges import BELOW_ONE, NOT_NEGATIVE, check_numbers
from kd_jax.resolve import near


def from_folder(
    path: str | Path,
    *,
    image_size: int = 0,
    crop: str = "random",
    channels: int = 3,
    test: float = 0.2,
    validation: float = 0.0,
    on_error: str = "raise",
    names: Sequence[str] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    split_seed: int = 0,
    name: str = "folder",
) -> Splits:
    """Returns splits of pictures in a folder of classes, or of those that a CSV or JSONL file lists.

    `image_size` = 0 takes pictures of one size as they are; else `crop` makes [size, size, channels] of them: "random"
    (in training a random part, resized; the centre in evaluation), "centre" or "whole". `channels` is 3 (RGB) or 1.
    `test` is held out where there are neither test nor validation pictures, `validation` out of train. `names` are the
    classes in the order of a teacher's outputs. `on_error="skip"` decodes every picture once, leaves out those that are
    broken and says how many. `mean` and `std` are of pixels / 255; by default they are measured on train, and
    ImageNet's where pictures are streamed. Raises DataNotFound for a missing folder, and ValueError for a class without
    pictures, an unknown class, pictures of several sizes without `image_size`, and a broken picture, by its path.
    """
    numbers = {"test": test, "validation": validation, "image_size": image_size}
    check_numbers("data", numbers, {"test": BELOW_ONE, "validation": BELOW_ONE, "image_size": NOT_NEGATIVE})
    options = Options(image_size, crop, channels, on_error)
    root = path_of(path, "data.directory")
    if not str(path):
        raise ValueError("data.name='folder' needs data.directory: a folder of classes, or a .csv or .jsonl of paths.")
    if not root.exists():
        raise DataNotFound(f"There is no folder of pictures and no .csv or .jsonl file {str(root)!r} (data.directory).")
    if root.is_file():
        encoded, class_names, root = listed.read(root, names, on_error)
    else:
        encoded, class_names = _scanned(root, names)
    stamp = functools.partial(_stamp, root, encoded)
    whole = splits_of(name, encoded, class_names, options, test=test, stamp=stamp, mean=mean, std=std)
    return arrays.held_out(whole, validation, split_seed)


def load(fields: SimpleNamespace) -> Splits:
    """Loads data.name="folder" from data.directory; `data.load` holds out the validation split."""
    taken = {key: getattr(fields, key) for key in ("image_size", "crop", "channels", "test", "on_error")}
    return from_folder(fields.directory, **taken)


def _stamp(root: Path, encoded: Mapping[str, Encoded]) -> str:
    places = (one.records.place(int(number)) for one in encoded.values() for number in one.numbers)
    return stamp_of([Path(place) for place in places], root)


def _scanned(root: Path, names: Sequence[str] | None) -> tuple[dict[str, Encoded], list[str]]:
    """The pictures of a folder by split, and the names of the classes."""
    parts = _parts(root)
    unlabelled = parts.pop("unlabelled", None)
    classes = {split: _classes(part) for split, part in parts.items()}
    _check_train(root, parts["train"], classes["train"])
    class_names = list(classes["train"] if names is None else names)
    number = {name: i for i, name in enumerate(class_names)}
    encoded = {}
    for split, paths_of in classes.items():
        _check_classes(parts[split], paths_of, class_names, "train" if names is None else "`names`")
        listing = [(path, number[c]) for c, paths in paths_of.items() for path in paths]
        if split == "train" and unlabelled:
            listing += [(path, -1) for path in _pictures(unlabelled)]
        if not listing:
            raise ValueError(f"{parts[split]} holds no picture ({', '.join(SUFFIXES)}).")
        encoded[split] = of_files(root, [path for path, _ in listing], np.array([c for _, c in listing], np.int32))
    return encoded, class_names


def _check_classes(part: Path, classes: Iterable[str], class_names: Sequence[str], reference: str) -> None:
    if unknown := [name for name in classes if name not in class_names]:
        raise ValueError(f"{part} has a class {unknown[0]!r} that {reference} lacks. {near(unknown[0], class_names)}")


def _parts(root: Path) -> dict[str, Path]:
    """The folder of each split, and maybe of "unlabelled"; the root alone where no folder is called after train."""
    folders = _folders(root)
    by_split = {split: next((f for f in folders if f.lower() in words), "") for split, words in SPLITS.items()}
    if not by_split["train"]:
        return {"train": root}
    return {split: root / folder for split, folder in by_split.items() if folder}


def _folders(root: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))


def _classes(folder: Path) -> dict[str, list[Path]]:
    """{class: its pictures}, both sorted; those below further folders of a class count to it."""
    return {name: _pictures(folder / name) for name in _folders(folder)}


def _pictures(folder: Path) -> list[Path]:
    """The pictures below a folder in order; says which other files there are."""
    below = [Path(at) / name for at, _, names in os.walk(folder) for name in names if not name.startswith(".")]
    below = sorted(below, key=lambda path: path.as_posix())
    others = [path.name for path in below if path.suffix.lower() not in SUFFIXES]
    if others:
        print(f"{folder}: {len(others)} files are no pictures by their names: {', '.join(others[:SHOWN])}")
    return [path for path in below if path.suffix.lower() in SUFFIXES]


def _check_train(root: Path, train: Path, classes: Mapping[str, Sequence[Path]]) -> None:
    """Raises ValueError where a folder is none of classes: too deep, of another kind, or with an empty class."""
    files = sorted(entry.name for entry in os.scandir(train) if entry.is_file())
    if not classes and any(name.endswith(".tar") for name in files):
        raise ValueError(f"{train} holds tar files: data.name='webdataset' reads them.")
    if {"dataset_dict.json", "dataset_info.json"} & {*files}:
        raise ValueError(f"{train} is a data set of Hugging Face: data.name='hf_dataset' reads it.")
    if not classes:
        raise ValueError(_what_lies_there(train, files))
    if empty := [name for name, pictures in classes.items() if not pictures]:
        raise ValueError(
            f"{train / empty[0]} holds no picture ({', '.join(SUFFIXES)}): every class of train needs some."
        )
    if len(classes) == 1:
        only = next(iter(classes))
        raise ValueError(f"{train} has one class alone, {only!r}: CLASS/*.jpg of two or more are expected there.")


def _what_lies_there(train: Path, files: Sequence[str]) -> str:
    """The error of a folder without folders of classes."""
    alone = sum(Path(name).suffix.lower() in SUFFIXES for name in files)
    lists = [name for name in files if name.endswith((".csv", ".jsonl"))]
    hint = f" {lists[0]} may list them: name that file." if lists else ""
    what = f"{alone} pictures and no folder of a class: is it the folder of one class?" if alone else "no pictures."
    return f"{train} holds {what}{hint} Expected CLASS/*.jpg, or train/CLASS/*.jpg and test/CLASS/*.jpg."
