"""Losses between tokenizers on groups: against sums by loops, and kd_loss where both sides have one tokenizer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from aligned_tokens import GROUPS, TOKENS

from kd_jax.losses.cross_tokenizer import cross_tokenizer_loss, projected_kl_loss
from kd_jax.losses.response import kd_loss
from kd_jax.losses.response_alignment import aligned_uld_loss, likelihood_matching_loss

S, T = 5, 6
RNG = np.random.default_rng(0)
STUDENT, TEACHER = (RNG.normal(size=(2, n, c)).astype(np.float32) for n, c in ((4, S), (3, T)))
IDS = np.array([[0, 1], [2, 0], [3, 4], [1, 0], [0, 0]])
WEIGHTS = np.array([[0.9, 0.1], [1, 0], [0.5, 0.5], [1, 0], [0, 0]], np.float32)  # nothing is spelled by token 5
VALID = np.array([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]], bool)
GROUPED = {k: TOKENS[k] for k in ("student_groups", "teacher_groups")}
PROJECTION = dict(projection_ids=IDS, projection_weights=WEIGHTS)
LABELS = dict(student_labels=TOKENS["student_tokens"], teacher_labels=TOKENS["teacher_tokens"])


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def by_loops(temperature):
    values = np.zeros(VALID.shape)
    for row, groups in enumerate(GROUPS):
        for g, (ours, theirs) in enumerate(groups):
            p = np.mean([softmax(STUDENT[row, i] / temperature) for i in ours], 0)
            q = np.zeros(T)
            for token in range(S):
                for k in range(2):
                    q[IDS[token, k]] += p[token] * WEIGHTS[token, k]
            q = q / q.sum()
            t = np.exp(np.mean([np.log(softmax(TEACHER[row, i] / temperature)) for i in theirs], 0))[:5]
            t = t / t.sum()
            values[row, g] = temperature**2 * (t * (np.log(t) - np.log(q[:5]))).sum()
    return values


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_projected_divergence_is_the_sum_over_classes_that_are_reached(temperature):
    got = projected_kl_loss(STUDENT, TEACHER, **GROUPED, valid=VALID, **PROJECTION, temperature=temperature)
    np.testing.assert_allclose(got, by_loops(temperature), atol=2e-6)
    assert got.shape == VALID.shape and (np.asarray(got)[~VALID] == 0).all()


def test_with_one_tokenizer_it_is_forward_kl():
    groups = np.broadcast_to(np.arange(4, dtype=np.int32), (2, 4))
    other = RNG.normal(size=(2, 4, S)).astype(np.float32)
    valid = np.pad(np.ones((2, 4), bool), ((0, 0), (0, 1)))
    same = dict(projection_ids=np.arange(S)[:, None], projection_weights=np.ones((S, 1), np.float32))
    options = dict(student_groups=groups, teacher_groups=groups, valid=valid, **same)
    got = projected_kl_loss(STUDENT, other, **options, temperature=2.0)
    np.testing.assert_allclose(got[:, :4], kd_loss(STUDENT, other, temperature=2.0), rtol=1e-5)
    np.testing.assert_allclose(projected_kl_loss(other, other, **options), 0, atol=1e-6)


def test_gradients_are_finite_and_leave_other_groups_alone():
    valid = VALID.copy()
    valid[0, 2] = False

    def total(student, scale=1.0):
        options = dict(**GROUPED, valid=valid, **PROJECTION)
        return projected_kl_loss(student * scale, TEACHER * scale, **options).sum()

    gradient = jax.grad(total)(jnp.asarray(STUDENT))
    assert np.isfinite(gradient).all() and np.abs(gradient[0, :3]).max() > 0
    assert (np.asarray(gradient)[0, 3] == 0).all() and (np.asarray(gradient)[1, 1:] == 0).all()
    assert np.isfinite(jax.grad(lambda s: total(s, 1e4))(jnp.asarray(STUDENT))).all()


@pytest.mark.parametrize(("name", "loss"), [("uld", aligned_uld_loss), ("likelihood", likelihood_matching_loss)])
def test_the_other_losses_are_those_of_aligned_groups(name, loss):
    options = dict(**GROUPED, **LABELS, valid=VALID, **PROJECTION, loss=name, temperature=1.5)
    got = cross_tokenizer_loss(STUDENT, TEACHER, **options)
    np.testing.assert_allclose(got[:, :3], loss(STUDENT, TEACHER, **TOKENS, temperature=1.5), rtol=1e-6)
    assert (np.asarray(got)[:, 3:] == 0).all()


def test_what_does_not_fit_is_refused():
    options = dict(**GROUPED, **LABELS, **PROJECTION)
    with pytest.raises(ValueError, match="loss must be one of projected, uld, likelihood, got 'gold'"):
        cross_tokenizer_loss(STUDENT, TEACHER, **options, valid=VALID, loss="gold")
    with pytest.raises(ValueError, match="3 groups, fewer than the tokens of a row"):
        cross_tokenizer_loss(STUDENT, TEACHER, **options, valid=VALID[:, :3])
    with pytest.raises(ValueError, match="must be .student classes, k. with 5 classes"):
        projected_kl_loss(
            STUDENT, TEACHER, **GROUPED, valid=VALID, projection_ids=IDS[1:], projection_weights=WEIGHTS[1:]
        )
