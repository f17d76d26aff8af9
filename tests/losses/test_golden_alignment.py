"""Losses of two tokenizers, against NumPy in loops; vocabularies that are padded."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from aligned_tokens import GROUPS, SHARED, TOKENS
from numpy_reference import kl, softmax

from kd_jax.losses import response
from kd_jax.losses.response_alignment import aligned_loss, likelihood_matching_loss
from kd_jax.losses.response_vocabulary import match_vocabulary

T = 1.5
aligned = functools.partial(aligned_loss, **TOKENS, **SHARED, temperature=T)


def by_group(value):
    """The mean over batch and group slots (2 x 3, two of them empty) of value(p_s, p_t, tokens of both)."""

    def reference(s, t):
        total = 0.0
        for row, groups in enumerate(GROUPS):
            for mine, theirs in groups:
                total += value(
                    [(s[row, i], TOKENS["student_tokens"][row, i]) for i in mine],
                    [(t[row, i], TOKENS["teacher_tokens"][row, i]) for i in theirs],
                )
        return total / 6

    return reference


def mass(group):
    m = softmax(group[0][0], T)
    for z, token in group[1:]:
        m = m * softmax(z, T)[token]
    return m


def hybrid(mine, theirs):
    m_s, m_t = mass(mine), mass(theirs)
    a, b = m_t[SHARED["teacher_ids"]], m_s[SHARED["student_ids"]]
    rest_s, rest_t = sorted([0.0, *m_s[[1, 3]]]), sorted(m_t[[2, 3, 4]])
    gap = sum(abs(x - y) for x, y in zip(rest_s, rest_t, strict=True))
    return T**2 * (0.5 * float(np.sum(a * np.log(a / b) - a + b)) + 0.5 * gap)


def binary(mine, theirs):
    q_s, q_t = (np.prod([softmax(z)[token] for z, token in g]) ** (1 / T) for g in (mine, theirs))
    return kl(np.array([q_t, 1 - q_t]), np.array([q_s, 1 - q_s]))


def draw():
    rng = np.random.default_rng(0)
    return rng.normal(size=(2, 4, 5)), rng.normal(size=(2, 3, 6))


def test_golden(check):
    check(aligned, by_group(hybrid), *draw(), wrt=(0, 1))
    check(functools.partial(likelihood_matching_loss, **TOKENS, temperature=T), by_group(binary), *draw(), wrt=(0, 1))


def test_one_tokenizer_is_plain_distillation():
    """All tokens shared, groups of one: KL, and its minimum 0."""
    rng = np.random.default_rng(1)
    s, t = (jnp.asarray(rng.normal(size=(2, 4, 5)), jnp.float32) for _ in range(2))
    tokens, groups = jnp.zeros((2, 4), int), jnp.broadcast_to(jnp.arange(4)[None], (2, 4))
    same = dict(student_tokens=tokens, teacher_tokens=tokens, student_groups=groups, teacher_groups=groups)
    loss = functools.partial(aligned_loss, **same, student_ids=np.arange(5), teacher_ids=np.arange(5), temperature=2.0)
    np.testing.assert_allclose(loss(s, t), response.kd_loss(s, t, temperature=2.0), rtol=1e-4, atol=1e-6)
    for each in (loss, functools.partial(likelihood_matching_loss, **same)):
        value, gradient = jax.jit(jax.value_and_grad(lambda s, each=each: each(s, t).sum()))(t)
        np.testing.assert_allclose(value, 0, atol=1e-5)
        np.testing.assert_allclose(gradient, 0, atol=1e-5)


@pytest.mark.parametrize("loss", [aligned, functools.partial(likelihood_matching_loss, **TOKENS)])
def test_padding_and_large_logits(loss):
    s, t = (jnp.asarray(x, jnp.float32) for x in draw())
    total = jax.jit(jax.value_and_grad(lambda s, t: jnp.sum(loss(s, t))))
    value, gradient = total(s.at[1, 2:].set(jnp.nan), t)
    np.testing.assert_allclose(value, total(s, t)[0], rtol=1e-5)
    assert np.all(np.isfinite(gradient)) and np.all(gradient[1, 2:] == 0)
    abstract = jax.eval_shape(loss, s.astype(jnp.bfloat16), t)
    assert abstract.dtype == jnp.float32 and abstract.shape == (2, 3)
    for sign in (1, -1):
        values, gradients = total(1e4 * jnp.sign(s), sign * 1e4 * t)
        assert np.isfinite(values) and np.all(np.isfinite(gradients))
    with pytest.raises(ValueError, match=r"student logits \(2, 3, 5\).*\(2, 4\)"):
        loss(s[:, :3], t)


def test_match_vocabulary():
    s, t = jnp.ones((2, 5)), jnp.arange(16.0).reshape(2, 8)
    with pytest.raises(ValueError, match='student has 5 classes, the teacher 8.*"slice" or "pad"'):
        match_vocabulary(s, t)
    with pytest.raises(ValueError, match="'cut'"):
        match_vocabulary(s, t, "cut")
    assert match_vocabulary(s, s)[0] is s
    sliced = match_vocabulary(s, t, "slice")
    assert [x.shape for x in sliced] == [(2, 5), (2, 5)] and jnp.all(sliced[1] == t[:, :5])
    padded = match_vocabulary(s, t, "pad")
    np.testing.assert_allclose(jax.nn.softmax(padded[0]), [[0.2] * 5 + [0.0] * 3] * 2, rtol=1e-6)
    total = jax.jit(jax.value_and_grad(lambda s: response.jsd_loss(*match_vocabulary(s, t, "pad")).sum()))
    value, gradient = total(s)
    assert np.isfinite(value) and np.all(np.isfinite(gradient))
