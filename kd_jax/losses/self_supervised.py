"""Losses of SSKD on several views of each example, beside the distillation on the examples themselves.

Its third loss is `similarity_transfer_loss` in losses/representation.py.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kd_jax.losses._numerics import best_ranked, einsum, kl, log_probs, scalar_like, squared, to_float, unit
from kd_jax.losses.task import pick_label
from kd_jax.ranges import Positive, Share

Array = jax.Array


def view_matching_loss(representation: Array, *, temperature: Positive[Array | float] = 1.0) -> Array:
    """Computes -log softmax_j(cos(view of i, example j) / T) at j = i, the mean over the views of i.

    representation [batch, 1 + views, width], entry 0 of the example itself (ValueError otherwise); returns [batch]. It
    trains the teacher's head, with T 1 as in the authors' code. A dead row has cosine 0. Xu, Liu, Li, Loy, "Knowledge
    Distillation Meets Self-Supervision" (SSKD), 2020, arXiv 2006.07114.
    """
    (x,) = to_float(representation)
    if x.ndim != 3 or x.shape[1] < 2:
        raise ValueError(f"view_matching_loss: expected [batch, 1 + views, width], got {x.shape}")
    x = unit(x, eps=1e-8)
    scores = einsum("ivd,jd->ivj", x[:, 1:], x[:, 0]) / scalar_like(temperature, x)
    rows = jnp.arange(x.shape[0])
    return -jnp.mean(jax.nn.log_softmax(scores, axis=-1)[rows, :, rows], axis=1)


def transformed_kd_loss(
    student_logits: Array,
    teacher_logits: Array,
    labels: Array,
    *,
    temperature: Positive[Array | float] = 4.0,
    wrong_ratio: Share[Array | float] = 1.0,
) -> Array:
    """Computes the sum of T^2 KL(p_t, p_s) over an example's views that take part, times batch / (all that take part).

    logits [batch, views, classes], labels int [batch]; ValueError otherwise; returns [batch], whose mean is the mean
    over the views that take part. These are all views that the teacher classifies rightly, and of the others the share
    `wrong_ratio` in which the label ranks best; without a label (-1) a view counts as right. Xu et al., 2020, arXiv
    2006.07114, who keep all (ratio 1).
    """
    s, t = to_float(student_logits, teacher_logits)
    labels = jnp.asarray(labels)
    if s.ndim != 3 or s.shape != t.shape or labels.shape != s.shape[:1]:
        raise ValueError(
            f"transformed_kd_loss: expected logits [batch, views, classes] and labels [batch], "
            f"got student {s.shape}, teacher {t.shape}, labels {labels.shape}"
        )
    of_label = pick_label(t, jnp.broadcast_to(labels[:, None], t.shape[:2]))
    rank = jnp.where(labels[:, None] < 0, 0, jnp.sum(t > of_label[..., None], axis=-1)).reshape(-1)
    takes_part = best_ranked(rank, jnp.ones(rank.shape, bool), wrong_ratio, s)
    values = squared(temperature, s) * kl(log_probs(t, temperature), log_probs(s, temperature))
    share = jnp.maximum(jnp.sum(takes_part), 1).astype(s.dtype) / s.shape[0]
    return jnp.sum(jnp.where(takes_part.reshape(values.shape), values, 0), axis=1) / share
