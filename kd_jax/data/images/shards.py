"""WebDataset: tar files in which the members of one example share a name, as 000001.jpg, 000001.cls and 000001.json.

The members are found once, in one pass over the headers; their offsets and the labels are kept beside each tar
(NAME.tar.kd_jax.npz), after which every picture is read alone, in any order. A shard belongs to the split that a word
of its path names (imagenet-train-000000.tar, val/00.tar), else to train. Labels: "cls" is the number or the name of a
class, or "json" has "label" or "cls". A file classes.txt beside the tars names the classes of numbers, one a line.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import os
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from kd_jax.data.images.encoded import Encoded, Options, splits_of, stamp_of
from kd_jax.data.images.files import SUFFIXES, split_of
from kd_jax.data.source import DataNotFound, Splits
from kd_jax.files import read_utf8

INDEX = ".kd_jax.npz"
PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclasses.dataclass(frozen=True, eq=False)
class Members:
    """Records that are members of tar files: which file, where in it, how long, and the name."""

    tars: tuple[str, ...]
    tar: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    names: np.ndarray

    def read(self, index: int) -> bytes:
        data = os.pread(_opened(self.tars[self.tar[index]]), int(self.size[index]), int(self.offset[index]))
        if len(data) != self.size[index]:
            raise ValueError(f"{len(data)} bytes are left of {self.size[index]}: the tar was cut off or changed")
        return data

    def place(self, index: int) -> str:
        return f"{self.tars[self.tar[index]]}: {self.names[index].decode()}"


@functools.lru_cache(maxsize=512)
def _opened(path: str) -> int:
    return os.open(path, os.O_RDONLY)  # for the life of the process; pread needs no position, so threads share it


def load(fields: SimpleNamespace) -> Splits:
    """Loads data.name="webdataset": the tars below data.directory.

    Raises DataNotFound where there are none, ValueError for compressed ones, examples without a picture, and labels of
    several kinds.
    """
    options = Options(fields.image_size, fields.crop, fields.channels, fields.on_error)
    root, tars = Path(fields.directory), _tars(fields.directory)
    by_split: dict[str, list[Path]] = {}
    for tar in tars:
        by_split.setdefault(_split_of(root, tar), []).append(tar)
    if "train" not in by_split:
        raise ValueError(f"{root} has no tar of train: its {len(tars)} name {', '.join(sorted(by_split))}.")
    indices = {split: [_index(tar) for tar in tars] for split, tars in by_split.items()}
    texts = {split: np.concatenate([index["labels"] for index in of_split]) for split, of_split in indices.items()}
    labels, class_names = _labels(root, texts)
    encoded = {}
    for split, of_split in indices.items():
        joined = {k: np.concatenate([index[k] for index in of_split]) for k in ("offset", "size", "names")}
        which = np.repeat(np.arange(len(of_split)), [len(index["size"]) for index in of_split])
        records = Members(tuple(map(str, by_split[split])), which, joined["offset"], joined["size"], joined["names"])
        encoded[split] = Encoded(records, np.arange(len(which)), labels[split])
    stamp = functools.partial(stamp_of, tars, root)
    return splits_of("webdataset", encoded, class_names, options, test=fields.test, stamp=stamp)


def _tars(directory: str) -> list[Path]:
    root = Path(directory)
    below = sorted(p for p in root.rglob("*") if p.is_file()) if directory and root.is_dir() else []
    if packed := [p for p in below if p.name.endswith(PACKED)]:
        raise ValueError(f"{packed[0]} is compressed, and its members cannot be read in any order: unpack it to .tar.")
    tars = [p for p in below if p.suffix == ".tar"]
    if not tars:
        raise DataNotFound(f"data.name='webdataset' reads the .tar files in data.directory={directory!r}: none.")
    return tars


def _split_of(root: Path, tar: Path) -> str:
    words = re.split(r"[^A-Za-z]+", tar.relative_to(root).as_posix().removesuffix(".tar"))
    return next((split for word in words if (split := split_of(word)) in ("train", "validation", "test")), "train")


def _index(tar: Path) -> dict[str, np.ndarray]:
    """Where the pictures of a tar are, and their labels as texts; made once, and again where the tar has changed."""
    stored, fact = tar.with_name(tar.name + INDEX), tar.stat()
    state = np.array([fact.st_size, fact.st_mtime_ns])
    if stored.is_file():
        try:
            with np.load(stored) as file:  # no pickles
                if np.array_equal(file["state"], state):
                    return {name: file[name] for name in file}
        except Exception as e:  # zipfile, zlib and NumPy raise many kinds
            logging.warning("%s is made again: %s", stored, e)
    index = {**_members(tar), "state": state}
    try:
        scratch = stored.with_name(f"{stored.name}.{os.getpid()}.npz")
        np.savez(scratch, **index)
        os.replace(scratch, stored)
    except OSError as e:
        logging.warning("the members of %s are looked for again next time: %s", tar, e)
    return index


def _members(tar: Path) -> dict[str, np.ndarray]:
    """Where the pictures of a tar are, and their labels as texts."""
    try:
        with tarfile.open(tar, "r:") as file:
            pictures, labels = _scanned(tar, file)
    except tarfile.TarError as e:
        raise ValueError(f"{tar} is corrupt: {e}") from e
    if not pictures:
        raise ValueError(f"{tar} holds no picture ({', '.join(SUFFIXES)}).")
    if lost := sorted({*labels} - {*pictures}):
        raise ValueError(f"{tar}: the example {lost[0].strip('/')} has a label and no picture.")
    return {
        "offset": np.array([m.offset_data for m in pictures.values()], np.int64),
        "size": np.array([m.size for m in pictures.values()], np.int64),
        "names": np.array([m.name.encode() for m in pictures.values()]),
        "labels": np.array([labels.get(key, "") for key in pictures]),
    }


def _scanned(tar: Path, file: tarfile.TarFile) -> tuple[dict[str, tarfile.TarInfo], dict[str, str]]:
    """The pictures and the labels of an open tar, by the name that the members of an example share."""
    pictures: dict[str, tarfile.TarInfo] = {}
    labels: dict[str, str] = {}
    for member in file:
        if not member.isfile() or Path(member.name).name.startswith("."):
            continue
        folder, _, name = member.name.rpartition("/")
        key, _, kind = name.partition(".")  # WebDataset's rule: up to the first dot
        key, suffix = f"{folder}/{key}", f".{kind.lower()}"
        if suffix in SUFFIXES:
            if key in pictures:
                raise ValueError(f"{tar}: two pictures are of one example: {pictures[key].name}, {member.name}")
            pictures[key] = member
        elif suffix in (".cls", ".json") and (content := file.extractfile(member)) is not None:
            text = _label(tar, member.name, suffix, content.read())
            labels[key] = text or labels.get(key, "")
    return pictures, labels


def _label(tar: Path, name: str, suffix: str, content: bytes) -> str:
    """The label that a member holds, as a text; "" for none."""
    try:
        text = content.decode().strip()
        if suffix == ".cls":
            return text
        record: Any = json.loads(text)
    except ValueError as e:
        raise ValueError(f"{tar}: {name} cannot be read: {e}") from e
    value = next((record[k] for k in ("label", "cls") if k in record), None) if isinstance(record, dict) else None
    return "" if value is None else str(value)


def _labels(root: Path, texts: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], Sequence[str]]:
    """({split: numbers of classes, -1 for none}, the names of the classes)."""
    present = sorted({text for split in texts.values() for text in split.tolist() if text})
    if not present:
        raise ValueError(f"{root}: no example has a label (NAME.cls, or label in NAME.json).")
    numbers, names = _numbered(root, present)
    return {
        split: np.array([numbers.get(t, -1) for t in values.tolist()], np.int32) for split, values in texts.items()
    }, names


def _numbered(root: Path, present: list[str]) -> tuple[dict[str, int], list[str]]:
    """({label: the number of its class}, the names of the classes)."""
    listed = root / "classes.txt"
    names = [line for line in read_utf8(listed).splitlines() if line] if listed.is_file() else []
    if not all(text.isdecimal() for text in present):
        names = names or present
        numbers = {name: i for i, name in enumerate(names)}
        if unknown := [text for text in present if text not in numbers]:
            raise ValueError(f"{root}: the class {unknown[0]!r} is not in classes.txt.")
        return numbers, names
    count = max(map(int, present)) + 1
    names = names or [str(i) for i in range(count)]
    if count > len(names):
        raise ValueError(f"{root}: there is a label {count - 1}, and classes.txt names {len(names)} classes.")
    return {text: int(text) for text in present}, names
