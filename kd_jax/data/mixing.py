"""Operations of augmentation that mix the examples of a batch in pairs, each a pure function of a key."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from kd_jax.data.image_ops import integers, span
from kd_jax.ranges import Positive, Share

Batch = Mapping[str, jax.Array]


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
    row, column = integers(chance[0], height), integers(chance[1], width)
    rows = span(height, row - box_height // 2, box_height)
    box = rows[:, None] & span(width, column - box_width // 2, box_width)[None, :]
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


BATCH_OPS: dict[str, Callable] = {"mixup": mixup, "cutmix": cutmix, "mixup_or_cutmix": mixup_or_cutmix}
