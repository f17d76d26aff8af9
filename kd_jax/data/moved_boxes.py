"""Augmentation on the device that moves pictures and the boxes in them together; a config names it as config.prepare.

Labels are objects float32 [batch, objects, 5], as kd_jax/data/boxes.py says.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax import prng
from kd_jax.data.augment import example_keys
from kd_jax.ranges import NotNegative, Share
from kd_jax.types import Array

NUMBERS = 5  # of an object: x1, y1, x2, y2, class


def holds_objects(labels: Any) -> bool:
    """Tells whether labels are objects: float32 [n, objects, 5]."""
    return labels is not None and labels.ndim == 3 and labels.shape[2] == NUMBERS and labels.dtype == np.float32


def moved(
    batch: Mapping[str, Array],
    train: bool,
    key: Array,
    flip: bool = False,
    shift: NotNegative[int] = 0,
    visible: Share[float] = 0.5,
) -> dict[str, Array]:
    """Returns the pictures and the objects of a prepared batch, moved alike; {} in evaluation.

    `flip` exchanges left and right in half of the cases, `shift` moves by up to so many pixels each way; what comes in
    at the border is 0, the mean colour. Boxes are cut off at the border, and those of which less than the share
    `visible` is left are objects no more. One (index, view) is moved in one way. Moved are all entries [batch, H, W, C]
    of the picture's H and W: every view of it, so a teacher's clean one too; stored answers of teachers
    ("teacher/logits") are those to moved pictures already. ValueError where labels are no objects, and where a network
    sees pictures of another size, which would stay as they are.
    """
    if not train:
        return {}
    if not holds_objects(batch["label"]):
        raise ValueError(
            f"config.prepare: moved needs objects, float32 [batch, objects, 5]; the labels are {batch['label'].dtype} "
            f"{batch['label'].shape[1:]} an example"
        )
    size = batch["image"].shape[1:3]
    pictures = {name: x for name, x in batch.items() if x.ndim == 4 and "/" not in name}
    if other := [f"{name} {x.shape[1:3]}" for name, x in pictures.items() if x.shape[1:3] != size]:
        raise ValueError(f"config.prepare: moved moves pictures of one size, {size}, and there is {other[0]}")
    keys = example_keys(prng.stream(key, "moved_boxes", 0), batch)
    entries, objects = jax.vmap(functools.partial(_moved, flip=flip, shift=shift))(keys, pictures, batch["label"])
    objects = clipped(objects, size, visible)
    return {**entries, "label": objects, "target": objects}


def _moved(
    key: Array, pictures: Mapping[str, Array], objects: Array, *, flip: bool, shift: int
) -> tuple[dict[str, Array], Array]:
    """Returns the pictures [H, W, C] and the objects [n, 5] of one example, moved by what the key draws."""
    mirror, down, right = jax.random.uniform(key, (3,))
    mirrored = (mirror < 0.5) & flip
    dy, dx = ((chance * (2 * shift + 1)).astype(jnp.int32) - shift for chance in (down, right))

    def move(x: Array) -> Array:
        x = jnp.where(mirrored, x[:, ::-1], x)
        padded = jnp.pad(x, ((shift, shift), (shift, shift), (0, 0)))
        return jax.lax.dynamic_slice(padded, (shift - dy, shift - dx, 0), x.shape)

    width = next(iter(pictures.values())).shape[1]
    x1, y1, x2, y2, kind = objects.T
    x1, x2 = jnp.where(mirrored, width - x2, x1) + dx, jnp.where(mirrored, width - x1, x2) + dx
    return {name: move(x) for name, x in pictures.items()}, jnp.stack([x1, y1 + dy, x2, y2 + dy, kind], axis=1)


def clipped(objects: Array, size: tuple[int, int], visible: float) -> Array:
    """Returns objects [..., 5] cut off at the border of a picture of `size` (height, width).

    Those of which less than the share `visible` of the area is left, or nothing, have class -1 and a box of zeros.
    """
    boxes, kind = objects[..., :4], objects[..., 4]
    limit = jnp.asarray([size[1], size[0], size[1], size[0]], boxes.dtype)
    inside = jnp.clip(boxes, 0, jnp.broadcast_to(limit, boxes.shape))
    before, after = (jnp.prod(x[..., 2:] - x[..., :2], axis=-1) for x in (boxes, inside))
    gone = (kind >= 0) & ((after <= 0) | (after < visible * before))
    empty = gone | (kind < 0)
    return jnp.concatenate([jnp.where(empty[..., None], 0.0, inside), jnp.where(gone, -1.0, kind)[..., None]], axis=-1)
