"""Made images in the shape of a published data set, to try its configs on a machine without the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kd_jax.data.arrays import from_arrays
from kd_jax.data.source import Splits

# The recipe's mean and standard deviation, not the images'.
CIFAR10 = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CIFAR100 = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def cifar100(config: Mapping[str, Any]) -> Splits:
    """Returns 10,000 training and 2,000 test images, 32 x 32 x 3 and of 100 classes, that are not CIFAR-100.

    x = 128 + 40 * pattern of the class (4 x 4 normal numbers a channel, enlarged 8 times) + 50 * noise, as uint8; the
    same on every machine. A network can learn them, which says nothing of what it does on photographs.
    """
    return made("CIFAR-100", 100, 32, 10_000, 2_000, *CIFAR100)


def cifar10(config: Mapping[str, Any]) -> Splits:
    """Returns images as those of `cifar100`, of 10 classes, that are not CIFAR-10."""
    return made("CIFAR-10", 10, 32, 10_000, 2_000, *CIFAR10)


def imagenet(config: Mapping[str, Any]) -> Splits:
    """Returns 2,000 training and 1,000 test images as those of `cifar100`, of 1,000 classes, that are not ImageNet.

    Their sides are config.data.image_size, a multiple of 4, or 224.
    """
    return made("ImageNet", 1000, config["image_size"] or 224, 2_000, 1_000, *IMAGENET)


def made(
    instead_of: str, classes: int, side: int, train: int, test: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> Splits:
    """Returns images as `cifar100` describes them: `train` and `test` are how many, `side` their height and width."""
    if side % 4:
        raise ValueError(f"Made images have sides that are multiples of 4, not {side} (config.data.image_size).")
    patterns = np.random.default_rng(0).normal(size=(classes, 4, 4, 3))

    def of_split(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng, labels = np.random.default_rng(seed), np.arange(count, dtype=np.int32) % classes
        images = np.empty((count, side, side, 3), np.uint8)
        for start in range(0, count, 500):  # float64 noise of all at once would take gigabytes
            rows = slice(start, start + 500)
            pattern = patterns[labels[rows]].repeat(side // 4, 1).repeat(side // 4, 2)
            images[rows] = np.clip(128 + 40 * pattern + 50 * rng.normal(size=pattern.shape), 0, 255).astype(np.uint8)
        return images, labels

    name = f"synthetic images (not {instead_of})"
    return from_arrays(train=of_split(train, 1), test=of_split(test, 2), names=classes, mean=mean, std=std, name=name)
