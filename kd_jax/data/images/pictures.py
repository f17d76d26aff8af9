"""Decoding, cropping and resizing on the host, for images that differ in size. No JAX: worker processes import this."""

from __future__ import annotations

import io
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from kd_jax.resolve import near

CROPS = ("random", "centre", "whole")
EVAL_CROP = 224 / 256  # the shorter side is resized to size / EVAL_CROP before the centre is cut out


def decode(data: bytes | np.ndarray, channels: int) -> Image.Image:
    """Returns an RGB or grey PIL image from JPEG or PNG bytes, or from an array.

    Raises ValueError for bytes that are no picture or are cut off, and for more than 8 bits a channel, which PIL clips.
    """
    if isinstance(data, np.ndarray):
        return Image.fromarray(data[..., 0] if data.shape[-1] == 1 else data)
    try:
        image = Image.open(io.BytesIO(data))
        if image.mode[0] in "IF":
            raise ValueError(f"its mode is {image.mode!r}, and 8 bits a channel are expected")
        return image.convert("L" if channels == 1 else "RGB")
    except (OSError, SyntaxError, ValueError, struct.error, zlib.error, Image.DecompressionBombError) as error:
        raise ValueError(f"a picture of {len(data)} bytes cannot be decoded: {error}") from error


def opened(path: Path) -> Image.Image:
    """Returns the picture in a file, of the mode that it has; ValueError, with the path, for what is none."""
    try:
        with Image.open(path) as file:
            return file.copy()
    except OSError as e:
        raise ValueError(f"{path} is no picture that can be read: {e}") from e


def check_crop(crop: str) -> None:
    """Raises ValueError for a crop that is none of CROPS."""
    if crop not in CROPS:
        raise ValueError(f"data.crop={crop!r}. {near(crop, CROPS)}")


def cut(image: Image.Image, size: int, crop: str, index: int, view: int | None, seed: int) -> np.ndarray:
    """Returns uint8 [size, size, C], or the image as it is where size is 0.

    `crop` is "random" (a function of seed, index and view in training, the centre where view is None), "centre", or
    "whole": resized without regard to its aspect.
    """
    if not size:
        return as_array(image)
    if crop == "whole":
        return as_array(image.resize((size, size), Image.Resampling.BILINEAR))
    if crop == "centre" or view is None:
        return centre_crop(image, size)
    rng = np.random.default_rng((seed, index, view, 0))  # four numbers: three are the seed of an epoch's order
    return random_resized_crop(image, size, rng)


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
