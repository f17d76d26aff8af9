"""Fashion-MNIST at half its size, for networks that are trained on a processor."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from kd_jax.data.images import idx
from kd_jax.data.source import Source, Splits


def fashion_mnist(config: Mapping[str, Any]) -> Splits:
    """Returns Fashion-MNIST with the mean of 2 x 2 pixels for one: uint8 [n, 14, 14, 1]; `directory` as for idx.load.

    mean and std are those of the small training images. DataNotFound where the files are not.
    """
    splits = idx.load("fashion_mnist", config["directory"])
    images = _halved(splits.train) / 255
    mean, std = (float(images.mean()),), (float(images.std()),)

    def smaller(source: Source) -> Source:
        small = np.round(_halved(source)).astype(np.uint8)
        return dataclasses.replace(source, images=small, image_shape=small.shape[1:], mean=mean, std=std)

    return Splits(smaller(splits.train), None, smaller(splits.test))


def _halved(source: Source) -> np.ndarray:
    images = source.in_memory()[0].astype(np.float32)
    count, height, width, channels = images.shape
    return images.reshape(count, height // 2, 2, width // 2, 2, channels).mean((2, 4))
