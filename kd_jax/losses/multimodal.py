"""Losses between two-tower networks (CLIP): images against texts of the global batch.

Embeddings are [batch, width], one row a pair, made unit rows here; those of teachers may have another width than the
student's. Logits are scale * n2(image) n2(text)': a scale is 1 / temperature, already exponentiated, and nothing is
multiplied by T^2. With `where` bool [batch] masked pairs are neither rows nor columns. All return [batch], 0 where
masked, and raise ValueError where shapes do not fit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from kd_jax.losses._numerics import einsum, keep_rows, kl, log_sum, row_mask, scalar_like, to_float, unit
from kd_jax.ranges import Positive

Array = jax.Array


def affinity_kl_loss(
    s_image: Array,
    s_text: Array,
    t_image: Array,
    t_text: Array,
    *,
    student_scale: Positive[Array | float],
    teacher_scale: Positive[Array | float],
    where: Array | None = None,
) -> Array:
    """Computes (KL(p_image, q_image) + KL(p_text, q_text)) / 2, softmaxes of the teacher's (p) and student's logits.

    Row i of the image's side is image i against all texts, of the text's side text i against all images. Shapes as the
    module says. Yang et al., "CLIP-KD: An Empirical Study of CLIP Model Distillation" (CRD), 2023, arXiv 2307.12732:
    batchmean, T 1; Wu et al., "TinyCLIP", 2023, arXiv 2309.12314. Vasu et al., "MobileCLIP", 2023, arXiv 2311.17049,
    take the cross-entropy, of the same gradient.
    """
    mask = _checked("affinity_kl_loss", where, (s_image, s_text), (t_image, t_text))
    student = _log_affinities(s_image, s_text, student_scale, mask)
    teacher = _log_affinities(t_image, t_text, teacher_scale, mask)
    return _both_ways(student, teacher, mask)


def affinity_ensemble_loss(
    s_image: Array,
    s_text: Array,
    teachers: Sequence[tuple[Array, Array]],
    *,
    student_scale: Positive[Array | float],
    teacher_scales: Sequence[Array | float] | Array,
    where: Array | None = None,
) -> Array:
    """Computes `affinity_kl_loss` against the mean of the teachers' softmaxes, each direction by itself.

    `teachers` are pairs (image, text), each pair of a width of its own; `teacher_scales` has one for each. Shapes as
    the module says; ValueError for no teacher, and for another number of scales. Vasu et al., "MobileCLIP: Fast
    Image-Text Models through Multi-Modal Reinforced Training", 2023, arXiv 2311.17049.
    """
    what = "affinity_ensemble_loss"
    if not len(teachers) or len(teachers) != len(teacher_scales):
        raise ValueError(f"{what}: {len(teachers)} teachers and {len(teacher_scales)} teacher_scales")
    mask = _checked(what, where, (s_image, s_text), *teachers)
    members = [_log_affinities(i, t, scale, mask) for (i, t), scale in zip(teachers, teacher_scales, strict=True)]
    mean = [log_sum(jnp.stack(ways), axis=0) - math.log(len(teachers)) for ways in zip(*members, strict=True)]
    return _both_ways(_log_affinities(s_image, s_text, student_scale, mask), mean, mask)


def affinity_interactive_loss(
    s_image: Array,
    s_text: Array,
    t_image: Array,
    t_text: Array,
    *,
    scale: Positive[Array | float],
    where: Array | None = None,
) -> Array:
    """Computes the mean of two cross-entropies: student images against teacher texts, student texts against its images.

    -(log softmax_j(scale s_image_i . t_text_j)[i] + log softmax_j(scale s_text_i . t_image_j)[i]) / 2. All four have
    one width (a connector maps the student's). Shapes as the module says. With one network on both sides it is CLIP's
    own loss (Radford et al., 2021, arXiv 2103.00020). Yang et al., "CLIP-KD" (ICL), 2023, arXiv 2307.12732, whose code
    takes the learned log(1 / 0.07) as `scale` as it is, not its exponential.
    """
    what = "affinity_interactive_loss"
    mask = _checked(what, where, (s_image, s_text), (t_image, t_text))
    if s_image.shape != t_text.shape or s_text.shape != t_image.shape:
        raise ValueError(f"{what}: one width is needed, got {_shapes((s_image, s_text), (t_image, t_text))}")
    of_image = _log_softmax(_logits(s_image, t_text, scale, mask), mask)
    of_text = _log_softmax(_logits(s_text, t_image, scale, mask), mask)
    return keep_rows(-0.5 * (jnp.diagonal(of_image) + jnp.diagonal(of_text)), mask)


def affinity_sigmoid_loss(
    s_image: Array,
    s_text: Array,
    t_image: Array,
    t_text: Array,
    *,
    student_scale: Positive[Array | float],
    teacher_scale: Positive[Array | float],
    student_bias: Array | float,
    teacher_bias: Array | float,
    where: Array | None = None,
) -> Array:
    """Computes -sum_j log sigmoid(l_ij z_ij), z the student's logits + bias, l_ij = 2 sigmoid(teacher's logit) - 1.

    Shapes as the module says. As in the code of MobileCLIP (Vasu et al., 2023, arXiv 2311.17049) for SigLIP's networks
    (Zhai et al., 2023, arXiv 2303.15343): no binary cross-entropy, so its minimum is not at the teacher's logits but
    where the student's go to infinity with their signs.
    """
    mask = _checked("affinity_sigmoid_loss", where, (s_image, s_text), (t_image, t_text))
    z, teacher = _logits(s_image, s_text, student_scale, mask), _logits(t_image, t_text, teacher_scale, mask)
    label = 2 * jax.nn.sigmoid(teacher + scalar_like(teacher_bias, teacher)) - 1
    values = jax.nn.log_sigmoid(label * (z + scalar_like(student_bias, z)))
    return keep_rows(-jnp.sum(jnp.where(mask[None, :], values, 0), axis=1), mask)


def _checked(what: str, where: Array | None, student: tuple[Array, Array], *teachers: tuple[Array, Array]) -> Array:
    """The mask of the pairs; ValueError unless every network has two embeddings [batch, width] of one shape."""
    pairs = (student, *teachers)
    fits = all(len(pair) == 2 and pair[0].ndim == 2 and pair[0].shape == pair[1].shape for pair in pairs)
    if not fits or len({pair[0].shape[0] for pair in pairs}) > 1:
        raise ValueError(f"{what}: expected image and text [batch, width] of each network, got {_shapes(*pairs)}")
    return row_mask(where, student[0].shape[0], what)


def _shapes(student: tuple[Array, ...], *teachers: tuple[Array, ...]) -> str:
    shapes = [" and ".join(str(x.shape) for x in pair) for pair in (student, *teachers)]
    return f"student {shapes[0]}, teacher {', '.join(shapes[1:])}"


def _logits(rows: Array, columns: Array, scale: Array | float, mask: Array) -> Array:
    """[batch, batch]; masked pairs have rows of 0, whatever they held."""
    a, b = (unit(keep_rows(x, mask)) for x in to_float(rows, columns))
    return scalar_like(scale, a) * einsum("id,jd->ij", a, b)


def _log_softmax(logits: Array, mask: Array) -> Array:
    """Over the columns that are no padding; a masked row keeps its own, so that nothing is infinite there."""
    there = mask[None, :] | jnp.eye(mask.shape[0], dtype=bool)
    return jax.nn.log_softmax(jnp.where(there, logits, -jnp.inf), axis=1)


def _log_affinities(image: Array, text: Array, scale: Array | float, mask: Array) -> list[Array]:
    """[of images against texts, of texts against images]."""
    logits = _logits(image, text, scale, mask)
    return [_log_softmax(logits, mask), _log_softmax(logits.T, mask)]


def _both_ways(student: Sequence[Array], teacher: Sequence[Array], mask: Array) -> Array:
    of_image, of_text = (kl(t, s) for s, t in zip(student, teacher, strict=True))
    return keep_rows(0.5 * (of_image + of_text), mask)
