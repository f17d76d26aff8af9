"""Losses on logits: the student predicts what the teacher predicts.

All take logits [..., classes] of one shape (ValueError otherwise, with both shapes), student first, and return [...].
A temperature is a number, or an array of the logits' leading shape. A divergence at T is multiplied by T^2, so that its
gradient does not shrink with T. No loss mixes in a cross-entropy or a weight.
`axis_name`, where a loss has it, is the mesh axis that shards the classes, for calls inside shard_map: the maximum and
the sums over the classes are collectives over it. vocabulary.py computes these losses from hidden states, in chunks.
Divergences from a mixture are in response_mixture; losses that also read labels, the batch, or a vocabulary in
response_labels, response_batch, response_vocabulary; all their names can be imported from here.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kd_jax.losses._numerics import (
    absolute,
    difference,
    expected,
    kl,
    kl_of_logits,
    log_probs,
    mean_possible,
    over_shards,
    possible,
    require_same_shape,
    scalar_like,
    squared,
    to_float,
)
from kd_jax.losses.needs import by_token, reads_every_logit
from kd_jax.losses.response_batch import dist_loss, learned_temperature, multi_level_logit_loss, standardize_logits
from kd_jax.losses.response_labels import dkd_loss, nkd_loss, wsld_loss
from kd_jax.losses.response_mixture import jsd_loss, skew_kl_loss, skew_reverse_kl_loss
from kd_jax.losses.response_vocabulary import topk_kd_loss, uld_loss
from kd_jax.ranges import Positive, Share

__all__ = [
    "adaptive_kl_loss",
    "dist_loss",
    "dkd_loss",
    "jsd_loss",
    "kd_loss",
    "learned_temperature",
    "logit_mse_loss",
    "multi_level_logit_loss",
    "nkd_loss",
    "reverse_kl_loss",
    "skew_kl_loss",
    "skew_reverse_kl_loss",
    "soft_cross_entropy_loss",
    "standardize_logits",
    "topk_kd_loss",
    "total_variation_loss",
    "ttm_loss",
    "uld_loss",
    "wsld_loss",
    "wttm_loss",
]

Array = jax.Array


def _both(what: str, student_logits: Array, teacher_logits: Array) -> tuple[Array, Array]:
    s, t = to_float(student_logits, teacher_logits)
    require_same_shape(what, s, t)
    return s, t


@by_token
def kd_loss(
    student_logits: Array,
    teacher_logits: Array,
    *,
    temperature: Positive[Array | float] = 4.0,
    axis_name: str | None = None,
) -> Array:
    """Computes T^2 KL(p_t, p_s) of the probabilities softmax(z / T).

    Logits [..., classes] of one shape, ValueError otherwise; returns [...].
    Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv 1503.02531.
    As RepDistiller and mdistiller; torchdistill without labels, and TextBrewer, leave T^2 out.
    """
    s, t = _both("kd_loss", student_logits, teacher_logits)
    return squared(temperature, s) * kl_of_logits(t, s, temperature, axis_name)


@by_token
def soft_cross_entropy_loss(
    student_logits: Array,
    teacher_logits: Array,
    *,
    temperature: Positive[Array | float] = 1.0,
    axis_name: str | None = None,
) -> Array:
    """Computes -T^2 sum_c p_t log p_s, which is kd_loss plus the teacher's entropy and has the gradient of kd_loss.

    Logits [..., classes] of one shape, ValueError otherwise; returns [...]. Hinton et al., 2015, arXiv 1503.02531.
    TextBrewer leaves T^2 out; TinyBERT also divides by the number of classes.
    """
    s, t = _both("soft_cross_entropy_loss", student_logits, teacher_logits)
    log_s, log_t = log_probs(s, temperature, axis_name), log_probs(t, temperature, axis_name)
    return -squared(temperature, s) * over_shards(expected(jnp.exp(log_t), log_s), axis_name)


@by_token
@reads_every_logit
def logit_mse_loss(student_logits: Array, teacher_logits: Array) -> Array:
    """Computes the mean over classes of (s - t)^2.

    Logits [..., classes] of one shape, ValueError otherwise; returns [...]. Bucila, Caruana, Niculescu-Mizil, "Model
    Compression", KDD 2006; Ba, Caruana, "Do Deep Nets Really Need to be Deep?", 2014, arXiv 1312.6184.
    """
    s, t = _both("logit_mse_loss", student_logits, teacher_logits)
    return mean_possible(difference(s, t) ** 2, possible(s, t))


@by_token
def reverse_kl_loss(
    student_logits: Array,
    teacher_logits: Array,
    *,
    temperature: Positive[Array | float] = 1.0,
    axis_name: str | None = None,
) -> Array:
    """Computes T^2 KL(p_s, p_t): the student avoids what the teacher finds unlikely.

    Logits [..., classes] of one shape, ValueError otherwise; returns [...].
    Gu, Dong, Wei, Huang, "MiniLLM: Knowledge Distillation of Large Language Models", 2023, arXiv 2306.08543
    (there over whole sequences; here a position).
    """
    s, t = _both("reverse_kl_loss", student_logits, teacher_logits)
    return squared(temperature, s) * kl_of_logits(s, t, temperature, axis_name)


@by_token
def adaptive_kl_loss(student_logits: Array, teacher_logits: Array, *, mu: Share[Array | float] = 0.5) -> Array:
    """Computes (g_h KL(p_t, p_s) + g_t KL(p_s, p_t)) / (g_h + g_t), g = sum |p_t - p_s| over head and tail of p_t.

    The head holds the teacher's most likely classes up to a summed probability of mu, at least one. Logits [...,
    classes] of one shape, ValueError otherwise; returns [...]. Temperature 1, as published. Wu, Tao, Wang, Yang, Zhao,
    Wong, "Rethinking Kullback-Leibler Divergence in Knowledge Distillation for Large Language Models" (AKL), 2024,
    arXiv 2404.02657. The gaps are detached, as published. Equal probabilities give 0 (published: NaN).
    """
    s, t = _both("adaptive_kl_loss", student_logits, teacher_logits)
    log_s, log_t = log_probs(s), log_probs(t)
    p_s, p_t = jnp.exp(log_s), jnp.exp(log_t)
    order = jnp.argsort(-p_t, axis=-1)
    gap = jax.lax.stop_gradient(jnp.take_along_axis(jnp.abs(p_t - p_s), order, axis=-1))
    head = jnp.cumsum(jnp.take_along_axis(p_t, order, axis=-1), axis=-1) <= scalar_like(mu, s)
    head = head.at[..., 0].set(True)
    total = jnp.sum(gap, axis=-1)
    share = jnp.sum(jnp.where(head, gap, 0), axis=-1) / jnp.where(total > 0, total, 1)
    return share * kl(log_t, log_s) + (1 - share) * kl(log_s, log_t)


@by_token
def total_variation_loss(
    student_logits: Array,
    teacher_logits: Array,
    *,
    temperature: Positive[Array | float] = 1.0,
    axis_name: str | None = None,
) -> Array:
    """Computes T^2 / 2 sum_c |p_t - p_s|.

    Logits [..., classes] of one shape, ValueError otherwise; returns [...].
    Wen, Li, Du, Mou, "f-Divergence Minimization for Sequence-Level Knowledge Distillation", 2023, arXiv 2307.15190.
    """
    s, t = _both("total_variation_loss", student_logits, teacher_logits)
    log_s, log_t = log_probs(s, temperature, axis_name), log_probs(t, temperature, axis_name)
    gap = absolute(jnp.exp(log_t) - jnp.exp(log_s))
    return 0.5 * squared(temperature, s) * over_shards(jnp.sum(gap, axis=-1), axis_name)


@by_token
def ttm_loss(student_logits: Array, teacher_logits: Array, *, gamma: Positive[Array | float] = 0.1) -> Array:
    """Computes KL(q, p_s), q = p_t^gamma / sum p_t^gamma, the student at temperature 1 (gamma = 1 / T of the teacher).

    Logits [..., classes] of one shape, ValueError otherwise; returns [...]. Zheng, Yang, "Knowledge Distillation Based
    on Transformed Teacher Matching", 2024, arXiv 2402.11148. No T^2, as published: the student is not softened.
    """
    s, t = _both("ttm_loss", student_logits, teacher_logits)
    return kl(log_probs(scalar_like(gamma, s) * t), log_probs(s))


@by_token
def wttm_loss(student_logits: Array, teacher_logits: Array, *, gamma: Positive[Array | float] = 0.1) -> Array:
    """Computes sum_c p_t^gamma times ttm_loss: examples of which the teacher is unsure weigh more.

    Shapes, errors and paper as `ttm_loss`.
    """
    s, t = _both("wttm_loss", student_logits, teacher_logits)
    gamma = scalar_like(gamma, s)
    weight = jnp.sum(jnp.exp(gamma * log_probs(t)), axis=-1)
    return weight * kl(log_probs(gamma * t), log_probs(s))
