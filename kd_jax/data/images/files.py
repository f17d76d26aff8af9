"""Encoded pictures that are files below a folder, and what folders and files of splits are called."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from kd_jax.data.images.encoded import Encoded

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
    "unlabelled": ("unlabelled", "unlabeled"),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Files:
    """Records that are files below a folder."""

    root: str
    paths: np.ndarray  # bytes, one fixed width: a million str objects would be copied to every worker

    def read(self, index: int) -> bytes:
        with open(self.place(index), "rb") as file:
            return file.read()

    def place(self, index: int) -> str:
        return os.path.join(self.root, self.paths[index].decode())


def of_files(
    root: Path, paths: Sequence[Path], labels: np.ndarray, fields: Mapping[str, np.ndarray] | None = None
) -> Encoded:
    """Returns the pictures of these files below `root`."""
    names = np.array([os.path.relpath(path, root).encode() for path in paths])
    return Encoded(Files(str(root), names), np.arange(len(paths)), labels, fields or {})


def split_of(word: str) -> str:
    """Returns the split that a word names, "" for none."""
    return next((split for split, words in SPLITS.items() if word.lower() in words), "")
