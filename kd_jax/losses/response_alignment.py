"""Losses on logits of two tokenizers over the same text, over groups of tokens that spell the same bytes.

data/text/alignment.py makes the groups: int [batch, length], the number of a token's group or -1. Logits at a position
predict the token at this position: shift a language model's outputs by one. All return [batch, groups], groups = the
shorter of the two lengths, and 0 where there is no such group: mask those (`valid` of the alignment) in the mean.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.losses._numerics import absolute, log_probs, scalar_like, squared, to_float
from kd_jax.losses.task import pick_label
from kd_jax.ranges import Positive, Share

Array = jax.Array


def _check(what: str, side: str, logits: Array, tokens: Array, groups: Array) -> None:
    if logits.ndim != 3 or tokens.shape != logits.shape[:2] or groups.shape != logits.shape[:2]:
        raise ValueError(
            f"{what}: {side} logits {logits.shape} must be [batch, length, classes], with tokens and groups of shape "
            f"[batch, length], got {tokens.shape} and {groups.shape}"
        )


def _merge(
    log_p: Array, tokens: Array, groups: Array, number: int, last: bool = False
) -> tuple[Array, Array, Array, Array]:
    """Returns four arrays by group, of the number of groups `number`.

    log p at the group's first (or `last`) token [batch, number, classes]; and [batch, number] each: the sum of log p of
    the text's tokens without that one, that sum with it, and whether the group exists.
    """
    batch, length = groups.shape
    rows = jnp.arange(batch)[:, None]
    place = jnp.where(groups >= 0, groups, number)
    positions = jnp.broadcast_to(jnp.arange(length)[None], groups.shape)
    if last:
        end = jnp.full((batch, number), -1).at[rows, place].max(positions, mode="drop")
        exists, at = end >= 0, jnp.maximum(end, 0)
    else:
        first = jnp.full((batch, number), length).at[rows, place].min(positions, mode="drop")
        exists, at = first < length, jnp.minimum(first, length - 1)
    of_text = pick_label(log_p, tokens)
    whole = jnp.zeros((batch, number), log_p.dtype).at[rows, place].add(jnp.where(groups >= 0, of_text, 0), mode="drop")
    rest = whole - jnp.take_along_axis(of_text, at, axis=1)
    return jnp.take_along_axis(log_p, at[..., None], axis=1), rest, whole, exists


def _both(
    what: str,
    student_logits: Array,
    teacher_logits: Array,
    student_tokens: Array,
    teacher_tokens: Array,
    student_groups: Array,
    teacher_groups: Array,
    temperature: Array | float,
    teacher_temperature: Array | float | None = None,
    merge: str = "first",
) -> tuple[tuple[Array, Array, Array], tuple[Array, Array, Array], Array]:
    if merge not in ("first", "last"):
        raise ValueError(f'{what}: merge must be "first" or "last", got {merge!r}')
    s, t = to_float(student_logits, teacher_logits)
    _check(what, "student", s, student_tokens, student_groups)
    _check(what, "teacher", t, teacher_tokens, teacher_groups)
    if s.shape[0] != t.shape[0]:
        raise ValueError(f"{what}: student logits {s.shape} and teacher logits {t.shape} must have one batch size")
    s = jnp.where(student_groups[..., None] >= 0, s, 0)  # whatever padding holds
    t = jnp.where(teacher_groups[..., None] >= 0, t, 0)
    number = min(s.shape[1], t.shape[1])
    of_teacher = temperature if teacher_temperature is None else teacher_temperature
    student = _merge(log_probs(s, temperature), student_tokens, student_groups, number, merge == "last")
    teacher = _merge(log_probs(t, of_teacher), teacher_tokens, teacher_groups, number, merge == "last")
    return student[:3], teacher[:3], student[3] & teacher[3]


def _masses(*sides: tuple[Array, Array, Array]) -> tuple[Array, ...]:
    """Computes log m of each side [batch, groups, classes]: log p at a token of the group, and that of the others."""
    return tuple(at + rest[..., None] for at, rest, _ in sides)


def _shared(what: str, student_ids: np.ndarray, teacher_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    student_ids, teacher_ids = np.asarray(student_ids), np.asarray(teacher_ids)
    if student_ids.ndim != 1 or student_ids.shape != teacher_ids.shape:
        raise ValueError(
            f"{what}: shared ids must be two lists of one length, got {student_ids.shape} and {teacher_ids.shape}"
        )
    return student_ids, teacher_ids


def _sorted_gap(log_s: Array, log_t: Array, student_ids: np.ndarray, teacher_ids: np.ndarray) -> Array:
    """Computes sum |sorted m_s - sorted m_t| over the classes that are not shared, the fewer padded with 0."""
    others = [np.setdiff1d(np.arange(z.shape[-1]), i) for z, i in ((log_s, student_ids), (log_t, teacher_ids))]
    size = max(map(len, others))

    def ranked(log_m: Array, ids: np.ndarray) -> Array:
        m = -jnp.sort(-jnp.exp(log_m[..., ids]), axis=-1)
        return jnp.pad(m, ((0, 0), (0, 0), (0, size - len(ids))))

    return jnp.sum(absolute(ranked(log_s, others[0]) - ranked(log_t, others[1])), axis=-1)


def aligned_loss(
    student_logits: Array,
    teacher_logits: Array,
    *,
    student_tokens: Array,
    teacher_tokens: Array,
    student_groups: Array,
    teacher_groups: Array,
    student_ids: np.ndarray,
    teacher_ids: np.ndarray,
    matched_weight: Share[Array | float | None] = None,
    temperature: Positive[Array | float] = 1.0,
) -> Array:
    """Computes T^2 [w D(m_t, m_s on shared tokens) + (1 - w) sum |sorted m_t - sorted m_s| on the others].

    m(y) = p(y at the group's first token) * product of p(token of the text) over its other tokens. For the y that the
    text has, this is by the chain rule the probability of the group; for other y it is biased.
    D(a, b) = sum of a log(a / b) - a + b, which is KL where a and b sum to 1, and >= 0 where they do not.
    student_logits [batch, length, classes], teacher_logits [batch, other length, other classes], tokens (ids) and
    groups int [batch, length] of each; student_ids and teacher_ids (NumPy, [n]) are the shared tokens
    (data/text/alignment.py); w = matched_weight, or n over the teacher's classes. Returns [batch, groups]; ValueError
    on other shapes.
    Patino, Rasul, Gallouedec et al., "Unlocking On-Policy Distillation for Any Model Family" (GOLD), Hugging Face 2025
    (no arXiv id); the sorted term is that of Boizard et al. (ULD), 2024, arXiv 2402.12030. In place of D, trl's hybrid
    loss has a JSD of masses that do not sum to 1, which can be negative; it has no T^2, and divides by the number of
    groups.
    """
    student, teacher, valid = _both(
        "aligned_loss",
        student_logits,
        teacher_logits,
        student_tokens,
        teacher_tokens,
        student_groups,
        teacher_groups,
        temperature,
    )
    student_ids, teacher_ids = _shared("aligned_loss", student_ids, teacher_ids)
    log_s, log_t = _masses(student, teacher)
    matched = jnp.zeros(valid.shape, log_s.dtype)
    if student_ids.size:
        a, b = log_t[..., teacher_ids], log_s[..., student_ids]
        matched = _mass_sum(a, b) + jnp.sum(jnp.exp(b) - jnp.exp(a), axis=-1)
    unmatched = _sorted_gap(log_s, log_t, student_ids, teacher_ids)
    weight = scalar_like(student_ids.size / log_t.shape[-1] if matched_weight is None else matched_weight, log_s)
    value = squared(temperature, log_s) * (weight * matched + (1 - weight) * unmatched)
    return jnp.where(valid, value, 0)


def aligned_uld_loss(
    student_logits: Array,
    teacher_logits: Array,
    *,
    student_tokens: Array,
    teacher_tokens: Array,
    student_groups: Array,
    teacher_groups: Array,
    merge: str = "first",
    temperature: Positive[Array | float] = 1.0,
    teacher_temperature: Positive[Array | float | None] = None,
) -> Array:
    """Computes T^2 sum_i |sorted m_s - sorted m_t|_i over all classes, the smaller vocabulary padded with 0.

    m(y) = p(y at the group's first token, or its last with merge="last") times p(token of the text) over its other
    tokens. Shapes and errors as `aligned_loss`; returns [batch, groups]. The teacher has T too, or a temperature of its
    own. Boizard et al. (ULD), 2024, arXiv 2402.12030, on the groups of GOLD (Hugging Face 2025, no arXiv id). trl's
    strategy "observed" is "first" of unshifted logits, "bayesian" is "last"; it clamps factors at 1e-8, has no T^2, and
    divides by the number of groups.
    """
    aligned = (student_tokens, teacher_tokens, student_groups, teacher_groups)
    student, teacher, valid = _both(
        "aligned_uld_loss", student_logits, teacher_logits, *aligned, temperature, teacher_temperature, merge
    )
    log_s, log_t = _masses(student, teacher)
    nothing = np.zeros(0, int)
    return jnp.where(valid, squared(temperature, log_s) * _sorted_gap(log_s, log_t, nothing, nothing), 0)


def hybrid_uld_loss(
    student_logits: Array,
    teacher_logits: Array,
    *,
    student_tokens: Array,
    teacher_tokens: Array,
    student_groups: Array,
    teacher_groups: Array,
    student_ids: np.ndarray,
    teacher_ids: np.ndarray,
    matched_weight: Share[Array | float | None] = None,
    beta: Share[Array | float] = 0.5,
    merge: str = "first",
    temperature: Positive[Array | float] = 1.0,
    teacher_temperature: Positive[Array | float | None] = None,
) -> Array:
    """Computes T^2 [w D(m_t, m_s on shared tokens) + (1 - w) sum |sorted m_t - sorted m_s| on the others].

    D(a, b) = beta sum a log(a / m) + (1 - beta) sum b log(b / m), m = beta a + (1 - beta) b; beta 0 is sum a log(a / b)
    and beta 1 sum b log(b / a). Masses m_s and m_t, `merge` and temperatures as `aligned_uld_loss`, shared tokens and w
    as `aligned_loss`, which has a D that cannot be negative: these masses do not sum to 1. Returns [batch, groups].
    Patino, Rasul, Gallouedec et al. (GOLD), Hugging Face 2025 (no arXiv id), as in trl, but for its clamps at 1e-8.
    """
    aligned = (student_tokens, teacher_tokens, student_groups, teacher_groups)
    student, teacher, valid = _both(
        "hybrid_uld_loss", student_logits, teacher_logits, *aligned, temperature, teacher_temperature, merge
    )
    student_ids, teacher_ids = _shared("hybrid_uld_loss", student_ids, teacher_ids)
    log_s, log_t = _masses(student, teacher)
    a, b, beta = log_t[..., teacher_ids], log_s[..., student_ids], scalar_like(beta, log_s)
    inner = jnp.where((beta > 0) & (beta < 1), beta, 0.5)  # keeps the branch not taken finite
    mixed = jnp.logaddexp(jnp.log(inner) + a, jnp.log1p(-inner) + b)
    between = inner * _mass_sum(a, mixed) + (1 - inner) * _mass_sum(b, mixed)
    matched = jnp.where(beta <= 0, _mass_sum(a, b), jnp.where(beta >= 1, _mass_sum(b, a), between))
    weight = scalar_like(student_ids.size / log_t.shape[-1] if matched_weight is None else matched_weight, log_s)
    value = weight * matched + (1 - weight) * _sorted_gap(log_s, log_t, student_ids, teacher_ids)
    return jnp.where(valid, squared(temperature, log_s) * value, 0)


def _mass_sum(log_a: Array, log_b: Array) -> Array:
    """Computes sum a log(a / b) over the last axis; classes with a = 0 count as 0."""
    there = jnp.exp(log_a) > 0
    return jnp.sum(jnp.exp(log_a) * (jnp.where(there, log_a, 0) - jnp.where(there, log_b, 0)), axis=-1)


def likelihood_matching_loss(
    student_logits: Array,
    teacher_logits: Array,
    *,
    student_tokens: Array,
    teacher_tokens: Array,
    student_groups: Array,
    teacher_groups: Array,
    temperature: Positive[Array | float] = 1.0,
) -> Array:
    """Computes q_t log(q_t / q_s) + (1 - q_t) log((1 - q_t) / (1 - q_s)),
    q = (probability of the group's tokens)^(1 / T).

    It is the KL of two outcomes, "these tokens follow" and "others follow", so that no vocabulary is compared with
    another. Shapes and errors as `aligned_loss`; returns [batch, groups].
    Minixhofer, Vulic, Ponti, "Universal Cross-Tokenizer Distillation via Approximate Likelihood Matching" (ALM), 2025,
    arXiv 2503.20083, without its debiasing of groups and its further losses. No T^2, as published. log q is at most
    -1e-6, since at q = 1 the gradient of the second outcome would be infinite.
    """
    student, teacher, valid = _both(
        "likelihood_matching_loss",
        student_logits,
        teacher_logits,
        student_tokens,
        teacher_tokens,
        student_groups,
        teacher_groups,
        1.0,
    )
    a, b = (jnp.minimum(side[2] / scalar_like(temperature, side[2]), -1e-6) for side in (teacher, student))
    q, not_q = jnp.exp(a), -jnp.expm1(a)
    value = q * (a - b) + not_q * (jnp.log(not_q) - jnp.log(-jnp.expm1(b)))
    return jnp.where(valid, value, 0)
