"""Losses of sampled tokens, of few classes and of aligned tokens, against NumPy in loops."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from aligned_tokens import GROUPS, SHARED, TOKENS
from numpy_reference import draw, kl, softmax

from kd_jax.losses import on_policy, response
from kd_jax.losses.response_alignment import aligned_uld_loss, hybrid_uld_loss
from kd_jax.losses.response_vocabulary import topk_jsd_loss

T = 1.5
LABELS = np.array([[0, 2, 1], [3, -1, -1]], np.int32)
ROLLOUT = np.log(np.array([[0.3, 0.05, 0.2], [0.4, 0.1, 0.1]]))
SHAPE = (2, 3, 4)


def counted():
    return [(b, i, LABELS[b, i]) for b in range(2) for i in range(3) if LABELS[b, i] >= 0]


def log_p(z, y, temperature=1.0):
    return np.log(softmax(z, temperature)[y])


def advantage(s, t, b, i, y, temperature=1.0, rollout=ROLLOUT):
    return log_p(t[b, i], y, temperature) - (log_p(s[b, i], y, temperature) if rollout is None else rollout[b, i])


def fixed(fn):
    """A reference whose detached factors come from the arrays as drawn; only log q of the first moves."""
    s, t = (x.astype(np.float32).astype(np.float64) for x in draw(SHAPE, SHAPE))
    return lambda moving, _: fn(moving, s, t) / 6


def sampled(moving, s, t, limit=None):
    total = 0.0
    for b, i, y in counted():
        ratio = 1.0 if limit is None else min(np.exp(log_p(s[b, i], y) - ROLLOUT[b, i]), limit)
        total += T**2 * ratio * (log_p(s[b, i], y, T) - log_p(t[b, i], y, T)) * log_p(moving[b, i], y, T)
    return total


def test_sampled_token(check):
    for options in ({}, {"rollout_log_probs": ROLLOUT, "ratio_limit": 1.2}):
        loss = functools.partial(on_policy.sampled_token_loss, labels=LABELS, temperature=T, **options)
        reference = fixed(functools.partial(sampled, limit=options.get("ratio_limit")))
        check(loss, reference, *draw(SHAPE, SHAPE))


def test_importance_ratio():
    s, _ = draw(SHAPE, SHAPE)
    ratio = on_policy.importance_ratio(s, LABELS, ROLLOUT, limit=1.2)
    for b, i, y in counted():
        np.testing.assert_allclose(ratio[b, i], min(np.exp(log_p(s[b, i], y) - ROLLOUT[b, i]), 1.2), rtol=1e-5)
    assert np.all(np.asarray(ratio)[LABELS < 0] == 0)


def clipped(moving, s, t, rollout=ROLLOUT):
    total = 0.0
    for b, i, y in counted():
        before = log_p(s[b, i], y) if rollout is None else rollout[b, i]
        r, a = np.exp(log_p(moving[b, i], y) - before), log_p(t[b, i], y) - before
        total -= min(r * a, min(max(r, 0.9), 1.3) * a)
    return total


def test_clipped_policy(check):
    bounds = dict(labels=LABELS, clip_below=0.1, clip_above=0.3)
    loss = functools.partial(on_policy.clipped_policy_loss, rollout_log_probs=ROLLOUT, **bounds)
    check(loss, fixed(clipped), *draw(SHAPE, SHAPE))
    check(
        functools.partial(on_policy.clipped_policy_loss, **bounds),
        fixed(functools.partial(clipped, rollout=None)),
        *draw(SHAPE, SHAPE),
    )


def weighted(moving, s, t, rollout=ROLLOUT):
    total = 0.0
    for b in range(2):
        row = [(i, y) for b2, i, y in counted() if b2 == b]
        sizes = [abs(advantage(s, t, b, i, y, T, rollout)) for i, y in row]
        for k, (i, y) in enumerate(row):
            weight = 1 + 0.5 * (1 - sum(sizes[:k]) / max(sum(sizes), 1e-8))
            total -= T**2 * weight * advantage(s, t, b, i, y, T, rollout) * log_p(moving[b, i], y, T)
    return total


def test_position_weighted(check):
    options = dict(labels=LABELS, gamma=0.5, temperature=T)
    loss = functools.partial(on_policy.position_weighted_loss, **options)
    check(functools.partial(loss, rollout_log_probs=ROLLOUT), fixed(weighted), *draw(SHAPE, SHAPE))
    check(loss, fixed(functools.partial(weighted, rollout=None)), *draw(SHAPE, SHAPE))


@pytest.mark.parametrize(
    "fn",
    [
        functools.partial(on_policy.sampled_token_loss, ratio_limit=2.0),
        on_policy.clipped_policy_loss,
        on_policy.position_weighted_loss,
    ],
)
def test_tokens_without_a_label_may_hold_nan(fn):
    s, t = (jnp.asarray(x, jnp.float32) for x in draw(SHAPE, SHAPE))
    total = jax.value_and_grad(lambda s, t: jnp.sum(fn(s, t, LABELS, rollout_log_probs=ROLLOUT)))
    value, gradient = total(s, t)
    again, other = total(*(x.at[1, 1:].set(jnp.nan) for x in (s, t)))
    assert value == again and np.all(np.isfinite(other)) and np.all(other[1, 1:] == 0)
    np.testing.assert_array_equal(gradient, other)
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3,\)"):
        fn(s, t, LABELS, rollout_log_probs=ROLLOUT[0])


def test_privileged_context(check):
    """Prompts of two lengths; position -3 and -2 predict the last two tokens."""
    loss = functools.partial(on_policy.privileged_context_loss, length=2, beta=0.0, temperature=T)

    def reference(s, t):
        return np.mean([[T**2 * kl(softmax(b[j], T), softmax(a[j], T)) for j in (-3, -2)] for a, b in zip(s, t)])  # noqa: B905

    check(loss, reference, *draw((2, 3, 4), (2, 5, 4)))
    s, t = draw((2, 3, 4), (2, 5, 4))
    assert loss(s, t).shape == (2, 2)
    with pytest.raises(ValueError, match=r"student logits \(2, 2, 4\).*prompt \+ 2"):
        loss(s[:, :2], t)


def mixture(a, b, beta):
    """Of student a and teacher b."""
    if beta in (0, 1):
        return kl(b, a) if beta == 0 else kl(a, b)
    m = beta * b + (1 - beta) * a
    return beta * kl(b, m) + (1 - beta) * kl(a, m)


def few(s, t, support, tail, beta):
    values = []
    for x, y in zip(s, t, strict=True):
        q, p = softmax(x, T), softmax(y, T)
        best = {"student": {*np.argsort(-q)[:2]}, "teacher": {*np.argsort(-p)[:2]}}
        at = sorted(best["student"] | best["teacher"] if support == "union" else best[support])
        q, p = q[at], p[at]
        if tail == "bucket":
            q, p = (np.append(v, 1 - v.sum()) for v in (q, p))
        else:
            q, p = q / q.sum(), p / p.sum()
        values.append(T**2 * mixture(q, p, beta))
    return np.mean(values)


@pytest.mark.parametrize("support", ["student", "teacher", "union"])
@pytest.mark.parametrize("tail", ["bucket", "renormalize"])
@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_topk_jsd(check, support, tail, beta):
    options = dict(support=support, tail=tail, beta=beta)
    loss = functools.partial(topk_jsd_loss, k=2, temperature=T, **options)
    check(loss, functools.partial(few, **options), *draw((3, 6), (3, 6)), wrt=(0, 1))


def test_topk_jsd_of_all_classes_is_jsd():
    s, t = (jnp.asarray(x, jnp.float32) for x in draw((3, 6), (3, 6)))
    np.testing.assert_array_equal(topk_jsd_loss(s, t, k=6, beta=0.3), response.jsd_loss(s, t, beta=0.3))
    sure = 40.0 * s  # what is left beside the best two is below what float32 can subtract from 1
    value, gradient = jax.value_and_grad(lambda s: jnp.sum(topk_jsd_loss(s, t, k=2)))(sure)
    assert np.isfinite(value) and np.all(np.isfinite(gradient))
    for wrong in ({"support": "both"}, {"tail": "cut"}):
        with pytest.raises(ValueError, match="must be one of"):
            topk_jsd_loss(s, t, k=2, **wrong)


def mass(z, tokens, positions, merge, temperature):
    base = positions[0] if merge == "first" else positions[-1]
    m = softmax(z[base], temperature)
    for i in positions:
        if i != base:
            m = m * softmax(z[i], temperature)[tokens[i]]
    return m


def aligned(s, t, merge, value, teacher_temperature=T):
    total = 0.0
    for row, groups in enumerate(GROUPS):
        for mine, theirs in groups:
            m_s = mass(s[row], TOKENS["student_tokens"][row], mine, merge, T)
            m_t = mass(t[row], TOKENS["teacher_tokens"][row], theirs, merge, teacher_temperature)
            total += T**2 * value(m_s, m_t)
    return total / 6


def gap(m_s, m_t):
    size = max(len(m_s), len(m_t))
    m_s, m_t = (sorted(np.pad(m, (0, size - len(m)))) for m in (m_s, m_t))
    return sum(abs(a - b) for a, b in zip(m_s, m_t, strict=True))


def hybrid(m_s, m_t, beta):
    a, b = m_t[SHARED["teacher_ids"]], m_s[SHARED["student_ids"]]
    if beta in (0, 1):
        matched = np.sum(a * np.log(a / b)) if beta == 0 else np.sum(b * np.log(b / a))
    else:
        m = beta * a + (1 - beta) * b
        matched = beta * np.sum(a * np.log(a / m)) + (1 - beta) * np.sum(b * np.log(b / m))
    return 0.5 * matched + 0.5 * gap(m_s[[1, 3]], m_t[[2, 3, 4]])


@pytest.mark.parametrize("merge", ["first", "last"])
def test_aligned(check, merge):
    options = dict(**TOKENS, merge=merge, temperature=T)
    shapes = ((2, 4, 5), (2, 3, 6))
    check(
        functools.partial(aligned_uld_loss, teacher_temperature=0.8, **options),
        functools.partial(aligned, merge=merge, value=gap, teacher_temperature=0.8),
        *draw(*shapes),
        wrt=(0, 1),
    )
    for beta in (0.0, 0.3, 1.0):
        check(
            functools.partial(hybrid_uld_loss, **options, **SHARED, beta=beta),
            functools.partial(aligned, merge=merge, value=functools.partial(hybrid, beta=beta)),
            *draw(*shapes),
            wrt=(0, 1),
        )


def test_aligned_padding_and_words():
    s, t = (jnp.asarray(x, jnp.float32) for x in draw((2, 4, 5), (2, 3, 6)))
    for loss in (aligned_uld_loss, functools.partial(hybrid_uld_loss, **SHARED)):
        total = jax.value_and_grad(lambda s, loss=loss: jnp.sum(loss(s, t, **TOKENS)))
        value, gradient = total(s.at[1, 2:].set(jnp.nan))
        assert value == total(s)[0] and np.all(np.isfinite(gradient)) and np.all(gradient[1, 2:] == 0)
        with pytest.raises(ValueError, match="'middle'"):
            loss(s, t, **TOKENS, merge="middle")
