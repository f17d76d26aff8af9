"""Losses for outputs with positions: segmentation and detection. Maps are [batch, height, width, channels]."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kd_jax.losses._numerics import (
    einsum,
    expected,
    kl,
    log_probs,
    mean_rest,
    of_all,
    possible,
    require_maps,
    require_same_shape,
    squared,
    to_float,
)
from kd_jax.ranges import Portion, Positive

Array = jax.Array


def channel_wise_loss(student: Array, teacher: Array, *, temperature: Positive[Array | float] = 4.0) -> Array:
    """Computes T^2 times the mean over channels of KL(p_t, p_s), p = softmax over the positions of a channel at T.

    Maps [batch, height, width, channels] of one shape, ValueError otherwise; returns [batch].
    Shu, Liu, Gao, Yan, Shen, "Channel-wise Knowledge Distillation for Dense Prediction" (CWD), 2020, arXiv 2011.13256.
    """
    s, t = to_float(student, teacher)
    require_maps("channel_wise_loss", s, t)
    require_same_shape("channel_wise_loss", s, t)
    # [batch, channels, positions]; a temperature for each example becomes [batch, 1].
    s, t = (jnp.swapaxes(x.reshape(x.shape[0], -1, x.shape[-1]), 1, 2) for x in (s, t))
    temperature = jnp.asarray(temperature)
    if temperature.ndim:
        temperature = temperature[:, None]
    return jnp.mean(squared(temperature, s) * kl(log_probs(t, temperature), log_probs(s, temperature)), axis=1)


def _affinity(x: Array, scale: float) -> Array:
    """Computes the cosines [batch, regions, regions] of the max-pooled regions of a map; norms are detached."""
    patch = tuple(max(int(size * scale), 1) for size in x.shape[1:3])
    # The last window may hang over the edge (ceil_mode).
    pads = [(0, -size % width) for size, width in zip(x.shape[1:3], patch, strict=True)]
    window = (1, *patch, 1)
    x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, [(0, 0), *pads, (0, 0)])
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    norm = jax.lax.stop_gradient(jnp.sqrt(jnp.sum(x * x, axis=-1, keepdims=True)))
    x = jnp.where(norm > 0, x / (norm + 1e-8), 0)
    return einsum("bmc,bnc->bmn", x, x)


def pairwise_affinity_loss(student: Array, teacher: Array, *, scale: Portion[float] = 0.5) -> Array:
    """Computes the mean over pairs of regions of (a_s - a_t)^2, a = their cosine, a region = the maxima over a patch.

    A patch has `scale` (static) times the map's height and width; the last may be cut off (ceil). Maps [batch, height,
    width, channels] of one height and width, channels may differ, ValueError otherwise; returns [batch]. Norms are
    detached, as published. Liu, Chen, Liu, Qin, Luo, Wang, "Structured Knowledge Distillation for Semantic
    Segmentation", 2019, arXiv 1903.04197. A dead region has cosine 0 with gradient 0 (published: 1e8).
    """
    s, t = to_float(student, teacher)
    require_maps("pairwise_affinity_loss", s, t)
    if s.shape[1:3] != t.shape[1:3]:
        raise ValueError(
            f"pairwise_affinity_loss: maps must have one height and width, got student {s.shape} and teacher {t.shape}"
        )
    return mean_rest((_affinity(s, scale) - _affinity(t, scale)) ** 2)


def pixel_wise_loss(student: Array, teacher: Array, *, temperature: Positive[Array | float] = 1.0) -> Array:
    """Computes -T^2 sum_c p_t log p_s, averaged over the positions.

    Logits [batch, ..., classes] of one shape, ValueError otherwise; returns [batch].
    Liu et al., 2019, arXiv 1903.04197. The authors' code sums over the batch where we average, and has T = 1.
    """
    s, t = to_float(student, teacher)
    require_same_shape("pixel_wise_loss", s, t)
    values = squared(temperature, s) * -expected(jnp.exp(log_probs(t, temperature)), log_probs(s, temperature))
    return mean_rest(values)


def localization_loss(student: Array, teacher: Array, *, temperature: Positive[Array | float] = 10.0) -> Array:
    """Computes T^2 KL(p_t, p_s) / bins, p the distributions over the bins of one side of a box.

    Logits [..., bins] of one shape, ValueError otherwise; returns [...] (one value a box side).
    Zheng, Ye, Wang, Ren, Zuo, Hou, Cheng, "Localization Distillation for Dense Object Detection" (LD), 2021,
    arXiv 2102.12252. As the authors' code, the mean over the bins, not the sum.
    """
    s, t = to_float(student, teacher)
    require_same_shape("localization_loss", s, t)
    divergence = kl(log_probs(t, temperature), log_probs(s, temperature))
    return squared(temperature, s) * divergence / s.shape[-1] * of_all(possible(s, t), s)
