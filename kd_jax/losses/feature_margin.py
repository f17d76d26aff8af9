"""Losses on pre-activations: which side of the ReLU a feature is on matters more than its value."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kd_jax.losses._numerics import absolute, require_same_shape, scalar_like, sum_rest, to_float
from kd_jax.ranges import NotNegative

Array = jax.Array


def activation_boundary_loss(student: Array, teacher: Array, *, margin: NotNegative[Array | float] = 1.0) -> Array:
    """Computes the SUM over features of (s + m)^2 [s > -m, t <= 0] + (s - m)^2 [s <= m, t > 0], before the ReLU.

    Both [batch, ...] of one shape, ValueError otherwise; returns [batch]. Not 0 at s == t: only signs and margins
    count. Heo, Lee, Yun, Choi, "Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons"
    (AB), 2018, arXiv 1811.03233. The authors' script multiplies by 3/1000 and halves with each earlier layer: weights.
    """
    s, t = to_float(student, teacher)
    require_same_shape("activation_boundary_loss", s, t)
    m = scalar_like(margin, s)
    below = jnp.where((s > -m) & (t <= 0), (s + m) ** 2, 0)
    above = jnp.where((s <= m) & (t > 0), (s - m) ** 2, 0)
    return sum_rest(below + above)


def overhaul_loss(student: Array, teacher: Array, margin: Array) -> Array:
    """Computes the SUM over features of (s - t')^2 [s > t' or t' > 0], t' = max(t, margin), s and t before the ReLU.

    student and teacher [batch, ..., channels] of one shape, margin [channels] (negative; `relu_margin`); ValueError
    otherwise; returns [batch].
    Heo, Kim, Yun, Park, Kwak, Choi, "A Comprehensive Overhaul of Feature Distillation" (OFD), 2019, arXiv 1904.01866.
    The authors' scripts divide by 1000 to 100000, and by 2 for each earlier layer: weights.
    """
    s, t, margin = to_float(student, teacher, margin)
    require_same_shape("overhaul_loss", s, t)
    if margin.shape != t.shape[-1:]:
        raise ValueError(f"overhaul_loss: margin must have shape {t.shape[-1:]} for maps {t.shape}, got {margin.shape}")
    target = jnp.maximum(t, jnp.expand_dims(margin, tuple(range(t.ndim - 1))))
    return sum_rest(jnp.where((s > target) | (target > 0), (s - target) ** 2, 0))


def relu_margin(bn_scale: Array, bn_bias: Array) -> Array:
    """Computes each channel's margin: E[x | x < 0] for x ~ N(bias, scale^2), or -3 |scale| where P(x < 0) <= 0.001.

    bn_scale, bn_bias [channels] of the teacher's last BatchNorm, one shape (ValueError otherwise); returns [channels].
    Heo et al., 2019, arXiv 1904.01866. A channel with scale 0 is constant: its margin is min(bias, 0).
    """
    scale, mean = to_float(bn_scale, bn_bias)
    require_same_shape("relu_margin (bn_scale, bn_bias)", scale, mean)
    scale = absolute(scale)
    live = scale > 0
    z = mean / jnp.where(live, scale, 1)
    below = jax.scipy.stats.norm.cdf(-z)
    expected = mean - scale * jnp.exp(jax.scipy.stats.norm.logpdf(z)) / jnp.maximum(below, 1e-3)
    return jnp.where(live, jnp.where(below > 1e-3, expected, -3 * scale), jnp.minimum(mean, 0))
