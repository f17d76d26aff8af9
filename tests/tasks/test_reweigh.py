"""Weights by group and class: by hand, and in the terms of teacher, baseline and student."""

import jax.numpy as jnp
import numpy as np
import pytest

import kd_jax
from kd_jax.losses.task import cross_entropy_loss
from kd_jax.tasks import classify
from kd_jax.tasks.reweigh import reweighing, weighted_cross_entropy

LABELS, GROUPS = np.array([0, 0, 0, 1, 0, 1, 1, 1, -1]), np.array([0, 0, 0, 0, 1, 1, 1, 1, 1])


def test_by_hand():
    weights = reweighing(LABELS, GROUPS, 2)
    np.testing.assert_allclose(weights, [[0.5 * 4 / 3, 0.5 * 4 / 1], [0.5 * 4 / 1, 0.5 * 4 / 3]])
    there = LABELS >= 0
    each = weights[GROUPS[there], LABELS[there]]
    assert each.sum() == pytest.approx(there.sum())
    positives = [each[(GROUPS[there] == g) & (LABELS[there] == 1)].sum() for g in (0, 1)]
    assert positives[0] == pytest.approx(positives[1])  # of both groups, which are equally many, equally often


def test_a_pair_that_no_example_has_weighs_nothing():
    assert reweighing(np.array([0, 1, 0]), np.array([0, 0, 1]), 2)[1, 1] == 0


def test_the_loss_is_the_weighted_cross_entropy():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)), jnp.float32)
    labels, groups = jnp.array([0, 1, -1]), jnp.array([1, 0, 0])
    weights = ((1.0, 2.0), (3.0, 4.0))
    losses = weighted_cross_entropy(logits, labels, groups=groups, weights=weights)
    np.testing.assert_allclose(losses[:2], np.array([3.0, 2.0]) * cross_entropy_loss(logits, labels)[:2], rtol=1e-6)
    assert np.isfinite(losses).all()
    with pytest.raises(ValueError, match="mixup and cutmix make mixtures of two"):
        weighted_cross_entropy(logits, jnp.ones((3, 2)), groups=groups, weights=weights)


def test_each_training_has_the_weights_of_its_own_labels():
    fields = {"train": {"sex": GROUPS}, "test": {"sex": GROUPS}}
    x = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    train = kd_jax.from_arrays(train=(x, LABELS), test=(x, LABELS), fields=fields).train
    term = classify.task(train, reweigh="sex").terms(train)["ce"]
    np.testing.assert_allclose(term.kwargs["weights"], reweighing(LABELS, GROUPS, 2))
    assert term.options == {"groups": "batch.sex"} and term.where == "batch.labelled"
