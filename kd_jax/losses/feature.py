"""Losses on intermediate values: the student's features become those of the teacher.

Maps are [batch, height, width, channels]; all return [batch]. A connector (regressor, paraphraser, fusion block, reused
classifier) brings the student to the teacher's shape. SimKD is `feature_hint_loss` behind its connector, MGD is
`feature_sum_loss` behind its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from kd_jax.losses._numerics import (
    absolute,
    adaptive_average_pool,
    center,
    count,
    difference,
    einsum,
    flatten,
    keep_rows,
    mean_possible,
    mean_rest,
    pool_to_smaller,
    possible,
    require_maps,
    require_same_channels,
    require_same_shape,
    row_mask,
    safe_norm,
    sum_rest,
    to_float,
    unit,
)
from kd_jax.losses.feature_margin import activation_boundary_loss, overhaul_loss, relu_margin
from kd_jax.ranges import Count, Positive

__all__ = [
    "activation_boundary_loss",
    "attention_transfer_loss",
    "class_attention_loss",
    "factor_transfer_loss",
    "feature_hint_loss",
    "feature_sum_loss",
    "fsp_loss",
    "hierarchical_context_loss",
    "inter_channel_loss",
    "neuron_selectivity_loss",
    "overhaul_loss",
    "pearson_feature_loss",
    "relu_margin",
    "softmax_regression_loss",
    "variational_connector_loss",
    "variational_information_loss",
]

Array = jax.Array


def feature_hint_loss(student: Array, teacher: Array) -> Array:
    """Computes the mean of (s - t)^2 over all but the batch.

    Both [batch, ...] of one shape, ValueError otherwise; returns [batch].
    Romero, Ballas, Kahou, Chassang, Gatta, Bengio, "FitNets: Hints for Thin Deep Nets", 2015, arXiv 1412.6550.
    """
    s, t = to_float(student, teacher)
    require_same_shape("feature_hint_loss", s, t)
    return mean_rest((s - t) ** 2)


def feature_sum_loss(student: Array, teacher: Array) -> Array:
    """Computes the sum of (s - t)^2 over all but the batch.

    Both [batch, ...] of one shape, ValueError otherwise; returns [batch]. Yang, Li, Shao, Shi, Yuan, Yuan, "Masked
    Generative Distillation" (MGD), 2022, arXiv 2205.01529: the student's masked map behind its generator.
    """
    s, t = to_float(student, teacher)
    require_same_shape("feature_sum_loss", s, t)
    return sum_rest((s - t) ** 2)


def attention_transfer_loss(student: Array, teacher: Array, *, p: Positive[float] = 2) -> Array:
    """Computes the mean over positions of (n2(flat mean_C |s|^p) - n2(flat mean_C |t|^p))^2.

    Maps [batch, height, width, channels]; channels may differ, and the larger map is pooled to the size of the smaller;
    returns [batch]. Raises ValueError on other ranks or batch sizes. Zagoruyko, Komodakis, "Paying More Attention to
    Attention", 2017, arXiv 1612.03928. As the authors' code: the mean of squares (the paper takes the norm of the
    difference). |s|^p where they write s^p: the same for even p. A dead map counts as an attention map of zeros, with
    gradient 0.
    """
    s, t = to_float(student, teacher)
    require_maps("attention_transfer_loss", s, t)
    s, t = pool_to_smaller(s, t)

    def attention(x: Array) -> Array:
        live = x != 0  # below p = 1 the slope at 0 is infinite
        power = jnp.where(live, absolute(jnp.where(live, x, 1)) ** p, 0)
        return unit(flatten(jnp.mean(power, axis=-1)))

    return mean_rest((attention(s) - attention(t)) ** 2)


def neuron_selectivity_loss(student: Array, teacher: Array) -> Array:
    """Computes mean_cc' (t_c.t_c')^2 + mean_cc' (s_c.s_c')^2 - 2 mean_cc' (s_c.t_c')^2, channels n2 over positions.

    The squared maximum mean discrepancy of the two sets of channels under the kernel (x.y)^2; the larger map is pooled
    to the smaller first. Maps [batch, height, width, channels]; sizes and channels may differ; returns [batch]. Raises
    ValueError on other ranks or batch sizes. Huang, Wang, "Like What You Like: Knowledge Distill via Neuron Selectivity
    Transfer" (NST), 2017, arXiv 1707.01219.
    """
    s, t = to_float(student, teacher)
    require_maps("neuron_selectivity_loss", s, t)
    s, t = (unit(x.reshape(x.shape[0], -1, x.shape[-1]), axis=1) for x in pool_to_smaller(s, t))

    def kernel(a: Array, b: Array) -> Array:
        return mean_rest(einsum("bpc,bpd->bcd", a, b) ** 2)

    return kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)


def fsp_loss(*maps: Array | Sequence[Array]) -> Array:
    """Computes the mean over channel pairs of (G_s - G_t)^2, G = mean over positions of a b' for a pair of maps (a, b).

    fsp_loss(student_pair, teacher_pair), or the four maps one after another, as a Term passes them. Each pair: two maps
    [batch, height, width, channels]; within a pair the larger is pooled to the smaller; channels must agree between
    student and teacher, sizes need not. Returns [batch]. Raises ValueError otherwise. Yim, Joo, Bae, Kim, "A Gift from
    Knowledge Distillation: Fast Optimization, Network Minimization and Transfer Learning", CVPR 2017. One pair; the
    published sum over pairs is one term a pair. As RepDistiller, average pooling.
    """

    if len(maps) not in (2, 4):
        raise ValueError(
            f"fsp_loss: expected a pair of maps for each of student and teacher, got {len(maps)} arguments"
        )
    student_pair, teacher_pair = (maps[:2], maps[2:]) if len(maps) == 4 else maps

    def flow(pair: Sequence[Array]) -> Array:
        a, b = to_float(*pair)
        require_maps("fsp_loss (the two maps of a pair)", a, b)
        a, b = pool_to_smaller(a, b)
        return einsum("bhwc,bhwd->bcd", a, b) / (a.shape[1] * a.shape[2])

    s, t = flow(student_pair), flow(teacher_pair)
    require_same_shape("fsp_loss (flow matrices [batch, channels, channels])", s, t)
    return mean_rest((s - t) ** 2)


def factor_transfer_loss(student: Array, teacher: Array) -> Array:
    """Computes the mean of |n2(flat s) - n2(flat t)|, of the factors that the translator and the paraphraser return.

    Both [batch, ...] of one shape, ValueError otherwise; returns [batch]. Kim, Park, Kwak, "Paraphrasing Complex
    Network: Network Compression via Factor Transfer" (FT), 2018, arXiv 1802.04977. As the authors' code; RepDistiller's
    takes attention maps instead of factors. A dead factor is 0 with gradient 0.
    """
    s, t = to_float(student, teacher)
    require_same_shape("factor_transfer_loss", s, t)
    return jnp.mean(absolute(unit(flatten(s)) - unit(flatten(t))), axis=1)


def variational_information_loss(predicted_mean: Array, teacher: Array, raw_scale: Array) -> Array:
    """Computes the mean of 1/2 ((mu - t)^2 / v + log v), v = softplus(raw_scale) + 1e-5 for each channel.

    predicted_mean and teacher [batch, ..., channels] of one shape, raw_scale [channels] (learned; log(e^5 - 1) starts v
    at 5); ValueError otherwise; returns [batch], negative values are possible. Ahn, Hu, Damianou, Lawrence, Dai,
    "Variational Information Distillation for Knowledge Transfer", 2019, arXiv 1904.05835.
    """
    mu, t, raw = to_float(predicted_mean, teacher, raw_scale)
    require_same_shape("variational_information_loss", mu, t)
    if raw.shape != t.shape[-1:]:
        raise ValueError(f"variational_information_loss: raw_scale must have shape {t.shape[-1:]}, got {raw.shape}")
    variance = jnp.expand_dims(jax.nn.softplus(raw) + 1e-5, tuple(range(t.ndim - 1)))
    return 0.5 * mean_rest((mu - t) ** 2 / variance + jnp.log(variance))


def variational_connector_loss(predicted_mean: Array, raw_scale: Array, teacher: Array) -> Array:
    """Computes variational_information_loss of a Term's arguments: the connector's outputs, then the target.

    A map of the teacher that is larger than the prediction is pooled to it.
    """
    if predicted_mean.ndim == 4 and teacher.ndim == 4:
        predicted_mean, teacher = pool_to_smaller(predicted_mean, teacher)
    return variational_information_loss(predicted_mean, teacher, raw_scale)


def hierarchical_context_loss(student: Array, teacher: Array) -> Array:
    """Computes [MSE + sum_l w_l MSE of the maps pooled to l x l] / (1 + sum_l w_l), l = 4, 2, 1, w = 1/2, 1/4, 1/8.

    Maps [batch, height, width, channels] of one shape, ValueError otherwise; returns [batch]. Chen, Liu, Zhao, Jia,
    "Distilling Knowledge via Knowledge Review" (ReviewKD), 2021, arXiv 2104.09044. As the authors' code, levels
    l >= height are skipped and do not halve the weight: at height 4, w is 1/2 for l = 2.
    """
    s, t = to_float(student, teacher)
    require_maps("hierarchical_context_loss", s, t)
    require_same_shape("hierarchical_context_loss", s, t)
    value, weight, total = mean_rest((s - t) ** 2), 1.0, 1.0
    for level in (4, 2, 1):
        if level < s.shape[1]:
            weight /= 2
            total += weight
            # Pooling is linear: the difference of the pooled maps is the pooled difference.
            value = value + weight * mean_rest(adaptive_average_pool(s - t, (level, level)) ** 2)
    return value / total


def class_attention_loss(
    student: Array, teacher: Array, *, resolution: Count[int] = 2, normalize: bool = True
) -> Array:
    """Computes the mean of (n2(a_s) - n2(a_t))^2, a = class activation maps pooled to resolution x resolution.

    n2 is over the positions of a class. Maps [batch, height, width, classes] with equal classes, sizes may differ,
    ValueError otherwise; returns [batch]. Guo, Yan, Li, Lin, "Class Attention Transfer Based Knowledge Distillation"
    (CAT-KD), 2023, arXiv 2304.12777. A dead map is 0 with gradient 0.
    """
    s, t = to_float(student, teacher)
    require_maps("class_attention_loss", s, t)
    require_same_channels("class_attention_loss", s, t)
    s, t = (adaptive_average_pool(x, (resolution, resolution)) for x in (s, t))
    if normalize:
        s, t = unit(s, axis=(1, 2)), unit(t, axis=(1, 2))
    return mean_rest((s - t) ** 2)


def inter_channel_loss(student: Array, teacher: Array) -> Array:
    """Computes the sum over channel pairs of (n2 rows of F_s F_s' - n2 rows of F_t F_t')^2 / channels.

    Maps [batch, height, width, channels] with equal channels, sizes may differ, ValueError otherwise; returns [batch].
    Liu, Huang, Lin, Xie, Wang, Chang, Liang, "Exploring Inter-Channel Correlation for Diversity-preserved Knowledge
    Distillation" (ICKD), ICCV 2021, arXiv 2202.03680. A dead channel's row is 0 with gradient 0.
    """
    s, t = to_float(student, teacher)
    require_maps("inter_channel_loss", s, t)
    require_same_channels("inter_channel_loss", s, t)

    def correlation(x: Array) -> Array:
        return unit(einsum("bhwc,bhwd->bcd", x, x))

    return sum_rest((correlation(s) - correlation(t)) ** 2) / s.shape[-1]


def pearson_feature_loss(student: Array, teacher: Array, *, where: Array | None = None) -> Array:
    """Computes the mean of 1/2 (z_s - z_t)^2, z = (x - mean) / (std + 1e-6) of a channel over batch and positions.

    The divisor of std is n - 1. Maps [batch, height, width, channels] with equal channels, where bool [batch],
    ValueError otherwise; returns [batch], 0 where masked. Cao, Zhang, Gao, Cheng, Cheng, Cheng, "PKD: General
    Distillation Framework for Object Detectors via Pearson Correlation Coefficient", 2022, arXiv 2207.02039. Sizes may
    differ: the larger map is average-pooled to the smaller (mmrazor resizes bilinearly). A constant channel is 0 with
    gradient 0 (published: 1e6).
    """
    s, t = to_float(student, teacher)
    require_maps("pearson_feature_loss", s, t)
    require_same_channels("pearson_feature_loss", s, t)
    mask = row_mask(where, s.shape[0], "pearson_feature_loss")
    s, t = pool_to_smaller(keep_rows(s, mask), keep_rows(t, mask))
    full = jnp.broadcast_to(mask[:, None, None, None], s.shape)
    number = count(mask, s) * (s.shape[1] * s.shape[2])

    def standardized(x: Array) -> Array:
        x = center(x, (0, 1, 2), full)
        deviation = safe_norm(x, (0, 1, 2), keepdims=True) / jnp.sqrt(jnp.maximum(number - 1, 1))
        return jnp.where(deviation > 0, x / (deviation + 1e-6), 0)

    return 0.5 * mean_rest((standardized(s) - standardized(t)) ** 2)


def softmax_regression_loss(student_head_logits: Array, teacher_logits: Array) -> Array:
    """Computes the mean over classes of (z_st - z_t)^2, z_st = the teacher's head on the student's connected features.

    Logits [..., classes] of one shape, ValueError otherwise; returns [...]. Yang, Martinez, Bulat, Tzimiropoulos,
    "Knowledge Distillation via Softmax Regression Representation Learning" (SRRL), ICLR 2021. The published loss adds
    `feature_hint_loss` of the pooled features.
    """
    s, t = to_float(student_head_logits, teacher_logits)
    require_same_shape("softmax_regression_loss", s, t)
    return mean_possible(difference(s, t) ** 2, possible(s, t))
