"""Made images in the shape of a published data set, to try its configs on a machine without the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kd_jax.data.arrays import from_arrays
from kd_jax.data.source import Splits

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)  # CIFAR-100's: the recipe's, not the images'


def cifar100(config: Mapping[str, Any]) -> Splits:
    """Returns 10,000 training and 2,000 test images, 32 x 32 x 3 and of 100 classes, that are not CIFAR-100.

    x = 128 + 40 * pattern of the class (4 x 4 normal numbers a channel, enlarged 8 times) + 50 * noise, as uint8; the
    same on every machine. A network can learn them, which says nothing of what it does on photographs.
    """
    patterns = np.random.default_rng(0).normal(size=(100, 4, 4, 3)).repeat(8, 1).repeat(8, 2)

    def made(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(count, dtype=np.int32) % 100
        noise = np.random.default_rng(seed).normal(size=(count, 32, 32, 3))
        return np.clip(128 + 40 * patterns[labels] + 50 * noise, 0, 255).astype(np.uint8), labels

    name = "synthetic images (not CIFAR-100)"
    return from_arrays(train=made(10_000, 1), test=made(2_000, 2), names=100, mean=MEAN, std=STD, name=name)
