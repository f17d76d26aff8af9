"""Crops of random size, as an augmentation that a config names by its module:
{"name": "kd_jax.data.crops:random_resized_crop", "low": 0.4}."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kd_jax.ranges import Portion, Positive


def random_resized_crop(
    key: jax.Array,
    image: jax.Array,
    low: Portion[float] = 0.4,
    high: Portion[float] = 1.0,
    ratio: Positive[float] = 4 / 3,
) -> jax.Array:
    """Cuts out a box of `low` to `high` of the area, sides 1 : ratio to ratio : 1, and resizes it to the image's size.

    The image is [H, W, C], of its stored type; bilinear, and a side longer than the image's is cut off (torchvision
    draws again). ValueError where `low` is above `high`. Szegedy et al., "Going Deeper with Convolutions", 2014, arXiv
    1409.4842; the multi-crop of Caron et al., 2021, arXiv 2104.14294, has 0.4 to 1 for views and 0.05 to 0.4 for crops.
    """
    if low > high:
        raise ValueError(f"random_resized_crop: low={low} is above high={high}")
    height, width, _ = image.shape
    size, shape, *place = jax.random.uniform(key, (4,))
    area, odds = low + (high - low) * size, ratio ** (2 * shape - 1)
    shares = jnp.minimum(jnp.sqrt(jnp.stack([area * odds, area / odds])), 1.0)
    scale = 1 / shares
    offset = -jnp.stack(place) * (1 - shares) * jnp.asarray([height, width]) * scale
    pixels = jax.image.scale_and_translate(
        image.astype(jnp.float32), image.shape, (0, 1), scale, offset, "linear", antialias=False
    )
    whole = jnp.issubdtype(image.dtype, jnp.integer)
    return (jnp.clip(jnp.round(pixels), 0, 255) if whole else pixels).astype(image.dtype)
