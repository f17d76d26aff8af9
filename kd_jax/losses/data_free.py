"""Losses on made-up images, which train a generator, or the pixels themselves, where there are no real images.

Gradients go through the teacher to the images. All return [batch]; those that describe a batch as a whole return their
one value for every example, so that the mean is that value.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kd_jax.losses._numerics import (
    absolute,
    count,
    difference,
    flatten,
    keep_rows,
    log_probs,
    mean_possible,
    mean_rest,
    possible,
    require_same_shape,
    row_mask,
    safe_norm,
    to_float,
)

Array = jax.Array


def disagreement_loss(student_logits: Array, teacher_logits: Array) -> Array:
    """Computes mean_c |s_c - t_c|: the student minimises it, the generator maximises it (a negative weight).

    Logits [batch, classes] of one shape, ValueError otherwise; returns [batch]. Fang, Song, Shen, Wang, Chen, Song,
    "Data-Free Adversarial Distillation", 2019, arXiv 1912.11006. Unlike a divergence of probabilities it keeps a
    gradient where both networks are sure. For the divergence of Micaelli, Storkey, "Zero-shot Knowledge Transfer via
    Adversarial Belief Matching", 2019, arXiv 1905.09768, take response.kd_loss at T = 1.
    """
    student, teacher = to_float(student_logits, teacher_logits)
    require_same_shape("disagreement_loss", student, teacher)
    there = flatten(possible(student, teacher))
    return mean_possible(flatten(absolute(difference(student, teacher))), there)


def one_hot_loss(logits: Array) -> Array:
    """Computes -log max_c softmax(logits)_c, cross-entropy with the predicted class: images become unambiguous.

    logits [batch, classes]; returns [batch]. The first of three losses of Chen, Wang, Xu, Yang, Liu, Shi, Xu, Xu,
    Tian, "Data-Free Learning of Student Networks" (DAFL), 2019, arXiv 1904.01186.
    """
    (logits,) = to_float(logits)
    return -jnp.max(log_probs(logits), axis=-1)


def activation_loss(features: Array) -> Array:
    """Computes -mean |f| over all but the batch: real images excite the teacher's features more than noise does.

    features [batch, ...]; returns [batch]. DAFL, arXiv 1904.01186.
    """
    (features,) = to_float(features)
    return -mean_rest(absolute(features))


def information_entropy_loss(logits: Array, *, where: Array | None = None) -> Array:
    """Computes sum_c p_c log p_c, p the mean of softmax(logits) over the batch: lowest, -log classes, for uniform p.

    logits [batch, classes], where [batch]; returns [batch], one value for all. DAFL, arXiv 1904.01186; the authors'
    code takes the logarithm to base 10, the paper and we to base e.
    """
    (logits,) = to_float(logits)
    mask = row_mask(where, logits.shape[0], "information_entropy_loss")
    p = jnp.sum(keep_rows(jnp.exp(log_probs(keep_rows(logits, mask))), mask), axis=0) / count(mask, logits)
    live = p > 0
    value = jnp.sum(jnp.where(live, p * jnp.log(jnp.where(live, p, 1)), 0))
    return jnp.full(logits.shape[:1], value)


def batch_norm_statistics_loss(features: Array, mean: Array, var: Array, *, where: Array | None = None) -> Array:
    """Computes ||mean_batch(f) - mean||_2 + ||var_batch(f) - var||_2: the batch gets the training data's statistics.

    features [batch, ..., channels] before the BatchNorm, mean and var [channels] as it has stored them, where [batch];
    returns [batch], one value for all. ValueError on other shapes. The variance is biased, as BatchNorm's own. Yin,
    Molchanov, Li, Alvarez, Mallya, Hoiem, Jha, Kautz, "Dreaming to Distill: Data-free Knowledge Transfer via
    DeepInversion", 2020, arXiv 1912.08795. The norms are not squared, as published.
    """
    features, mean, var = to_float(features, mean, var)
    if not mean.shape == var.shape == features.shape[-1:]:
        raise ValueError(
            f"batch_norm_statistics_loss: features {features.shape} need a mean and a variance a channel, "
            f"got {mean.shape} and {var.shape}"
        )
    mask = row_mask(where, features.shape[0], "batch_norm_statistics_loss")
    flat = keep_rows(features.reshape(features.shape[0], -1, features.shape[-1]), mask)
    number = count(mask, flat) * flat.shape[1]
    center = jnp.sum(flat, axis=(0, 1)) / number
    spread = jnp.sum(keep_rows(flat - center[None, None], mask) ** 2, axis=(0, 1)) / number
    return jnp.full(features.shape[:1], safe_norm(center - mean) + safe_norm(spread - var))


def image_variation_loss(images: Array) -> Array:
    """Computes the mean squared difference of vertical neighbours plus that of horizontal ones: images become smooth.

    images [batch, height, width, channels], ValueError otherwise; returns [batch]. Total variation with exponent 2:
    Mahendran, Vedaldi, "Understanding Deep Image Representations by Inverting Them", 2014, arXiv 1412.0035.
    """
    (images,) = to_float(images)
    if images.ndim != 4 or min(images.shape[1:3]) < 2:
        raise ValueError(f"image_variation_loss: expected images [batch, height, width, channels], got {images.shape}")
    return mean_rest((images[:, 1:] - images[:, :-1]) ** 2) + mean_rest((images[:, :, 1:] - images[:, :, :-1]) ** 2)


def image_prior_loss(images: Array) -> Array:
    """Computes the sum of ||x_ij - x_kl||_2 over the batch, for vertical, horizontal and both diagonal neighbours.

    images [batch, height, width, channels], ValueError otherwise; returns [batch], one value for all. Four norms of the
    batch as a whole, which are not squared, as in the code of DeepInversion, arXiv 1912.08795.
    """
    (images,) = to_float(images)
    if images.ndim != 4 or min(images.shape[1:3]) < 2:
        raise ValueError(f"image_prior_loss: expected images [batch, height, width, channels], got {images.shape}")
    down, right = images[:, 1:] - images[:, :-1], images[:, :, 1:] - images[:, :, :-1]
    falling, rising = images[:, 1:, 1:] - images[:, :-1, :-1], images[:, 1:, :-1] - images[:, :-1, 1:]
    value = sum(safe_norm(difference.reshape(-1)) for difference in (down, right, falling, rising))
    return jnp.full(images.shape[:1], value)


def image_norm_loss(images: Array) -> Array:
    """Computes mean x^2 over all but the batch: pixels stay near the mean colour, which is 0 after normalisation.

    images [batch, ...]; returns [batch]. DeepInversion, arXiv 1912.08795.
    """
    (images,) = to_float(images)
    return mean_rest(images**2)
