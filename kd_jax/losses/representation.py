"""Losses on embeddings: contrasts, distances, similarities to a queue and among tokens.

The batch is the global batch; `where` keeps padding out of it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kd_jax.losses._numerics import (
    best_ranked,
    count,
    einsum,
    flatten,
    keep_rows,
    kl,
    require_same_batch,
    require_same_shape,
    row_mask,
    safe_norm,
    scalar_like,
    smooth_l1,
    squared,
    to_float,
    unit,
)
from kd_jax.ranges import Positive, Share

Array = jax.Array


def info_nce_loss(
    student: Array, teacher: Array, *, temperature: Positive[Array | float] = 0.07, where: Array | None = None
) -> Array:
    """Computes -log softmax_j(n2(s_i) . n2(t_j) / T) at j = i: the teacher's embedding of i against those of the batch.

    student, teacher [batch, ...] (flattened, one width), where bool [batch]; ValueError otherwise; returns [batch], 0
    where masked. One direction (student against teachers), with no T^2: nothing here is softened. A dead row has cosine
    0. Oord, Li, Vinyals, "Representation Learning with Contrastive Predictive Coding", 2018, arXiv 1807.03748.
    """
    s, t = to_float(student, teacher)
    require_same_batch("info_nce_loss", s, t)
    mask = row_mask(where, s.shape[0], "info_nce_loss")
    s, t = unit(keep_rows(flatten(s), mask)), unit(keep_rows(flatten(t), mask))
    if s.shape != t.shape:
        raise ValueError(f"info_nce_loss: embeddings must have one width, got student {s.shape} and teacher {t.shape}")
    scores = einsum("id,jd->ij", s, t) / scalar_like(temperature, s)
    scores = jnp.where(mask[None, :] | jnp.eye(s.shape[0], dtype=bool), scores, -jnp.inf)
    return keep_rows(-jnp.diagonal(jax.nn.log_softmax(scores, axis=1)), mask)


def _scores(anchor: Array, bank: Array, index: Array) -> Array:
    """Computes anchor_i . bank[index_ij]: [batch, k]."""
    # With many negatives the product with the whole bank is far smaller than the gathered [batch, k, width].
    if bank.shape[0] <= index.shape[1] * bank.shape[1]:
        return jnp.take_along_axis(einsum("id,nd->in", anchor, bank), index, axis=1)
    return einsum("id,ikd->ik", anchor, bank[index])


def contrastive_constant(
    anchor: Array,
    bank: Array,
    index: Array,
    negatives: Array,
    *,
    temperature: Positive[Array | float] = 0.07,
    where: Array | None = None,
) -> Array:
    """Computes Z = rows of the bank * mean of exp(n2(anchor) . bank[index and negatives] / T), a number.

    Shapes as `contrastive_representation_loss`. CRD computes it on the first batch and then keeps it.
    """
    anchor, bank = to_float(anchor, bank)
    mask = row_mask(where, anchor.shape[0], "contrastive_constant")
    rows = jnp.concatenate([jnp.asarray(index)[:, None], jnp.asarray(negatives)], axis=1)
    scores = _scores(unit(keep_rows(flatten(anchor), mask)), bank, rows) / scalar_like(temperature, anchor)
    total = jnp.sum(keep_rows(jnp.exp(scores), mask)) / (count(mask, anchor) * rows.shape[1])
    return jax.lax.stop_gradient(total * bank.shape[0])


def contrastive_representation_loss(
    student: Array,
    teacher: Array,
    *,
    student_bank: Array,
    teacher_bank: Array,
    index: Array,
    negatives: Array,
    temperature: Positive[Array | float] = 0.07,
    student_constant: Positive[Array | float | None] = None,
    teacher_constant: Positive[Array | float | None] = None,
    where: Array | None = None,
) -> Array:
    """Computes -log(P+ / (P+ + m + 1e-7)) - sum_k log(m / (P_k + m + 1e-7)), summed over both sides.

    A side is the student against the teacher's bank, or the teacher against the student's. P = exp(n2(anchor) . bank
    row / T) / Z, m = negatives / rows of the bank. student, teacher [batch, width]; banks [rows, width] of unit vectors
    (held in TrainState.extra, `update_memory_bank`); index int [batch] (row of the example itself), negatives int
    [batch, k]; where bool [batch]; returns [batch]. Raises ValueError where shapes do not fit. Z is the constant of the
    side (`contrastive_constant`), by default from this batch, and detached, as published. Memory: batch times the
    smaller of rows and k * width. Tian, Krishnan, Isola, "Contrastive Representation Distillation" (CRD), 2019, arXiv
    1910.10699. The linear maps to one width are connectors. The teacher's is trained too: name both as inputs of the
    term.
    """
    what = "contrastive_representation_loss"
    s, t, student_bank, teacher_bank = to_float(student, teacher, student_bank, teacher_bank)
    index, negatives = jnp.asarray(index), jnp.asarray(negatives)
    batch = s.shape[0]
    banks = student_bank.shape
    if s.ndim != 2 or s.shape != t.shape or banks != teacher_bank.shape or banks[1:] != s.shape[1:]:
        raise ValueError(
            f"{what}: expected student and teacher [batch, width], banks [rows, width], "
            f"got student {s.shape}, teacher {t.shape}, banks {banks} and {teacher_bank.shape}"
        )
    if index.shape != (batch,) or negatives.ndim != 2 or negatives.shape[0] != batch:
        raise ValueError(
            f"{what}: index must be ({batch},) and negatives ({batch}, k), got {index.shape} and {negatives.shape}"
        )
    mask = row_mask(where, batch, what)
    index = keep_rows(index, mask)
    rows = jnp.concatenate([index[:, None], keep_rows(negatives, mask)], axis=1)
    share = negatives.shape[1] / student_bank.shape[0]

    def side(anchor: Array, bank: Array, constant: Array | float | None) -> Array:
        if constant is None:
            constant = contrastive_constant(anchor, bank, index, negatives, temperature=temperature, where=mask)
        scores = _scores(unit(keep_rows(anchor, mask)), bank, rows) / scalar_like(temperature, anchor)
        log_p = scores - jnp.log(scalar_like(constant, anchor))
        p = jnp.exp(log_p)
        positive = log_p[:, 0] - jnp.log(p[:, 0] + share + 1e-7)
        # log(m / (P + m + eps)) by log1p: P is about 1 / rows, far below m.
        others = -jnp.sum(jnp.log1p((p[:, 1:] + 1e-7) / share), axis=1)
        return -positive - others

    return keep_rows(side(s, teacher_bank, student_constant) + side(t, student_bank, teacher_constant), mask)


def update_memory_bank(bank: Array, embedding: Array, index: Array, *, momentum: Share[Array | float] = 0.5) -> Array:
    """Returns the bank with rows n2(momentum * old + (1 - momentum) * n2(embedding)) at `index`.

    bank [rows, width], embedding [batch, width], index int [batch] (a row outside the bank, such as `rows`, is
    dropped); returns [rows, width]. Raises ValueError where shapes do not fit. Tian et al., 2019, arXiv 1910.10699.
    """
    (embedding,) = to_float(embedding)
    index = jnp.asarray(index)
    if bank.ndim != 2 or embedding.shape != (*index.shape, bank.shape[1]):
        raise ValueError(
            f"update_memory_bank: bank {bank.shape} needs embeddings [batch, width] and index [batch], "
            f"got {embedding.shape} and {index.shape}"
        )
    keep = scalar_like(momentum, embedding)
    rows = unit(keep * bank[index].astype(embedding.dtype) + (1 - keep) * unit(embedding))
    return bank.at[index].set(rows.astype(bank.dtype), mode="drop")


def similarity_transfer_loss(
    student: Array,
    teacher: Array,
    *,
    temperature: Positive[Array | float] = 0.5,
    wrong_ratio: Share[Array | float] = 0.75,
    where: Array | None = None,
) -> Array:
    """Computes T^2 KL(q_t, q_s), q = softmax_j(cos(augmented view of i, original j) / T) over the batch's originals j.

    student [batch, views, width], teacher [batch, views, width] (widths may differ), view 0 the original, where bool
    [batch]; ValueError otherwise; returns [batch]. The views that the teacher matches with their own original take
    part, and of the others the share `wrong_ratio` that it ranks best, equal ranks in the order of the batch. The mean
    over rows is the mean over the views that take part. Xu, Liu, Li, Loy, "Knowledge Distillation Meets
    Self-Supervision" (SSKD), 2020, arXiv 2006.07114. A dead row has cosine 0 with gradient 0.
    """
    what = "similarity_transfer_loss"
    s, t = to_float(student, teacher)
    if s.ndim != 3 or t.ndim != 3 or s.shape[:2] != t.shape[:2] or s.shape[1] < 2:
        raise ValueError(f"{what}: expected [batch, views >= 2, width], got student {s.shape} and teacher {t.shape}")
    batch, views = s.shape[0], s.shape[1] - 1
    mask = row_mask(where, batch, what)

    def similarities(x: Array) -> Array:
        x = unit(keep_rows(x, mask), eps=1e-8)
        cosine = einsum("ivd,jd->ivj", x[:, 1:], x[:, 0])
        diagonal = jnp.eye(batch, dtype=bool)[:, None, :]
        return jnp.where(mask[None, None, :] | diagonal, cosine / scalar_like(temperature, x), -jnp.inf)

    scores_s, scores_t = similarities(s), similarities(t)
    of_original = jnp.take_along_axis(scores_t, jnp.arange(batch)[:, None, None], axis=2)
    rank = jnp.sum(scores_t > of_original, axis=2).reshape(-1)
    takes_part = best_ranked(rank, jnp.broadcast_to(mask[:, None], (batch, views)).reshape(-1), wrong_ratio, s)
    values = squared(temperature, s) * kl(jax.nn.log_softmax(scores_t), jax.nn.log_softmax(scores_s))
    takes_part = takes_part.reshape(batch, views)
    return jnp.sum(jnp.where(takes_part, values, 0), axis=1) * count(mask, s) / count(takes_part, s)


def euclidean_embedding_loss(student: Array, teacher: Array) -> Array:
    """Computes the norm of s - t over the last axis, with gradient 0 (not NaN) where both are equal.

    Embeddings [..., width] of one shape, ValueError otherwise; returns [...]. Kim et al., "EmbedDistill: A Geometric
    Knowledge Distillation for Information Retrieval", 2023, arXiv 2301.12005.
    """
    s, t = to_float(student, teacher)
    require_same_shape("euclidean_embedding_loss", s, t)
    return safe_norm(s - t)


def unit_feature_loss(student: Array, teacher: Array) -> Array:
    """Computes the mean over the last axis of (n2(s) - n2(t))^2, n2 a row of length 1 (0 where it is dead).

    Embeddings [..., width] of one shape, ValueError otherwise; returns [...]. The FD of CLIP-KD (Yang et al., 2023,
    arXiv 2307.12732): there the images' PLUS the texts', of weight 2000.
    """
    s, t = to_float(student, teacher)
    require_same_shape("unit_feature_loss", s, t)
    return jnp.mean((unit(s) - unit(t)) ** 2, axis=-1)


def agglomerative_feature_loss(student: Array, teacher: Array, *, cosine_share: Share[Array | float] = 0.9) -> Array:
    """Computes c (1 - cos(s, t)) + (1 - c) mean smooth_l1(s - t) over the last axis, c = `cosine_share`.

    Features [..., width] of one shape (tokens, maps or summaries, the student's already connected), ValueError
    otherwise; returns [...]. A dead row has cosine 0. Ranzinger, Heinrich, Kautz, Molchanov, "AM-RADIO: Agglomerative
    Vision Foundation Model", 2023, arXiv 2312.06709: 0.9 for tokens, 1 for summaries.
    """
    s, t = to_float(student, teacher)
    require_same_shape("agglomerative_feature_loss", s, t)
    share = scalar_like(cosine_share, s)
    cosine = jnp.sum(unit(s) * unit(t), axis=-1)
    return share * (1 - cosine) + (1 - share) * jnp.mean(smooth_l1(s - t), axis=-1)


def queue_similarity_loss(
    student: Array,
    teacher: Array,
    queue: Array,
    *,
    temperature: Positive[Array | float] = 0.07,
    where: Array | None = None,
) -> Array:
    """Computes KL(p, q) of softmaxes over the rows of a queue: p, q of n2(teacher), n2(student) . n2(row) / T.

    student, teacher [batch, width], queue [rows, width] of what the teacher said before (rows of 0, not yet filled,
    have similarity 0), where bool [batch]; ValueError otherwise; returns [batch], 0 where masked. No T^2, as published:
    lightly-train's label-free distillation, where the rows take the place of classes (2025; after Beyer et al.,
    "Knowledge distillation: A good teacher is patient and consistent", 2021, arXiv 2106.05237).
    """
    what = "queue_similarity_loss"
    s, t, rows = to_float(student, teacher, queue)
    if s.ndim != 2 or s.shape != t.shape or rows.ndim != 2 or rows.shape[1] != s.shape[1]:
        raise ValueError(
            f"{what}: expected student and teacher [batch, width] and a queue [rows, width], got student {s.shape}, "
            f"teacher {t.shape}, queue {rows.shape}"
        )
    mask, rows = row_mask(where, s.shape[0], what), unit(rows)

    def log_shares(x: Array) -> Array:
        return jax.nn.log_softmax(einsum("id,rd->ir", unit(keep_rows(x, mask)), rows) / scalar_like(temperature, x))

    return keep_rows(kl(log_shares(t), log_shares(s)), mask)


def token_affinity_loss(
    student: Array,
    teacher: Array,
    *,
    temperature: Positive[Array | float] = 0.07,
    mask: Array | None = None,
) -> Array:
    """Computes the mean over tokens of KL(p, q), p, q softmaxes of a token's cosines to all of its image, over T.

    student [batch, tokens, width], teacher [batch, tokens, width] (widths may differ), or maps [batch, height, width,
    channels], whose positions are the tokens; mask bool [batch, tokens] of those that count; ValueError otherwise;
    returns [batch], 0 where no token counts. The token itself is one of all. No T^2, as published: the local loss of
    lightly-train's label-free distillation (2025).
    """
    what = "token_affinity_loss"
    s, t = to_float(student, teacher)
    if s.ndim not in (3, 4) or s.shape[:-1] != t.shape[:-1]:
        raise ValueError(
            f"{what}: expected tokens [batch, tokens, width] or maps [batch, height, width, channels] of equal sizes, "
            f"got student {s.shape} and teacher {t.shape}"
        )
    s, t = (x.reshape(x.shape[0], -1, x.shape[-1]) for x in (s, t))
    mask = jnp.ones(s.shape[:2], bool) if mask is None else jnp.asarray(mask).astype(bool)
    if mask.shape != s.shape[:2]:
        raise ValueError(f"{what}: the mask must be {s.shape[:2]}, one value a token, got {mask.shape}")
    there = mask[:, None, :] | jnp.eye(s.shape[1], dtype=bool)[None]

    def log_shares(x: Array) -> Array:
        x = unit(keep_rows(x, mask))
        cosines = einsum("bid,bjd->bij", x, x) / scalar_like(temperature, x)
        return jax.nn.log_softmax(jnp.where(there, cosines, -jnp.inf), axis=-1)

    values = keep_rows(kl(log_shares(t), log_shares(s)), mask)
    return jnp.sum(values, axis=1) / jnp.maximum(jnp.sum(mask, axis=1), 1).astype(s.dtype)
