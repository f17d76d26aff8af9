"""Losses on logits of a teacher of which only the top k are stored, or whose classes are not the student's."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kd_jax.losses._numerics import (
    absolute,
    kl,
    log_probs,
    log_sum,
    over_classes,
    require_same_shape,
    scalar_like,
    squared,
    to_float,
)
from kd_jax.losses.needs import by_token
from kd_jax.losses.response_mixture import jsd_loss
from kd_jax.ranges import Count, Positive, Share

Array = jax.Array


@by_token
def topk_kd_loss(
    student_logits: Array,
    teacher_log_probs: Array,
    teacher_ids: Array,
    *,
    temperature: Positive[Array | float] = 1.0,
    tail: str = "bucket",
    teacher_temperature: Positive[Array | float] = 1.0,
) -> Array:
    """Computes T^2 KL(q, p), both over the teacher's k most likely classes and one bucket for all others.

    student_logits [..., vocabulary], teacher_log_probs and teacher_ids (distinct) [..., k]; returns [...]. Raises
    ValueError on other shapes or an unknown `tail`. teacher_log_probs were taken at `teacher_temperature`;
    a = teacher_temperature / T.
    - tail="bucket": q is (q_c^a, (1 - sum q)^a) over its sum; p is softmax(z / T) at the ids, and the rest. With a = 1
      this is an exact KL of coarser classes, 0 at equality. Otherwise the tail is softened as if it were one class,
      since its classes are not stored: take the teacher's probabilities at T to avoid that.
    - tail="renormalize": q is q_c^a over its sum; p is the full softmax at the ids. Not 0 at equality.
    As DistillKit's SYMMETRIC_UNIFORM and ZERO (arcee-ai, lossfuncs/kl.py), without its clamps of the student: the tail
    is summed in logarithms. A teacher's tail below 1e-7 counts as 0.
    """
    s, log_q = to_float(student_logits, teacher_log_probs)
    ids = jnp.asarray(teacher_ids)
    if log_q.shape != ids.shape or s.shape[:-1] != ids.shape[:-1] or ids.shape[-1] > s.shape[-1]:
        raise ValueError(
            f"topk_kd_loss: student logits {s.shape} need teacher log-probabilities and ids of shape "
            f"{s.shape[:-1]} + (k,), k at most {s.shape[-1]}, got {log_q.shape} and {ids.shape}"
        )
    if tail not in ("bucket", "renormalize"):
        raise ValueError(f'topk_kd_loss: tail must be "bucket" or "renormalize", got {tail!r}')
    power = over_classes(scalar_like(teacher_temperature, s) / scalar_like(temperature, s), s)
    log_s = log_probs(s, temperature)
    top_s = jnp.take_along_axis(log_s, ids, axis=-1)
    if tail == "renormalize" or ids.shape[-1] == s.shape[-1]:
        return squared(temperature, s) * kl(jax.nn.log_softmax(power * log_q, axis=-1), top_s)
    in_top = jnp.put_along_axis(jnp.zeros(s.shape, bool), ids, True, axis=-1, inplace=False)
    tail_s = log_sum(jnp.where(in_top, -jnp.inf, log_s), keepdims=True)
    mass = -jnp.expm1(jax.nn.logsumexp(log_q, axis=-1, keepdims=True))
    live = mass > 1e-7
    tail_q = jnp.where(live, power * jnp.log(jnp.where(live, mass, 1)), -jnp.inf)
    all_q = jax.nn.log_softmax(jnp.concatenate([power * log_q, tail_q], axis=-1), axis=-1)
    return squared(temperature, s) * kl(all_q, jnp.concatenate([top_s, tail_s], axis=-1))


@by_token
def topk_jsd_loss(
    student_logits: Array,
    teacher_logits: Array,
    *,
    k: Count[int] = 100,
    beta: Share[Array | float] = 0.5,
    support: str = "union",
    tail: str = "bucket",
    temperature: Positive[Array | float] = 1.0,
) -> Array:
    """Computes T^2 [beta KL(t', m) + (1 - beta) KL(s', m)], m = beta t' + (1 - beta) s', on few classes.

    Logits [..., classes] of one shape; returns [...]. ValueError on other shapes or words. The classes are the k most
    likely of the "student", of the "teacher" or of either ("union"), a choice without gradient. s' and t' are softmax
    at T there with one bucket for all other classes (tail="bucket"), or renormalised (tail="renormalize"). beta 0 is
    KL(t', s'), 1 is KL(s', t'), and with k of all classes the value is `jsd_loss`. Agarwal et al. (GKD), 2023, arXiv
    2306.13649, as in trl (Hugging Face, 2026), without its clamp of the bucket: the tail is summed in logarithms.
    T^2 is ours.
    """
    s, t = to_float(student_logits, teacher_logits)
    require_same_shape("topk_jsd_loss", s, t)
    for what, word, words in (
        ("support", support, ("student", "teacher", "union")),
        ("tail", tail, ("bucket", "renormalize")),
    ):
        if word not in words:
            raise ValueError(f"topk_jsd_loss: {what} must be one of {', '.join(words)}, got {word!r}")
    if k >= s.shape[-1]:
        return jsd_loss(s, t, beta=beta, temperature=temperature)
    logs = [log_probs(x, temperature) for x in (s, t)]
    sides = {"student": logs[:1], "teacher": logs[1:], "union": logs}[support]
    best = [jax.lax.top_k(jax.lax.stop_gradient(x), k)[1] for x in sides]
    ids = jnp.sort(jnp.concatenate(best, axis=-1), axis=-1)
    new = jnp.concatenate([jnp.ones_like(ids[..., :1], bool), ids[..., 1:] != ids[..., :-1]], axis=-1)
    parts = [jnp.where(new, jnp.take_along_axis(x, ids, axis=-1), -jnp.inf) for x in logs]
    if tail == "bucket":
        inside = jnp.put_along_axis(jnp.zeros(s.shape, bool), ids, True, axis=-1, inplace=False)
        rest = [log_sum(jnp.where(inside, -jnp.inf, x), keepdims=True) for x in logs]
        parts = [jnp.concatenate(pair, axis=-1) for pair in zip(parts, rest, strict=True)]
    return squared(temperature, s) * jsd_loss(parts[0], parts[1], beta=beta)


@by_token
def uld_loss(student_logits: Array, teacher_logits: Array, *, temperature: Positive[Array | float] = 1.0) -> Array:
    """Computes T^2 sum_i |sorted p_s - sorted p_t|_i, largest first, the smaller vocabulary padded with 0.

    Logits [..., student classes] and [..., teacher classes], equal leading shapes (ValueError otherwise); returns
    [...]. Boizard, El Haddad, Hudelot, Colombo, "Towards Cross-Tokenizer Distillation: the Universal Logit Distillation
    Loss for LLMs", 2024, arXiv 2402.12030. T^2 is ours (the authors use T 1). Which positions face each other is the
    caller's choice: the authors' code starts one position before the answer, trl's at the answer.
    """
    s, t = to_float(student_logits, teacher_logits)
    if s.shape[:-1] != t.shape[:-1]:
        raise ValueError(
            f"uld_loss: student and teacher must have equal leading shapes, got student {s.shape} and teacher {t.shape}"
        )
    size = max(s.shape[-1], t.shape[-1])

    def sorted_probabilities(logits: Array) -> Array:
        p = -jnp.sort(-jnp.exp(log_probs(logits, temperature)), axis=-1)
        return jnp.pad(p, [(0, 0)] * (p.ndim - 1) + [(0, size - p.shape[-1])])

    gap = absolute(sorted_probabilities(s) - sorted_probabilities(t))
    return squared(temperature, s) * jnp.sum(gap, axis=-1)


def match_vocabulary(student_logits: Array, teacher_logits: Array, how: str = "same") -> tuple[Array, Array]:
    """Returns both logits with as many classes, where one vocabulary is the other with unused entries at its end.

    Logits [..., classes]; how: "same" changes nothing, and raises ValueError that names both sizes if they differ;
    "slice" keeps the classes that both have, counted from 0; "pad" gives the missing ones the logit -inf, probability 0
    (then KL(p, q) is infinite where p has classes that q lacks; a skewed or mixed divergence is not).
    Heads are padded to multiples of 64 or 128 for speed: Qwen2 has 151,643 tokens and rows for 151,936 or 152,064.
    """
    sizes = student_logits.shape[-1], teacher_logits.shape[-1]
    if how not in ("same", "slice", "pad"):
        raise ValueError(f'match_vocabulary: how must be "same", "slice" or "pad", got {how!r}')
    if sizes[0] == sizes[1]:
        return student_logits, teacher_logits
    if how == "same":
        raise ValueError(
            f'The student has {sizes[0]} classes, the teacher {sizes[1]}: choose "slice" or "pad" if one vocabulary '
            "is the other with unused entries at its end."
        )
    if how == "slice":
        return student_logits[..., : min(sizes)], teacher_logits[..., : min(sizes)]

    def pad(logits: Array) -> Array:
        missing = max(sizes) - logits.shape[-1]
        return jnp.pad(logits, [(0, 0)] * (logits.ndim - 1) + [(0, missing)], constant_values=-jnp.inf)

    return pad(student_logits), pad(teacher_logits)
