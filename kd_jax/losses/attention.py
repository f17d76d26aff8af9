"""Losses inside transformers: attention, hidden states, and relations between positions.

All return [batch]. `mask` is bool [batch, length], True on real tokens; each example is averaged over its own real
tokens.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kd_jax.losses._numerics import (
    count,
    einsum,
    keep_rows,
    kl,
    mean_rest,
    require_same_shape,
    row_mask,
    to_float,
    unit,
)
from kd_jax.ranges import Count

Array = jax.Array


def _token_mask(mask: Array | None, batch: int, length: int, what: str) -> Array:
    if mask is None:
        return jnp.ones((batch, length), bool)
    mask = jnp.asarray(mask)
    if mask.shape != (batch, length):
        raise ValueError(f"{what}: mask must have shape ({batch}, {length}), one value a token, got {mask.shape}")
    return mask.astype(bool)


def _token_mean(values: Array, mask: Array) -> Array:
    """Computes the mean of values [batch, length] over the real tokens of each example; 0 where there are none."""
    number = jnp.maximum(jnp.sum(mask, axis=1), 1).astype(values.dtype)
    return jnp.sum(jnp.where(mask, values, 0), axis=1) / number


def _real_scores(scores: Array, tokens: Array) -> Array:
    """Sets scores [batch, heads, length, length] of other queries and keys to 0 in value and gradient."""
    return jnp.where(tokens[:, None, :, None] & tokens[:, None, None, :], scores, 0)


def attention_score_loss(student: Array, teacher: Array, *, mask: Array | None = None) -> Array:
    """Computes the mean of (s - t)^2 of attention SCORES (before the softmax).

    Both [batch, heads, queries, keys] of one shape; mask bool [batch, length] keeps real queries and keys of
    self-attention; ValueError otherwise; returns [batch]. Scores <= -100 (masked keys) count as 0 on both sides.
    Without `mask`, padding queries count, as published.
    Jiao, Yin, Shang, Jiang, Chen, Li, Wang, Liu, "TinyBERT: Distilling BERT for Natural Language Understanding", 2019,
    arXiv 1909.10351.
    """
    s, t = to_float(student, teacher)
    require_same_shape("attention_score_loss", s, t)
    s, t = jnp.where(s <= -100, 0, s), jnp.where(t <= -100, 0, t)
    if mask is None:
        return mean_rest((s - t) ** 2)
    if s.ndim != 4 or s.shape[2] != s.shape[3]:
        raise ValueError(f"attention_score_loss: a mask needs scores [batch, heads, length, length], got {s.shape}")
    tokens = _token_mask(mask, s.shape[0], s.shape[2], "attention_score_loss")
    s, t = _real_scores(s, tokens), _real_scores(t, tokens)
    by_key = jnp.where(tokens[:, None, None, :], (s - t) ** 2, 0)
    by_query = jnp.sum(by_key, axis=(1, 3)) / s.shape[1]
    return _token_mean(by_query, tokens) / jnp.maximum(jnp.sum(tokens, axis=1), 1).astype(s.dtype)


def hidden_state_loss(student: Array, teacher: Array, *, mask: Array | None = None) -> Array:
    """Computes the mean over tokens and width of (s - t)^2.

    Both [batch, length, width] of one shape (a connector maps the student's width), ValueError otherwise; returns
    [batch]. Jiao et al., 2019, arXiv 1909.10351. Without `mask`, padding counts, as published.
    """
    s, t = to_float(student, teacher)
    require_same_shape("hidden_state_loss", s, t)
    if mask is None:
        return mean_rest((s - t) ** 2)
    tokens = _token_mask(mask, s.shape[0], s.shape[1], "hidden_state_loss")
    s, t = keep_rows(s, tokens), keep_rows(t, tokens)
    return _token_mean(jnp.mean((s - t) ** 2, axis=tuple(range(2, s.ndim))), tokens)


def cosine_embedding_loss(
    student: Array, teacher: Array, *, mask: Array | None = None, where: Array | None = None
) -> Array:
    """Computes the mean over real tokens of 1 - cos(s, t), cos = s.t / sqrt((|s|^2 + 1e-12)(|t|^2 + 1e-12)).

    Both [batch, width] or [batch, length, width] of one shape, mask bool [batch, length], where bool [batch];
    ValueError otherwise; returns [batch]. The published mean is over the tokens of the batch, so examples weigh by
    their length: row i is batch * (sum over its tokens) / (tokens of the batch). A dead state has cosine 0 with
    gradient 0. Sanh, Debut, Chaumond, Wolf, "DistilBERT, a distilled version of BERT", 2019, arXiv 1910.01108.
    """
    what = "cosine_embedding_loss"
    s, t = to_float(student, teacher)
    require_same_shape(what, s, t)
    if s.ndim == 2:
        s, t = s[:, None, :], t[:, None, :]
    if s.ndim != 3:
        raise ValueError(f"{what}: expected [batch, width] or [batch, length, width], got {s.shape}")
    rows = row_mask(where, s.shape[0], what)
    tokens = _token_mask(mask, s.shape[0], s.shape[1], what) & rows[:, None]
    s, t = keep_rows(s, tokens), keep_rows(t, tokens)

    def direction(x: Array) -> Array:
        sq = jnp.sum(x * x, axis=-1, keepdims=True)
        live = sq > 0
        return jnp.where(live, x / jnp.sqrt(jnp.where(live, sq, 1) + 1e-12), 0)

    distance = 1 - jnp.sum(direction(s) * direction(t), axis=-1)
    return jnp.sum(jnp.where(tokens, distance, 0), axis=1) * count(rows, s) / count(tokens, s)


def _relation_kl(student: Array, teacher: Array, tokens: Array) -> Array:
    """Computes the mean over heads and real queries of KL(softmax t, softmax s) over real keys.

    Scores are [batch, heads, length, length], tokens bool [batch, length]; returns [batch].
    """

    def log_relation(scores: Array) -> Array:
        # A large number rather than -inf: an example without a single token must stay finite.
        scores = jnp.where(tokens[:, None, None, :], _real_scores(scores, tokens), -1e30)
        return jax.nn.log_softmax(scores, axis=-1)

    return _token_mean(jnp.mean(kl(log_relation(teacher), log_relation(student)), axis=1), tokens)


def attention_relation_loss(student: Array, teacher: Array, *, mask: Array | None = None) -> Array:
    """Computes the mean over heads and queries of KL(softmax t, softmax s), s and t attention scores Q K' / sqrt(d).

    Both, before the softmax, [batch, heads, length, length] of one shape, mask bool [batch, length], ValueError
    otherwise; returns [batch]. Wang, Wei, Dong, Bao, Yang, Zhou, "MiniLM: Deep Self-Attention Distillation for
    Task-Agnostic Compression of Pre-Trained Transformers", 2020, arXiv 2002.10957. The whole loss is the sum of this
    and `value_relation_loss` (one public implementation halves it). Padding takes no part, neither as key nor as query.
    """
    s, t = to_float(student, teacher)
    require_same_shape("attention_relation_loss", s, t)
    if s.ndim != 4 or s.shape[2] != s.shape[3]:
        raise ValueError(f"attention_relation_loss: expected scores [batch, heads, length, length], got {s.shape}")
    return _relation_kl(s, t, _token_mask(mask, s.shape[0], s.shape[2], "attention_relation_loss"))


def _self_scores(x: Array, tokens: Array) -> Array:
    """Computes x x' / sqrt(d) for x [batch, heads, length, d], its padding 0."""
    x = jnp.where(tokens[:, None, :, None], x, 0)
    return einsum("bhqd,bhkd->bhqk", x, x) / x.shape[-1] ** 0.5


def value_relation_loss(student: Array, teacher: Array, *, mask: Array | None = None) -> Array:
    """Computes the mean over heads and queries of KL(softmax t, softmax s) of V V' / sqrt(d).

    Values [batch, heads, length, d]; d may differ; mask bool [batch, length]; ValueError otherwise; returns [batch].
    Wang et al., MiniLM, 2020, arXiv 2002.10957.
    """
    s, t = to_float(student, teacher)
    if s.ndim != 4 or t.ndim != 4 or s.shape[:3] != t.shape[:3]:
        raise ValueError(
            "value_relation_loss: expected values [batch, heads, length, d] with equal batch, heads and length, "
            f"got student {s.shape} and teacher {t.shape}"
        )
    tokens = _token_mask(mask, s.shape[0], s.shape[2], "value_relation_loss")
    return _relation_kl(_self_scores(s, tokens), _self_scores(t, tokens), tokens)


def self_relation_loss(
    student: Array, teacher: Array, *, relation_heads: Count[int], mask: Array | None = None
) -> Array:
    """Computes the mean over relation heads and queries of KL(softmax t, softmax s) of X X' / sqrt(d_r).

    X are queries, keys or values of all heads side by side, split into relation heads of width d_r: [batch, length,
    width] or [batch, length, heads, d]. Widths may differ but must be multiples of relation_heads; mask bool [batch,
    length]; ValueError otherwise; returns [batch]. Wang, Bao, Huang, Dong, Wei, "MiniLMv2: Multi-Head Self-Attention
    Relation Distillation for Compressing Pretrained Transformers", 2020, arXiv 2012.15828. One relation; the published
    loss sums those of Q, K and V.
    """
    s, t = to_float(student, teacher)
    if s.ndim < 3 or t.ndim < 3 or s.shape[:2] != t.shape[:2]:
        raise ValueError(
            "self_relation_loss: expected [batch, length, width] with equal batch and length, "
            f"got student {s.shape} and teacher {t.shape}"
        )

    def heads(x: Array) -> Array:
        x = x.reshape(*x.shape[:2], -1)
        if x.shape[2] % relation_heads:
            raise ValueError(
                f"self_relation_loss: width {x.shape[2]} is not a multiple of relation_heads {relation_heads}, "
                f"got student {s.shape} and teacher {t.shape}"
            )
        return jnp.swapaxes(x.reshape(*x.shape[:2], relation_heads, -1), 1, 2)

    tokens = _token_mask(mask, s.shape[0], s.shape[1], "self_relation_loss")
    return _relation_kl(_self_scores(heads(s), tokens), _self_scores(heads(t), tokens), tokens)


def patient_loss(student: Array, teacher: Array) -> Array:
    """Computes the mean of (n2(s) - n2(t))^2 over layers and width, n2 over the width, of the first token's states.

    Both [batch, width] or [batch, layers, width] of one shape, ValueError otherwise; returns [batch]. Sun, Cheng, Gan,
    Liu, "Patient Knowledge Distillation for BERT Model Compression" (BERT-PKD), 2019, arXiv 1908.09355. As the authors'
    code: the mean over the width (the paper sums). A dead state is 0 with gradient 0.
    """
    s, t = to_float(student, teacher)
    require_same_shape("patient_loss", s, t)
    return mean_rest((unit(s) - unit(t)) ** 2)
