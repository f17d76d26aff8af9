"""Kernel regression with the kernels of infinitely wide networks."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kd_jax.losses._numerics import einsum, flatten, safe_norm, to_float
from kd_jax.ranges import Count, Positive

Array = jax.Array


def tangent_kernel(x: Array, y: Array, *, depth: Count[int] = 1) -> Array:
    """Computes the neural tangent kernel [n, m] of a fully connected ReLU network with `depth` hidden layers.

    With S_0 = x y' / width, T_0 = S_0, and the angle a of S: S_{l+1} = |S_x| |S_y| (sin a + (pi - a) cos a) / pi and
    T_{l+1} = S_{l+1} + T_l (pi - a) / pi. Inputs [n, ...] and [m, ...] of one width. Jacot, Gabriel, Hongler, "Neural
    Tangent Kernel", 2018, arXiv 1806.07572; Cho, Saul, "Kernel Methods for Deep Learning", NIPS 2009. Variance 2 of the
    weights (He), no biases.
    """
    x, y = (flatten(z) for z in to_float(x, y))
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"tangent_kernel: inputs must have one width, got {x.shape} and {y.shape}")
    covariance = einsum("nd,md->nm", x, y) / x.shape[1]
    norms = [safe_norm(z, axis=1) / jnp.sqrt(jnp.asarray(z.shape[1], z.dtype)) for z in (x, y)]
    scale = norms[0][:, None] * norms[1][None]
    tangent = covariance
    for _ in range(depth):
        live = scale > 0
        cosine = jnp.where(live, covariance / jnp.where(live, scale, 1), 0)
        cosine = jnp.clip(cosine, -1 + 1e-6, 1 - 1e-6)  # the angle's derivative is infinite at equal inputs
        angle = jnp.arccos(cosine)
        covariance = scale * (jnp.sin(angle) + (jnp.pi - angle) * cosine) / jnp.pi
        tangent = covariance + tangent * (jnp.pi - angle) / jnp.pi
    return tangent


def kernel_regression_loss(
    synthetic: Array,
    real: Array,
    synthetic_labels: Array,
    real_labels: Array,
    *,
    classes: Count[int],
    depth: Count[int] = 1,
    ridge: Positive[float] = 1e-3,
) -> Array:
    """Computes |y_r - K_rs (K_ss + ridge trace(K_ss) / n I)^-1 y_s|^2 / 2 of each real example.

    y = one-hot - 1 / classes. Examples [n, ...] and [m, ...], labels int [n] and [m]; returns [m]. K is
    `tangent_kernel`. Nguyen, Chen, Lee, "Dataset Meta-Learning from Kernel Ridge-Regression" (KIP), 2020, arXiv
    2011.00050.
    """
    (labels_s, labels_r) = jnp.asarray(synthetic_labels), jnp.asarray(real_labels)
    if labels_s.shape != synthetic.shape[:1] or labels_r.shape != real.shape[:1]:
        raise ValueError(
            f"kernel_regression_loss: examples {synthetic.shape} and {real.shape} need labels of theirs, got "
            f"{labels_s.shape} and {labels_r.shape}"
        )
    inner, outer = tangent_kernel(synthetic, synthetic, depth=depth), tangent_kernel(real, synthetic, depth=depth)
    y_s, y_r = (jax.nn.one_hot(y, classes, dtype=inner.dtype) - 1 / classes for y in (labels_s, labels_r))
    strength = ridge * jnp.trace(inner) / len(inner)
    solved = jax.scipy.linalg.solve(inner + strength * jnp.eye(len(inner), dtype=inner.dtype), y_s, assume_a="pos")
    return 0.5 * jnp.sum((y_r - einsum("rs,sc->rc", outer, solved)) ** 2, axis=1)
