"""scikit-learn's digits as files: folders of classes, tar shards, a data set of Hugging Face."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from kd_jax.data.arrays import digits


def some(count: int, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 images [n, 8, 8], labels [n]) of real digits."""
    images, labels = digits(0.2).train.in_memory()
    return images[start : start + count, ..., 0], labels[start : start + count]


def encoded(image: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def class_folders(root: Path, counts: dict[str, int], size: int = 8) -> Path:
    """ROOT/SPLIT/CLASS/NUMBER.png for each split, or ROOT/CLASS for the split ""."""
    start = 0
    for split, count in counts.items():
        images, labels = some(count, start)
        start += count
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            folder = root / split / f"digit{label}"
            folder.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(image).resize((size, size)) if size != 8 else Image.fromarray(image)
            picture.save(folder / f"{number:04d}.png")
    return root


def shards(root: Path, counts: dict[str, int], per_tar: int = 20) -> Path:
    """ROOT/SPLIT-00000.tar, ... with NUMBER.png and NUMBER.cls."""
    root.mkdir(parents=True, exist_ok=True)
    start = 0
    for split, count in counts.items():
        images, labels = some(count, start)
        start += count
        for first in range(0, count, per_tar):
            with tarfile.open(root / f"{split}-{first // per_tar:05d}.tar", "w") as tar:
                for number in range(first, min(first + per_tar, count)):
                    for name, data in (("png", encoded(images[number])), ("cls", str(labels[number]).encode())):
                        info = tarfile.TarInfo(f"{number:06d}.{name}")
                        info.size = len(data)
                        tar.addfile(info, io.BytesIO(data))
    return root
