"""Augmentation on the device, as a pure function of a key and the examples' numbers.

An example's random numbers come from fold_in(fold_in(key, index), view), so one (index, view) is one picture in any
batch, and a teacher's answer to it can be stored. Only mixup and cutmix depend on the batch.
Order: crops, flips and colours on the stored values, then normalisation to float, then cutout and erasing, then mixing.
"""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from kd_jax.ranges import Count, NotNegative, Positive, Share
from kd_jax.resolve import check_kwargs, near, resolve

Batch = Mapping[str, jax.Array]
Op = str | Mapping[str, Any]


def prepare(
    batch: Batch,
    key: jax.Array,
    train: bool,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    augment: Sequence[Op] = (),
) -> dict[str, jax.Array]:
    """Returns the batch with `image` float32: (x - mean) / std, x = image / 255 for uint8, else the image itself.

    In training it applies the ops of `augment`: names such as "flip", dicts with options such as
    {"name": "pad_crop", "padding": 4}, or "my.module:function", (key, image [H, W, C], **options) -> image on the
    stored values. `key` must be the same at every step, so that a view of an example is one picture.
    mixup and cutmix add `mix_label` int32 [B] and `mix_weight` float32 [B]: the loss of an example is
    mix_weight * loss(label) + (1 - mix_weight) * loss(mix_label). Labelled rows mix with labelled rows only.
    Raises ValueError for an op that does not exist, and for both mixup and cutmix.
    """
    return pictures(batch, key, train, mean=mean, std=std, augment=augment)[0]


def pictures(
    batch: Batch,
    key: jax.Array,
    train: bool,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    augment: Sequence[Op] = (),
) -> tuple[dict[str, jax.Array], jax.Array | None]:
    """Returns what `prepare` does, and the same pictures on the stored scale before they are normalised.

    None in their place where an op changes normalised pictures: cutout, erasing, mixing.
    """
    out = dict(batch)
    if not (ops := [_resolve(op) for op in augment] if train else []):
        return out | {"image": normalise(out["image"], mean, std)}, out["image"]
    keys = example_keys(key, batch)
    mixing = [op for op in ops if op[0] in BATCH_OPS]
    if len(mixing) > 1:
        raise ValueError(f"only one of {', '.join(BATCH_OPS)} can be used: each gives every example a second label")
    after = [op for op in ops if op[0] in NORMALISED_OPS]
    for name, op in ops:
        if (name, op) not in mixing + after:
            out["image"] = _each(name, op, keys, out["image"])
    stored = None if mixing or after else out["image"]
    out["image"] = normalise(out["image"], mean, std)
    for name, op in after:
        out["image"] = _each(name, op, keys, out["image"])
    for name, op in mixing:
        out = op(_op_key(keys[0], name), out)  # a first row occurs in one step only: it stands for the step
    return out, stored


def normalise(image: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Computes (x - mean) / std over the last axis, float32; x = image / 255 for uint8, else the image itself."""
    shape = (1,) * (image.ndim - 1) + (-1,)
    offset, width = (jnp.asarray(values, jnp.float32).reshape(shape) for values in (mean, std))
    scale = 255.0 if image.dtype == jnp.uint8 else 1.0
    return (image.astype(jnp.float32) / scale - offset) / width


def as_stored(image: jax.Array, mean: Sequence[float], std: Sequence[float], dtype: Any) -> jax.Array:
    """Returns pictures that `normalise` made of stored ones of `dtype` on their scale again, float32."""
    shape = (1,) * (image.ndim - 1) + (-1,)
    offset, width = (jnp.asarray(values, jnp.float32).reshape(shape) for values in (mean, std))
    return (image * width + offset) * (255.0 if dtype == jnp.uint8 else 1.0)


def example_key(key: jax.Array, index: jax.Array, view: jax.Array) -> jax.Array:
    """Returns the key of one view of one example."""
    return jax.random.fold_in(jax.random.fold_in(key, index), view)


def example_keys(key: jax.Array, batch: Mapping[str, jax.Array]) -> jax.Array:
    """Returns the `example_key` of each example of a batch, [batch]."""
    return jax.vmap(example_key, in_axes=(None, 0, 0))(key, batch["index"], batch["view"])


def _op_key(key: jax.Array, name: str) -> jax.Array:
    """Returns the key of an op, by its name: it draws the same whatever other ops there are."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def _each(name: str, op: Callable, keys: jax.Array, image: jax.Array) -> jax.Array:
    if image.ndim != 4:
        raise ValueError(f"{name} is for images [B, H, W, C]; these have shape {image.shape}")
    return jax.vmap(lambda key, one: op(_op_key(key, name), one))(keys, image)


def _resolve(op: Op) -> tuple[str, Callable]:
    options = {"name": op} if isinstance(op, str) else dict(op)
    name = options.pop("name", None)
    ops = IMAGE_OPS | NORMALISED_OPS | BATCH_OPS
    if name in ops:
        check_kwargs(name, ops[name], options, positional=2)
        return name, functools.partial(ops[name], **options)
    if not isinstance(name, str) or ":" not in name:
        raise ValueError(f"There is no augmentation {name!r}. {near(str(name), ops)}")
    check_kwargs(name, resolve(name), options, positional=2)
    return name, functools.partial(resolve(name), **options)


def pad_crop(key: jax.Array, image: jax.Array, padding: NotNegative[int] = 4) -> jax.Array:
    """Cuts a random crop of the image's size out of the image with `padding` zeros on every side."""
    padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    top, left = _integers(jax.random.uniform(key, (2,)), 2 * padding + 1)
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
    row, column = _integers(chance[0], height), _integers(chance[1], width)
    hidden = _span(height, row - size // 2, size)[:, None] & _span(width, column - size // 2, size)[None, :]
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
        span = _span(length, (at * (length - side + 1)).astype(jnp.int32), side)
        hidden = hidden & jnp.expand_dims(span, 1 - axis)
    return jnp.where(hidden[..., None], jax.random.normal(paint, image.shape, image.dtype), image)


def _integers(chance: jax.Array, count: int) -> jax.Array:
    """Maps uniform values in [0, 1) to 0 .. count - 1: cheaper than randint, which draws twice."""
    return (chance * count).astype(jnp.int32)


def _span(length: int, start: jax.Array, size: jax.Array | int) -> jax.Array:
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
    choice = _integers(chance[0], len(COLOUR_OPS) + len(WARP_OPS))
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


def mixup(key: jax.Array, batch: Batch, alpha: Positive[float] = 0.2) -> dict[str, jax.Array]:
    """Mixes images: w * image + (1 - w) * partner's image, one w ~ Beta(alpha, alpha) for the batch.

    H. Zhang et al., "mixup: beyond empirical risk minimization", 2017, arXiv:1710.09412.
    """
    weight_key, partner_key = jax.random.split(key)
    weight = jax.random.beta(weight_key, alpha, alpha)
    partner = _partners(partner_key, batch["labelled"])
    image = weight * batch["image"] + (1 - weight) * batch["image"][partner]
    return _mixed(batch, image, partner, weight)


def cutmix(key: jax.Array, batch: Batch, alpha: Positive[float] = 1.0) -> dict[str, jax.Array]:
    """Puts a box of the partner's image into each image; the weight is the share of the area outside the box.

    S. Yun et al., "CutMix: regularization strategy to train strong classifiers with localizable features", 2019,
    arXiv:1905.04899: sides sqrt(1 - w) of the image's, w ~ Beta(alpha, alpha), a random centre, clipped at the border,
    one box for the batch. Raises ValueError for what is no batch of images.
    """
    if batch["image"].ndim != 4:
        raise ValueError(f"cutmix is for images [B, H, W, C]; these have shape {batch['image'].shape}")
    weight_key, partner_key, place_key = jax.random.split(key, 3)
    _, height, width, _ = batch["image"].shape
    side = jnp.sqrt(1 - jax.random.beta(weight_key, alpha, alpha))
    box_height, box_width = (jnp.round(side * length).astype(jnp.int32) for length in (height, width))
    chance = jax.random.uniform(place_key, (2,))
    row, column = _integers(chance[0], height), _integers(chance[1], width)
    rows = _span(height, row - box_height // 2, box_height)
    box = rows[:, None] & _span(width, column - box_width // 2, box_width)[None, :]
    partner = _partners(partner_key, batch["labelled"])
    image = jnp.where(box[None, :, :, None], batch["image"][partner], batch["image"])
    return _mixed(batch, image, partner, 1 - jnp.mean(box, dtype=jnp.float32))


def mixup_or_cutmix(
    key: jax.Array,
    batch: Batch,
    mixup_alpha: Positive[float] = 0.8,
    cutmix_alpha: Positive[float] = 1.0,
    cutmix_share: Share[float] = 0.5,
) -> dict[str, jax.Array]:
    """Applies `cutmix` in the share `cutmix_share` of the steps, else `mixup`, as DeiT does (arXiv:2012.12877)."""
    choice, key = jax.random.split(key)
    cut, mixed = cutmix(key, batch, cutmix_alpha), mixup(key, batch, mixup_alpha)
    is_cut = jax.random.uniform(choice) < cutmix_share
    return jax.tree.map(lambda one, other: jnp.where(is_cut, one, other), cut, mixed)


def _partners(key: jax.Array, labelled: jax.Array) -> jax.Array:
    """Returns int32 [B]: a random permutation of the labelled rows among themselves, and of the others."""
    chance = jax.random.uniform(key, labelled.shape)
    in_order = jnp.lexsort((jnp.arange(len(labelled)), labelled))
    at_random = jnp.lexsort((chance, labelled))
    return jnp.zeros_like(in_order).at[in_order].set(at_random)


def _mixed(batch: Batch, image: jax.Array, partner: jax.Array, weight: jax.Array) -> dict[str, jax.Array]:
    weights = jnp.broadcast_to(weight.astype(jnp.float32), partner.shape)
    return {**batch, "image": image, "mix_label": batch["label"][partner], "mix_weight": weights}


IMAGE_OPS: dict[str, Callable] = {"pad_crop": pad_crop, "flip": flip, "rand_augment": rand_augment}
NORMALISED_OPS: dict[str, Callable] = {"cutout": cutout, "random_erasing": random_erasing}
BATCH_OPS: dict[str, Callable] = {"mixup": mixup, "cutmix": cutmix, "mixup_or_cutmix": mixup_or_cutmix}
