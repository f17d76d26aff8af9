"""Augmentation on the device that moves pictures and their masks together; a config names it as config.prepare."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from kd_jax import prng
from kd_jax.data.augment import example_keys
from kd_jax.ranges import NotNegative
from kd_jax.types import Array

IGNORED = -1  # the class of pixels that come from outside the picture


def moved(
    batch: Mapping[str, Array],
    train: bool,
    key: Array,
    flip: bool = False,
    turn: bool = False,
    shift: NotNegative[int] = 0,
) -> dict[str, Array]:
    """Returns the entries of a prepared batch that lie on the pixels of its masks, moved alike; {} in evaluation.

    `flip` exchanges left and right in half of the cases, `turn` turns by a multiple of 90 degrees, `shift` moves by up
    to so many pixels each way. What comes in at the border is 0 (the mean colour) in pictures, no label in masks. One
    (index, view) is moved in one way. Moved are all entries [batch, H, W, ...] of the masks' H and W: every view of the
    picture, so a teacher's clean one too, and further fields; stored answers of teachers ("teacher/logits") are those
    to moved pictures already. ValueError where there are no masks, where a picture to be turned is not square, and
    where a network sees pictures of another size, which would stay as they are.
    """
    if not train:
        return {}
    size = batch["label"].shape[1:]
    if len(size) != 2 or not jnp.issubdtype(batch["label"].dtype, jnp.integer):
        raise ValueError(f"config.prepare: moved needs masks, integers [batch, H, W]; the labels are {size} an example")
    if turn and size[0] != size[1]:
        raise ValueError(f"config.prepare.kwargs.turn needs square pictures, these are {size[0]} x {size[1]}")
    lying = {name: x for name, x in batch.items() if x.ndim > 2 and "/" not in name}
    if other := [f"{name} {x.shape[1:3]}" for name, x in lying.items() if x.ndim == 4 and x.shape[1:3] != size]:
        raise ValueError(f"config.prepare: moved moves pictures of the masks' size {size}, and there is {other[0]}")
    lying = {name: x for name, x in lying.items() if x.shape[1:3] == size}
    keys = example_keys(prng.stream(key, "moved_masks", 0), batch)
    move = functools.partial(_moved, flip=flip, turn=turn, shift=shift)
    return jax.vmap(move)(keys, lying)


def _moved(key: Array, entries: Mapping[str, Array], *, flip: bool, turn: bool, shift: int) -> dict[str, Array]:
    """Returns the entries [H, W, ...] of one example, moved by what the key draws."""
    mirror, quarters, down, right = jax.random.uniform(key, (4,))
    place = tuple((chance * (2 * shift + 1)).astype(jnp.int32) for chance in (down, right))

    def move(x: Array) -> Array:
        x = jnp.where(mirror < 0.5, x[:, ::-1], x) if flip else x
        if turn:
            x = jax.lax.select_n((quarters * 4).astype(jnp.int32), *(jnp.rot90(x, k) for k in range(4)))
        if not shift:
            return x
        outside = IGNORED if jnp.issubdtype(x.dtype, jnp.integer) else 0
        padded = jnp.pad(x, [(shift, shift)] * 2 + [(0, 0)] * (x.ndim - 2), constant_values=outside)
        return jax.lax.dynamic_slice(padded, (*place, *[0] * (x.ndim - 2)), x.shape)

    return {name: move(x) for name, x in entries.items()}
