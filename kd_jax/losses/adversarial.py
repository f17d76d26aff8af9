"""Losses of a discriminator that tells student (fake) from teacher (real), and of a student that fools it.

Inputs are the discriminator's outputs before any sigmoid, [batch] or [batch, ...] (averaged over patches); all return
[batch]. `real` is "real" by name only: the teacher's features, logits, or images.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from kd_jax.losses._numerics import flatten, mean_rest, require_same_batch, safe_norm, scalar_like, to_float
from kd_jax.ranges import NotNegative

Array = jax.Array


def discriminator_loss(fake: Array, real: Array) -> Array:
    """Computes -log(1 - sigmoid(fake)) - log sigmoid(real).

    Both [batch, ...] (ValueError on other batch sizes); returns [batch]. Goodfellow et al., "Generative Adversarial
    Networks", 2014, arXiv 1406.2661; for distillation Xu, Hsu, Huang, "Training Shallow and Thin Networks for
    Acceleration via Knowledge Distillation with Conditional Adversarial Networks", 2017, arXiv 1709.00513.
    """
    fake, real = to_float(fake, real)
    require_same_batch("discriminator_loss", fake, real)
    return mean_rest(jax.nn.softplus(fake)) + mean_rest(jax.nn.softplus(-real))


def fool_loss(fake: Array) -> Array:
    """Computes -log sigmoid(fake), the non-saturating loss of the student.

    fake [batch, ...]; returns [batch]. Goodfellow et al., 2014, arXiv 1406.2661.
    """
    (fake,) = to_float(fake)
    return mean_rest(jax.nn.softplus(-fake))


def least_squares_discriminator_loss(fake: Array, real: Array) -> Array:
    """Computes 1/2 fake^2 + 1/2 (real - 1)^2.

    Both [batch, ...] (ValueError on other batch sizes); returns [batch].
    Mao, Li, Xie, Lau, Wang, Smolley, "Least Squares Generative Adversarial Networks", 2016, arXiv 1611.04076.
    """
    fake, real = to_float(fake, real)
    require_same_batch("least_squares_discriminator_loss", fake, real)
    return 0.5 * mean_rest(fake**2) + 0.5 * mean_rest((real - 1) ** 2)


def least_squares_fool_loss(fake: Array) -> Array:
    """Computes 1/2 (fake - 1)^2.

    fake [batch, ...]; returns [batch]. Mao et al., 2016, arXiv 1611.04076.
    """
    (fake,) = to_float(fake)
    return 0.5 * mean_rest((fake - 1) ** 2)


def hinge_discriminator_loss(fake: Array, real: Array) -> Array:
    """Computes max(0, 1 + fake) + max(0, 1 - real).

    Both [batch, ...] (ValueError on other batch sizes); returns [batch].
    Lim, Ye, "Geometric GAN", 2017, arXiv 1705.02894.
    """
    fake, real = to_float(fake, real)
    require_same_batch("hinge_discriminator_loss", fake, real)
    return mean_rest(jax.nn.relu(1 + fake)) + mean_rest(jax.nn.relu(1 - real))


def hinge_fool_loss(fake: Array) -> Array:
    """Computes -fake, which is unbounded below by design.

    fake [batch, ...]; returns [batch]. Lim, Ye, 2017, arXiv 1705.02894.
    """
    (fake,) = to_float(fake)
    return -mean_rest(fake)


def wasserstein_discriminator_loss(fake: Array, real: Array) -> Array:
    """Computes fake - real, minus the critic's estimate of the Wasserstein distance; it needs a `gradient_penalty`.

    Both [batch, ...] (ValueError on other batch sizes); returns [batch]; the student's loss is `hinge_fool_loss`.
    Arjovsky, Chintala, Bottou, "Wasserstein GAN", 2017, arXiv 1701.07875.
    """
    fake, real = to_float(fake, real)
    require_same_batch("wasserstein_discriminator_loss", fake, real)
    return mean_rest(fake) - mean_rest(real)


def gradient_penalty(score: Callable[[Array], Array], at: Array, *, centre: NotNegative[Array | float] = 1.0) -> Array:
    """Computes (||d score(x) / dx||_2 - centre)^2 at x = `at`, the norm over all features of an example.

    score: [batch, ...] -> [batch, ...] (averaged over patches), where an example's score depends on no other example;
    at [batch, ...]; returns [batch], differentiable in what `score` closes over. centre 1 between real and fake:
    Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville, "Improved Training of Wasserstein GANs", 2017, arXiv 1704.00028;
    centre 0 on the real: R1 of Mescheder, Geiger, Nowozin, "Which Training Methods for GANs do actually Converge?",
    2018, arXiv 1801.04406, who write gamma / 2 for the weight.
    """
    (at,) = to_float(at)
    slope = flatten(jax.grad(lambda x: jnp.sum(mean_rest(*to_float(score(x)))))(at))
    return (safe_norm(slope) - scalar_like(centre, slope)) ** 2
