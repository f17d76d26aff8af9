"""Operations of augmentation on one image [H, W, C], each a pure function of a key."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from kd_jax.ranges import Count, NotNegative, Share


def pad_crop(key: jax.Array, image: jax.Array, padding: NotNegative[int] = 4) -> jax.Array:
    """Cuts a random crop of the image's size out of the image with `padding` zeros on every side."""
    padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    top, left = integers(jax.random.uniform(key, (2,)), 2 * padding + 1)
    return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)


def flip(key: jax.Array, image: jax.Array) -> jax.Array:
    """Exchanges left and right in half of the cases."""
    return jnp.where(jax.random.uniform(key) < 0.5, image[:, ::-1], image)


def cutout(key: jax.Array, image: jax.Array, size: Count[int] = 8) -> jax.Array:
    """Sets a square of `size` pixels around a random pixel to 0 (the mean colour), clipped at the border.

    T. DeVries, G. W. Taylor, "Improved regularization of convolutional neural networks with Cutout", 2017,
    arXiv:1708.04552.
    """
    height, width, _ = image.shape
    chance = jax.random.uniform(key, (2,))
    row, column = integers(chance[0], height), integers(chance[1], width)
    hidden = span(height, row - size // 2, size)[:, None] & span(width, column - size // 2, size)[None, :]
    return jnp.where(hidden[..., None], 0, image)


def random_erasing(key: jax.Array, image: jax.Array, probability: Share[float] = 0.25) -> jax.Array:
    """Fills a box of 2 to 33 % of the image with normal noise, in the share `probability` of the cases.

    Z. Zhong et al., "Random Erasing Data Augmentation", 2017, arXiv:1708.04896, with the settings of timm: height to
    width from 0.3 to 1 / 0.3, noise of its own for each pixel. A side longer than the image's is cut off; timm draws
    again.
    """
    height, width, _ = image.shape
    draw, paint = jax.random.split(key)
    applies, size, shape, *place = jax.random.uniform(draw, (5,))
    area, ratio = (0.02 + (1 / 3 - 0.02) * size) * height * width, 0.3 ** (1 - 2 * shape)
    hidden = applies < probability
    for axis, (length, at, side) in enumerate(zip((height, width), place, (area * ratio, area / ratio), strict=True)):
        side = jnp.minimum(jnp.round(jnp.sqrt(side)).astype(jnp.int32), length)
        inside = span(length, (at * (length - side + 1)).astype(jnp.int32), side)
        hidden = hidden & jnp.expand_dims(inside, 1 - axis)
    return jnp.where(hidden[..., None], jax.random.normal(paint, image.shape, image.dtype), image)


def integers(chance: jax.Array, count: int) -> jax.Array:
    """Maps uniform values in [0, 1) to 0 .. count - 1: cheaper than randint, which draws twice."""
    return (chance * count).astype(jnp.int32)


def span(length: int, start: jax.Array, size: jax.Array | int) -> jax.Array:
    """Returns bool [length]: start <= i < start + size."""
    place = jnp.arange(length)
    return (place >= start) & (place < start + size)


COLOUR_OPS = ("identity", "brightness", "contrast", "solarize", "posterize")
WARP_OPS = ("translate_x", "translate_y", "rotate", "shear_x", "shear_y")


def rand_augment(
    key: jax.Array, image: jax.Array, num_ops: Count[int] = 2, magnitude: NotNegative[float] = 5.0
) -> jax.Array:
    """Applies `num_ops` random operations to a uint8 image, one after the other, all at strength magnitude / 10.

    E. D. Cubuk et al., "RandAugment: practical automated data augmentation with a reduced search space", 2019,
    arXiv:1909.13719. Here from COLOUR_OPS and WARP_OPS only (no equalize, autocontrast, sharpness, colour). Full
    strength is 90 % of brightness or contrast, all values inverted, 4 bits, 45 % of the side, 30 degrees, shear 0.3.
    Warps take the nearest pixel, and 0 outside. Raises ValueError for images of another type.
    """
    if image.dtype != jnp.uint8:
        raise ValueError(f"rand_augment needs uint8 images, as stored in 0..255; got {image.dtype}")
    for chance in jax.random.uniform(key, (num_ops, 2)):
        image = _random_op(chance, image, magnitude / 10)
    return image


def _random_op(chance: jax.Array, image: jax.Array, level: float) -> jax.Array:
    choice = integers(chance[0], len(COLOUR_OPS) + len(WARP_OPS))
    signed = jnp.where(chance[1] < 0.5, level, -level)
    # Every colour is computed and one is chosen: a branch under vmap would do the same.
    x, factor = image.astype(jnp.float32), 1 + 0.9 * signed
    mean, step = jnp.mean(x), 2.0 ** round(4 * level)
    colours = (
        x,
        x * factor,
        mean + (x - mean) * factor,
        jnp.where(x > 255 * (1 - level), 255 - x, x),
        jnp.floor(x / step) * step,
    )
    x = jax.lax.select_n(jnp.where(choice < len(COLOUR_OPS), choice, 0), *colours)
    amount = [jnp.where(choice == len(COLOUR_OPS) + i, signed, 0.0) for i in range(len(WARP_OPS))]
    return _warp(jnp.clip(jnp.round(x), 0, 255).astype(jnp.uint8), *amount)


def _warp(
    image: jax.Array, move_x: jax.Array, move_y: jax.Array, turn: jax.Array, shear_x: jax.Array, shear_y: jax.Array
) -> jax.Array:
    """Takes each pixel from the nearest source pixel; amounts (of full strength) of 0 return exactly the image."""
    height, width, _ = image.shape
    y, x = jnp.meshgrid(jnp.arange(height) - (height - 1) / 2, jnp.arange(width) - (width - 1) / 2, indexing="ij")
    angle = turn * math.radians(30)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    source_x = cos * x + (0.3 * shear_x - sin) * y + 0.45 * move_x * width
    source_y = cos * y + (0.3 * shear_y + sin) * x + 0.45 * move_y * height
    column = jnp.round(source_x + (width - 1) / 2).astype(jnp.int32)
    row = jnp.round(source_y + (height - 1) / 2).astype(jnp.int32)
    inside = (0 <= row) & (row < height) & (0 <= column) & (column < width)
    pixels = image[jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)]
    return jnp.where(inside[..., None], pixels, jnp.uint8(0))


IMAGE_OPS: dict[str, Callable] = {"pad_crop": pad_crop, "flip": flip, "rand_augment": rand_augment}
NORMALISED_OPS: dict[str, Callable] = {"cutout": cutout, "random_erasing": random_erasing}
