"""MNIST and Fashion-MNIST from idx files, plain or gzipped.

Y. LeCun, C. Cortes, C. Burges, "The MNIST database"; H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST", 2017,
arXiv:1708.07747. Debian's package dataset-fashion-mnist installs the latter.
"""

from __future__ import annotations

import dataclasses
import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from kd_jax.data.arrays import in_memory
from kd_jax.data.folders import not_found, places
from kd_jax.data.images import prepared
from kd_jax.data.source import Source, Splits

CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
PREFIX = {"train": "train", "test": "t10k"}


@dataclasses.dataclass(frozen=True)
class IdxSet:
    """What is to be idx of a data set in idx files."""

    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    folders: tuple[str, ...]  # below a data folder; the last is torchvision's
    system: tuple[str, ...]  # folders in which a package installs it
    fetch: str  # the simplest way to get it


SETS = {
    "mnist": IdxSet(
        class_names=tuple(map(str, range(10))),
        mean=(0.1307,),
        std=(0.3081,),
        folders=("", "mnist", "MNIST/raw"),
        system=(),
        fetch="the files {train,t10k}-{images-idx3,labels-idx1}-ubyte.gz in a folder mnist/, or",
    ),
    "fashion_mnist": IdxSet(
        class_names=CLOTHES,
        mean=(0.2860,),
        std=(0.3530,),
        folders=("", "fashion_mnist", "fashion-mnist", "FashionMNIST/raw"),
        system=("/usr/share/datasets/fashion-mnist",),
        fetch="apt-get install dataset-fashion-mnist   (Debian, Ubuntu), or",
    ),
}


def load(name: str, directory: str) -> Splits:
    """Loads 60,000 training and 10,000 test images, 28x28x1; DataNotFound where they are not."""
    idx = SETS[name]
    looked = places(directory, idx.system)
    for place in looked:
        # a folder shared by many sets is searched below only: MNIST's files have the same names as Fashion-MNIST's
        folders = idx.folders if directory or str(place) in idx.system else idx.folders[1:]
        for folder in (place / below for below in folders):
            if _file(folder, "train-images-idx3-ubyte"):
                return Splits(_split(name, idx, folder, "train"), None, _split(name, idx, folder, "test"))
    if prepared.find(name, directory):
        return prepared.load(name, directory)
    raise not_found(name, looked, [idx.fetch, *prepared.fetch_commands(name)])


def _split(name: str, idx: IdxSet, folder: Path, split: str) -> Source:
    tables = []
    for kind in ("images-idx3", "labels-idx1"):
        path = _file(folder, f"{PREFIX[split]}-{kind}-ubyte")
        if path is None:
            raise not_found(f"{name} ({PREFIX[split]}-{kind}-ubyte)", [folder], [idx.fetch, "the missing file"])
        tables.append(read_idx(path))
    images, labels = tables
    return in_memory(name, split, images[..., None], labels, class_names=idx.class_names, mean=idx.mean, std=idx.std)


def _file(folder: Path, stem: str) -> Path | None:
    return next((path for path in (folder / f"{stem}.gz", folder / stem) if path.is_file()), None)


def read_idx(path: Path) -> np.ndarray:
    """Reads the uint8 array of an idx file: 0, 0, type, number of axes, big-endian int32 sizes, values.

    Raises ValueError for a file of another type, and for one that is truncated.
    """
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path} is corrupt or truncated: {error}") from error
    if len(raw) < 4 or raw[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is not an idx file of bytes: it starts with {raw[:4].hex() or 'nothing'}")
    start = 4 + 4 * raw[3]
    shape = tuple(np.frombuffer(raw[4:start].ljust(start - 4, b"\0"), ">i4").tolist())
    if len(raw) - start != math.prod(shape):
        needed, left = math.prod(shape), len(raw) - start
        raise ValueError(f"{path} is corrupt or truncated: shape {shape} needs {needed} bytes, there are {left}")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)
