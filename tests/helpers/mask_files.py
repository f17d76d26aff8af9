"""Pictures and masks of three classes, as arrays and as files."""

from __future__ import annotations

import numpy as np
from PIL import Image


def squares(count: int, size: int = 16, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 [n, size, size, 1] of a bright and a grey square on black, and masks of 0, 1, 2."""
    rng = np.random.default_rng(seed)
    images, masks = rng.integers(0, 60, (count, size, size, 1)), np.zeros((count, size, size), np.int32)
    for i in range(count):
        for c in (1, 2):
            row, column, side = rng.integers(0, size - 5), rng.integers(0, size - 5), rng.integers(3, 6)
            masks[i, row : row + side, column : column + side] = c
        images[i, ..., 0] += np.choose(masks[i], [0, 100, 180])
    return images.astype(np.uint8), masks


def write_pairs(folder, count: int, size: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Writes images/N.png and masks/N.png; the first pixel of every mask has no class. Returns what was written."""
    x, y = squares(count, size)
    y[:, 0, 0] = 255
    for what in ("images", "masks"):
        (folder / what).mkdir(parents=True)
    for i in range(count):
        Image.fromarray(x[i, ..., 0]).save(folder / "images" / f"{i}.png")
        Image.fromarray(y[i].astype(np.uint8)).save(folder / "masks" / f"{i}.png")
    return x[..., 0], y
