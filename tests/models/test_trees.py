"""Ensembles that are fitted on the host, and soft trees against their definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mistakes import CLASSES, FEATURES, data, points

import kd_jax
from kd_jax.models import adapters, trees
from kd_jax.models.soft_tree import likeliest_leaf, soft_tree

SMALL = dict(trees=3, depth=3)


def answers(model, x):
    return np.asarray(model.apply({}, {}, jnp.asarray(x), train=False, key=jax.random.key(0))[0].logits)


@pytest.mark.parametrize("kind", ["boosting", "forest"])
def test_classes_are_log_probabilities_of_the_labelled_rows(kind):
    train = data(validation=0).train
    labels = train.labels.copy()
    labels[::3] = -1
    half = train.with_labels(labels)
    teacher = trees.ensemble(CLASSES, half, kind=kind, **SMALL)
    x = ((half.images - train.mean) / train.std).astype(np.float32)
    p = np.exp(answers(teacher, x))
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-3)
    assert (p.argmax(1) == labels)[labels >= 0].mean() > 0.6
    estimator = trees.fitted(teacher)
    np.testing.assert_allclose(p, np.maximum(estimator.predict_proba(x), 1e-4), rtol=1e-5)
    assert trees.fitted(trees.ensemble(CLASSES, half, kind=kind, **SMALL)) is estimator  # planned twice, fitted once
    assert trees.fitted(trees.ensemble(CLASSES, half, kind=kind, seed=1, **SMALL)) is not estimator


def test_a_class_without_an_example_is_as_good_as_impossible():
    train = data(validation=0).train
    few = train.with_labels(np.where(train.labels == 2, -1, train.labels))
    logits = answers(trees.ensemble(CLASSES, few, **SMALL), np.zeros((3, FEATURES), np.float32))
    np.testing.assert_allclose(logits[:, 2], np.log(1e-4), rtol=1e-5)


@pytest.mark.parametrize("kind", ["boosting", "forest"])
def test_numbers(kind):
    x, y = points()
    numbers = (x @ np.ones(FEATURES)).astype(np.float32)
    train = kd_jax.from_arrays(train=(x, numbers), test=(x, numbers)).train
    teacher = trees.ensemble(1, train, kind=kind, trees=40, depth=4)
    answered = answers(teacher, (x - train.mean) / train.std)
    assert answered.shape == (120, 1) and np.corrcoef(answered[:, 0], numbers)[0, 1] > 0.9


def test_a_soft_tree_is_the_mixture_of_its_leaves():
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    model = adapters.as_model(soft_tree(4, depth=2, sharpness=2.0))
    params, stats = model.init(jax.random.key(0), x)
    out, _ = model.apply(params, stats, x, train=False, key=jax.random.key(0), taps=("paths",))
    right = 1 / (1 + np.exp(-2 * (x @ np.asarray(params["turns"]["kernel"]) + np.asarray(params["turns"]["bias"]))))
    root, left, other = right.T
    paths = np.stack([(1 - root) * (1 - left), (1 - root) * left, root * (1 - other), root * other], 1)
    np.testing.assert_allclose(out.features["paths"], paths, rtol=1e-4)
    np.testing.assert_allclose(out.logits, np.log(paths @ np.asarray(jax.nn.softmax(params["leaves"]))), rtol=1e-4)
    assert np.asarray(likeliest_leaf(params, x, 2, 2.0)).tolist() == paths.argmax(1).tolist()
    values = adapters.as_model(soft_tree(1, depth=2, regress=True))
    params, stats = values.init(jax.random.key(0), x)
    regressed, _ = values.apply(params, stats, x, train=False, key=jax.random.key(0), taps=("paths",))
    np.testing.assert_allclose(regressed.logits, regressed.features["paths"] @ params["leaves"], rtol=1e-5)


def test_a_path_of_no_probability_has_finite_answers_and_gradients():
    model = adapters.as_model(soft_tree(3, depth=3, sharpness=1e4))
    x = 1e3 * np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
    params, _ = model.init(jax.random.key(0), x)
    loss = lambda p: model.apply(p, {}, x, train=False, key=jax.random.key(0))[0].logits[:, 0].sum()  # noqa: E731
    value, gradient = jax.value_and_grad(loss)(params)
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))
