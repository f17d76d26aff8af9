"""Augmentation on the device, as a pure function of a key and the examples' numbers.

An example's random numbers come from fold_in(fold_in(key, index), view), so one (index, view) is one picture in any
batch, and a teacher's answer to it can be stored. Only mixup and cutmix depend on the batch.
Order: crops, flips and colours on the stored values, then normalisation to float, then cutout and erasing, then mixing.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from kd_jax.data.image_ops import IMAGE_OPS, NORMALISED_OPS
from kd_jax.data.mixing import BATCH_OPS
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
