"""Runs of a chain of compression that take seconds: a plain CNN on small pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mistakes import config
from ml_collections import ConfigDict

import kd_jax
from kd_jax.config import part
from kd_jax.models.vision.cnn import CNN

CLASSES = 3
LEARN = {"step": "learn"}
FOLD = {"step": "compress.folding.fold"}


def prune(**options: Any) -> dict[str, Any]:
    return {"step": "compress.channels.prune", "share": 0.5, **options}


def quantise(**options: Any) -> dict[str, Any]:
    return {"step": "compress.rounding.quantise", "bits": 4, **options}


def pictures(n: int = 48, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """uint8 pictures [n, 6, 6, 1] of three classes, which differ in where they are bright."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n, dtype=np.int32) % CLASSES
    images = rng.integers(0, 100, (n, 6, 6, 1))
    for i, label in enumerate(labels):
        images[i, 2 * label : 2 * label + 2] += 120
    return images.astype(np.uint8), labels


def chained(chain: Sequence[Any], steps: int = 4, **fields: Any) -> ConfigDict:
    return config(steps=steps, scheme=ConfigDict(part("schemes.compress.build", chain=tuple(chain))), **fields)


def run(folder: Path, chain: Sequence[Any], name: str = "run", teacher: bool = True, **fields: Any) -> dict[str, Any]:
    data = kd_jax.from_arrays(train=pictures(), test=pictures(24, 1), validation=0.25)
    networks = dict(student=CNN(CLASSES, (2, 2)), teacher=CNN(CLASSES, (4, 4)) if teacher else None)
    return kd_jax.run(chained(chain, **fields), folder / name, data=data, **networks)
