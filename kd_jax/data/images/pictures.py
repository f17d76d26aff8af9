"""Decoding, cropping and resizing on the host, for images that differ in size. No JAX: worker processes import this."""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image

EVAL_CROP = 224 / 256  # the shorter side is resized to size / EVAL_CROP before the centre is cut out


def decode(data: bytes | np.ndarray, channels: int) -> Image.Image:
    """Returns an RGB or grey PIL image from JPEG or PNG bytes, or from an array; ValueError for other bytes."""
    if isinstance(data, np.ndarray):
        return Image.fromarray(data[..., 0] if data.shape[-1] == 1 else data)
    try:
        image = Image.open(io.BytesIO(data))
        return image.convert("L" if channels == 1 else "RGB")
    except OSError as error:
        raise ValueError(f"an image of {len(data)} bytes cannot be decoded: {error}") from error


def random_resized_crop(image: Image.Image, size: int, rng: np.random.Generator) -> np.ndarray:
    """Returns uint8 [size, size, C]: a random crop of 8 to 100 % of the area, of aspect 3/4 to 4/3, resized bilinearly.

    C. Szegedy et al., "Going deeper with convolutions", 2014, arXiv:1409.4842, with the ranges of the public ImageNet
    recipes: ten draws, then the centre crop.
    """
    width, height = image.size
    for _ in range(10):
        area = width * height * rng.uniform(0.08, 1.0)
        aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            box = (left, top, left + w, top + h)
            return as_array(image.resize((size, size), Image.Resampling.BILINEAR, box=box))
    return centre_crop(image, size)


def centre_crop(image: Image.Image, size: int) -> np.ndarray:
    """Returns uint8 [size, size, C]: the middle of the image with the shorter side resized to size * 256 / 224."""
    width, height = image.size
    side = min(width, height) * EVAL_CROP
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    return as_array(image.resize((size, size), Image.Resampling.BILINEAR, box=box))


def as_array(image: Image.Image) -> np.ndarray:
    """Returns uint8 [H, W, C], C = 1 for grey."""
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array
