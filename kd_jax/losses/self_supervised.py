"""Losses on several views of each example: what SSKD adds to a teacher's answers on the examples themselves.

`similarity_transfer_loss` of losses/representation.py is its third part.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kd_jax.losses._numerics import best_ranked, einsum, kl, log_probs, scalar_like, squared, to_float, unit
from kd_jax.losses.task import pick_label

Array = jax.Array


def view_matching_loss(representation: Array, *, temperature: Array | float = 1.0) -> Array:
    """-log softmax_j(cos(view of i, example j) / T) at j = i, the mean over the views of i.

    representation [batch, 1 + views, width], the example's own first (ValueError otherwise); returns [batch]. On it the
    teacher's head is trained, with T 1 as in the authors' code. A dead row has cosine 0. Xu, Liu, Li, Loy, "Knowledge
    Distillation Meets Self-Supervision" (SSKD), 2020, arXiv 2006.07114.
    """
    (x,) = to_float(representation)
    if x.ndim != 3 or x.shape[1] < 2:
        raise ValueError(f"view_matching_loss: expected [batch, 1 + views, width], got {x.shape}")
    x = unit(x, eps=1e-8)
    scores = einsum("ivd,jd->ivj", x[:, 1:], x[:, 0]) / scalar_like(temperature, x)
    own = jnp.arange(x.shape[0])
    return -jnp.mean(jax.nn.log_softmax(scores, axis=-1)[own, :, own], axis=1)


def transformed_kd_loss(
    student_logits: Array,
    teacher_logits: Array,
    labels: Array,
    *,
    temperature: Array | float = 4.0,
    wrong_ratio: Array | float = 1.0,
) -> Array:
    """T^2 KL(p_t, p_s) on the views of each example that take part; the mean over the batch is that over those views.

    logits [batch, views, classes], labels int [batch]; ValueError otherwise; returns [batch]. All views that the
    teacher gets right take part, and of the others the share `wrong_ratio` in which the label ranks best. A view
    without a label (-1) counts as right. Xu et al., 2020, arXiv 2006.07114, who keep all (ratio 1).
    """
    s, t = to_float(student_logits, teacher_logits)
    labels = jnp.asarray(labels)
    if s.ndim != 3 or s.shape != t.shape or labels.shape != s.shape[:1]:
        raise ValueError(
            f"transformed_kd_loss: expected logits [batch, views, classes] and labels [batch], "
            f"got student {s.shape}, teacher {t.shape}, labels {labels.shape}"
        )
    own = pick_label(t, jnp.broadcast_to(labels[:, None], t.shape[:2]))
    rank = jnp.where(labels[:, None] < 0, 0, jnp.sum(t > own[..., None], axis=-1)).reshape(-1)
    kept = best_ranked(rank, jnp.ones(rank.shape, bool), wrong_ratio, s)
    values = squared(temperature, s) * kl(log_probs(t, temperature), log_probs(s, temperature))
    share = jnp.maximum(jnp.sum(kept), 1).astype(s.dtype) / s.shape[0]
    return jnp.sum(jnp.where(kept.reshape(values.shape), values, 0), axis=1) / share
