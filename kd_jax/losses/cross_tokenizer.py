"""A student and a teacher of different tokenizers: losses on groups of tokens that spell the same bytes of one text.

data/text/cross.py makes labels and groups of both sides, `valid` bool [batch, groups], and the sparse projection of the
student's tokens on the teacher's. Logits at a position predict the label at this position.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kd_jax.losses._numerics import log_probs, squared, to_float
from kd_jax.losses.response_alignment import aligned_uld_loss, likelihood_matching_loss
from kd_jax.ranges import Positive

Array = jax.Array
LOSSES = ("projected", "uld", "likelihood")
LEAST = 1e-30  # of a projected probability, below which its logarithm is not taken: a normal float32


def cross_tokenizer_loss(
    student_logits: Array,
    teacher_logits: Array,
    *,
    student_labels: Array,
    teacher_labels: Array,
    student_groups: Array,
    teacher_groups: Array,
    valid: Array,
    projection_ids: Array,
    projection_weights: Array,
    loss: str = "projected",
    temperature: Positive[Array | float] = 1.0,
) -> Array:
    """Computes a divergence a group, [batch, groups] float32, 0 where there is none: `valid` is its mask.

    Logits [batch, length, classes] of each side, labels int and groups int [batch, length] (-1: in no group).
    loss="projected" is `projected_kl_loss`, "uld" `aligned_uld_loss` and "likelihood" `likelihood_matching_loss`, which
    do not read the projection. Raises ValueError for another word, and where a side has more tokens than there are
    groups.
    """
    if loss not in LOSSES:
        raise ValueError(f"cross_tokenizer_loss: loss must be one of {', '.join(LOSSES)}, got {loss!r}")
    groups = valid.shape[1]
    if max(student_groups.shape[1], teacher_groups.shape[1]) > groups:
        raise ValueError(f"cross_tokenizer_loss: {groups} groups, fewer than the tokens of a row")
    if loss == "projected":
        return projected_kl_loss(
            student_logits,
            teacher_logits,
            student_groups=student_groups,
            teacher_groups=teacher_groups,
            valid=valid,
            projection_ids=projection_ids,
            projection_weights=projection_weights,
            temperature=temperature,
        )
    of_groups = {"uld": aligned_uld_loss, "likelihood": likelihood_matching_loss}[loss]
    values = of_groups(
        student_logits,
        teacher_logits,
        student_tokens=jnp.maximum(student_labels, 0),
        teacher_tokens=jnp.maximum(teacher_labels, 0),
        student_groups=student_groups,
        teacher_groups=teacher_groups,
        temperature=temperature,
    )
    return jnp.where(valid, jnp.pad(values, ((0, 0), (0, groups - values.shape[1]))), 0)


def projected_kl_loss(
    student_logits: Array,
    teacher_logits: Array,
    *,
    student_groups: Array,
    teacher_groups: Array,
    valid: Array,
    projection_ids: Array,
    projection_weights: Array,
    temperature: Positive[Array | float] = 1.0,
) -> Array:
    """Computes T^2 KL(q_t, q_s) a group: q_s is the student's distribution in the teacher's tokens, by a sparse matrix.

    q_s = (mean of softmax(z_s / T) over the group's tokens) W over its sum, with row c of W, the student's token c, in
    projection_ids int and projection_weights float [student classes, k] (0: none). log q_t is the mean of log
    softmax(z_t / T) over the group's tokens, normalised over the classes that W reaches. Shapes as in
    `cross_tokenizer_loss`; returns [batch, groups]; ValueError on other shapes. Where both have one tokenizer, and W is
    the identity, this is `kd_loss`.
    Sreenivas, Venkatesh Hanasoge, Yang et al., "X-Token: Projection-Guided Cross-Tokenizer Knowledge Distillation",
    2026, arXiv 2605.21699 (P-KL). Deviations: all classes that W reaches, not the teacher's most likely ones; the
    teacher's mean is normalised, so that the value is a KL; no constant is added to probabilities.
    """
    s, t = to_float(student_logits, teacher_logits)
    ids, weights = jnp.asarray(projection_ids), jnp.asarray(projection_weights)
    if ids.shape != weights.shape or ids.ndim != 2 or len(ids) != s.shape[-1]:
        raise ValueError(
            f"projected_kl_loss: the projection {ids.shape} and {weights.shape} must be [student classes, k] with "
            f"{s.shape[-1]} classes"
        )
    number = valid.shape[1]
    p = _mean(jnp.exp(log_probs(s, temperature)), student_groups, number)
    q = jnp.zeros((*p.shape[:2], t.shape[-1]), p.dtype)
    for k in range(ids.shape[1]):
        q = q.at[:, :, ids[:, k]].add(p * weights[None, None, :, k])
    reached = jnp.zeros(t.shape[-1], p.dtype).at[ids].add(weights) > 0
    reached = reached[None, None]
    log_t = jnp.where(reached, _mean(log_probs(t, temperature), teacher_groups, number), -jnp.inf)
    log_t = jax.nn.log_softmax(log_t, axis=-1)
    log_q = jnp.log(jnp.maximum(q, LEAST)) - jnp.log(jnp.maximum(q.sum(-1, keepdims=True), LEAST))
    share = jnp.where(reached, jnp.exp(log_t), 0)
    value = jnp.sum(share * jnp.where(share > 0, log_t - log_q, 0), axis=-1)
    return jnp.where(valid, squared(temperature, s) * value, 0)


def _mean(values: Array, groups: Array, number: int) -> Array:
    """Computes the mean of values [batch, length, classes] over the tokens of each group: [batch, number, classes]."""
    batch, length = groups.shape
    if values.shape[:2] != groups.shape:
        raise ValueError(f"projected_kl_loss: logits {values.shape} need groups [batch, length], got {groups.shape}")
    rows, place = jnp.arange(batch)[:, None], jnp.where(groups >= 0, groups, number)
    total = jnp.zeros((batch, number, values.shape[-1]), values.dtype).at[rows, place].add(values, mode="drop")
    count = jnp.zeros((batch, number), values.dtype).at[rows, place].add(1.0, mode="drop")
    return total / jnp.maximum(count, 1)[..., None]
