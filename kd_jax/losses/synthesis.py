"""Losses of dataset distillation: synthetic examples teach what the real ones do."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from kd_jax.losses._numerics import einsum, require_same_channels, safe_norm, to_float
from kd_jax.ranges import Count

Array = jax.Array


def distribution_matching_loss(
    synthetic: Array, real: Array, synthetic_labels: Array, real_labels: Array, *, classes: Count[int]
) -> Array:
    """Computes |mean of synthetic - mean of real|^2 for each class, 0 where a side lacks the class.

    Embeddings [n, width] and [m, width] of a network, labels int [n] and [m]; returns [classes]: their sum is the
    published loss. ValueError on other shapes. Zhao, Bilen, "Dataset Condensation with Distribution Matching" (DM),
    2021, arXiv 2110.04181: a network is drawn anew for each step, and both sides see one augmentation.
    """
    s, r = to_float(synthetic, real)
    if s.ndim != 2 or r.ndim != 2:
        raise ValueError(f"distribution_matching_loss: expected embeddings [n, width], got {s.shape} and {r.shape}")
    require_same_channels("distribution_matching_loss", s, r)

    def means(what: str, x: Array, labels: Array) -> tuple[Array, Array]:
        labels = jnp.asarray(labels)
        if labels.shape != x.shape[:1]:
            raise ValueError(f"distribution_matching_loss: {what} {x.shape} needs labels {x.shape[:1]}, {labels.shape}")
        members = jax.nn.one_hot(labels, classes, dtype=x.dtype)
        number = members.sum(0)
        return einsum("nc,nw->cw", members, x) / jnp.maximum(number, 1)[:, None], number > 0

    (mean_s, in_s), (mean_r, in_r) = means("synthetic", s, synthetic_labels), means("real", r, real_labels)
    return jnp.where(in_s & in_r, jnp.sum((mean_s - mean_r) ** 2, axis=-1), 0)


def gradient_matching_loss(synthetic: Any, real: Any, *, metric: str = "outputs") -> Array:
    """Computes the distance of two gradients of a network, pytrees of one structure; returns [].

    metric="outputs": the sum over layers and output units (the last axis of a Flax kernel) of 1 - cos of their weights,
    parameters of one axis (biases, norms) left out; "squares": the sum of squared differences; "cosine": 1 - cos of all
    parameters as one vector. Products of norms have 1e-6 added. ValueError on other structures, shapes or words. Zhao,
    Mopuri, Bilen, "Dataset Condensation with Gradient Matching" (DC), 2020, arXiv 2006.05929, whose torch kernels have
    the outputs first. The published loss is one for each class, summed.
    """
    if jax.tree.structure(synthetic) != jax.tree.structure(real):
        raise ValueError("gradient_matching_loss: the gradients must be trees of one structure")
    pairs = [to_float(s, r) for s, r in zip(jax.tree.leaves(synthetic), jax.tree.leaves(real), strict=True)]
    for s, r in pairs:
        if s.shape != r.shape:
            raise ValueError(f"gradient_matching_loss: gradients of other shapes, {s.shape} and {r.shape}")
    if metric == "squares":
        return sum((jnp.sum((s - r) ** 2) for s, r in pairs), jnp.zeros(()))
    if metric == "cosine":
        return _distance(*(jnp.concatenate([pair[i].reshape(-1, 1) for pair in pairs]) for i in (0, 1)))
    if metric != "outputs":
        raise ValueError(f'gradient_matching_loss: metric must be "outputs", "squares" or "cosine", got {metric!r}')
    rows = ([x.reshape(-1, x.shape[-1]) for x in pair] for pair in pairs if pair[0].ndim > 1)
    return sum((_distance(s, r) for s, r in rows), jnp.zeros(()))


def _distance(s: Array, r: Array) -> Array:
    """Computes the sum over columns of 1 - cos."""
    return jnp.sum(1 - jnp.sum(s * r, axis=0) / (safe_norm(s, axis=0) * safe_norm(r, axis=0) + 1e-6))


def trajectory_matching_loss(student: Any, expert_end: Any, expert_start: Any) -> Array:
    """Computes |student - expert_end|^2 / |expert_start - expert_end|^2 of the parameters of a network; returns [].

    Pytrees of one structure: where the student came to from `expert_start` on synthetic examples, and the expert on
    real ones. 1e-12 is added to the denominator. ValueError on other structures or shapes. Cazenavette et al., "Dataset
    Distillation by Matching Training Trajectories" (MTT), 2022, arXiv 2203.11932.
    """
    apart = gradient_matching_loss(expert_start, expert_end, metric="squares")
    return gradient_matching_loss(student, expert_end, metric="squares") / (apart + 1e-12)
