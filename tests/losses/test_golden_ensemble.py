"""Losses against labels and of several teachers against references in NumPy float64."""

from __future__ import annotations

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_reference import draw, kl, softmax

from kd_jax.losses import ensemble, task


def ctc(logits, labels):
    """-log of the summed probability of all paths that collapse to the labels; class 0 is blank."""
    p = [softmax(frame) for frame in logits]
    total = 0.0
    for path in itertools.product(range(len(p[0])), repeat=len(p)):
        if [c for c, _ in itertools.groupby(path) if c != 0] == labels:
            total += math.prod(p[frame][c] for frame, c in enumerate(path))
    return -math.log(total)


def test_ctc():
    (logits,) = draw((2, 4, 3))
    values = task.ctc_loss(
        jnp.asarray(logits, jnp.bfloat16).astype(jnp.float32),
        np.array([[0, 0, 0, 0], [0, 0, 0, 1]]),
        np.array([[1, 2], [2, 0]]),
        np.array([[0, 0], [0, 1]]),
    )
    logits = np.asarray(jnp.asarray(logits, jnp.bfloat16).astype(jnp.float32), np.float64)
    np.testing.assert_allclose(values, [ctc(logits[0], [1, 2]), ctc(logits[1, :3], [2])], rtol=1e-4)
    with pytest.raises(ValueError, match="paddings"):
        task.ctc_loss(logits, np.zeros((2, 3)), np.zeros((2, 2), int), np.zeros((2, 2)))


def test_cross_entropy_labels():
    (logits,) = draw((3, 4))
    values = task.cross_entropy_loss(logits, np.array([0, -1, 3]))
    assert np.all(np.isfinite(values))
    one_hot = np.eye(4, dtype=np.float32)[[0, 0, 3]]
    np.testing.assert_allclose(values[::2], task.cross_entropy_loss(logits, one_hot)[::2], rtol=1e-6)
    for wrong in (np.array([0, 1]), np.zeros((3, 5), np.float32)):
        with pytest.raises(ValueError, match=r"\(3, 4\)"):
            task.cross_entropy_loss(logits, wrong)


T, LABELS = 2.0, [0, 3, 2]


def divergence(s, t):
    return T**2 * kl(softmax(t, T), softmax(s, T))


def entropy_weighted(s, teachers):
    entropies = [-softmax(t) @ np.log(softmax(t)) for t in teachers]
    return np.mean([(1 - h / sum(entropies)) * divergence(s, t) for h, t in zip(entropies, teachers, strict=True)])


def confidence_weighted(s, teachers, label):
    weights = softmax([-math.log(softmax(t)[label]) for t in teachers])
    return np.mean([(1 - w) / 2 * divergence(s, t) for w, t in zip(weights, teachers, strict=True)])


@pytest.mark.parametrize(
    "loss, reference",
    [
        (ensemble.average_kl_loss, lambda s, ts, y: np.mean([divergence(s, t) for t in ts])),
        (ensemble.average_logits_loss, lambda s, ts, y: divergence(s, np.mean(ts, axis=0))),
        (
            ensemble.average_probabilities_loss,
            lambda s, ts, y: T**2 * kl(np.mean([softmax(t, T) for t in ts], axis=0), softmax(s, T)),
        ),
        (ensemble.entropy_weighted_loss, lambda s, ts, y: entropy_weighted(s, ts)),
        (
            lambda *x, **kw: ensemble.confidence_weighted_loss(*x, labels=jnp.array(LABELS), **kw),
            confidence_weighted,
        ),
    ],
    ids=["kl", "logits", "probabilities", "entropy", "confidence"],
)
def test_three_teachers(loss, reference, check):
    arrays = draw((3, 4), (3, 4), (3, 4), (3, 4))
    check(
        lambda s, *ts: loss(s, *ts, temperature=T),
        lambda s, *ts: np.mean([reference(s[i], [t[i] for t in ts], LABELS[i]) for i in range(3)]),
        *arrays,
    )
    s, *ts = arrays
    np.testing.assert_allclose(loss(s, np.stack(ts), temperature=T), loss(s, *ts, temperature=T), rtol=1e-6)
    with pytest.raises(ValueError, match=r"\(3, 4\)"):
        loss(s, ts[0][:2], ts[1])


def test_confidence_needs_two_teachers():
    s, t = draw((3, 4), (3, 4))
    with pytest.raises(ValueError, match="two"):
        ensemble.confidence_weighted_loss(s, t, labels=jnp.array(LABELS))


def test_ctc_of_labels_that_do_not_fit_is_infinite():
    """Two equal labels need a blank between them: three frames."""
    logits = np.random.default_rng(0).normal(size=(3, 4, 3)).astype(np.float32)
    logit_paddings = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]], np.float32)
    labels, label_paddings = np.array([[1, 1], [1, 2], [1, 1]]), np.zeros((3, 2), np.float32)
    loss = functools.partial(task.ctc_loss, logit_paddings=logit_paddings, labels=labels, label_paddings=label_paddings)
    values = loss(logits)
    np.testing.assert_array_equal(np.isinf(values), [True, False, False])
    np.testing.assert_allclose(values[2], ctc(logits[2, :3], [1, 1]), rtol=1e-4)
    gradient = jax.grad(lambda x: loss(x)[0])(jnp.asarray(logits))
    np.testing.assert_array_equal(gradient, 0.0)
