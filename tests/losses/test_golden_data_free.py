"""Losses on made-up images against references in NumPy float64; what the paper says of each; bad shapes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_reference import draw, softmax

from kd_jax.losses import data_free

LOGITS, TEACHER = draw((4, 5), (4, 5))
MAPS, IMAGES = draw((3, 2, 2, 4), (3, 4, 3, 2), seed=1)
MEAN, VAR = draw((4,), (4,), seed=2)
VAR = VAR**2


def disagreement(s, t):
    return np.abs(s - t).mean()


def one_hot(z):
    return np.mean([-np.log(softmax(row).max()) for row in z])


def entropy(z):
    p = np.mean([softmax(row) for row in z], axis=0)
    return np.sum(p * np.log(p))


def statistics(f, mean, var):
    flat = f.reshape(-1, f.shape[-1])
    return np.linalg.norm(flat.mean(0) - mean) + np.linalg.norm(flat.var(0) - var)


def variation(x):
    return np.mean(
        [np.mean(np.diff(image, axis=0) ** 2) + np.mean(np.diff(image, axis=1) ** 2) for image in np.asarray(x)]
    )


def prior(x):
    """Of the pixels one at a time: each with its neighbours below, to the right, and below on either side."""
    x, total = np.asarray(x), 0.0
    for rows, columns in ((1, 0), (0, 1), (1, 1), (1, -1)):
        moved = np.roll(x, (-rows, -columns), (1, 2))
        start, end = max(-columns, 0), x.shape[2] - max(columns, 0)
        total += np.linalg.norm((moved - x)[:, : x.shape[1] - rows, start:end])
    return total


@pytest.mark.parametrize(
    ("loss", "reference", "arrays", "wrt"),
    [
        (data_free.disagreement_loss, disagreement, (LOGITS, TEACHER), (0, 1)),
        (data_free.one_hot_loss, one_hot, (LOGITS,), (0,)),
        (data_free.activation_loss, lambda f: -np.abs(f).mean(), (MAPS,), (0,)),
        (data_free.information_entropy_loss, entropy, (LOGITS,), (0,)),
        (data_free.batch_norm_statistics_loss, statistics, (MAPS, MEAN, VAR), (0,)),
        (data_free.image_variation_loss, variation, (IMAGES,), (0,)),
        (data_free.image_prior_loss, prior, (IMAGES,), (0,)),
        (data_free.image_norm_loss, lambda x: np.mean(x**2), (IMAGES,), (0,)),
    ],
    ids=["disagreement", "one_hot", "activation", "entropy", "statistics", "variation", "prior", "norm"],
)
def test_against_numpy(check, loss, reference, arrays, wrt):
    check(loss, reference, *arrays, wrt=wrt)
    halves = [jnp.asarray(x, jnp.bfloat16) for x in arrays]
    shapes = jax.eval_shape(loss, *halves)
    assert shapes.shape == arrays[0].shape[:1] and shapes.dtype == jnp.float32


def test_entropy_is_lowest_where_classes_balance():
    balanced = data_free.information_entropy_loss(20 * jnp.eye(5))
    np.testing.assert_allclose(balanced, -np.log(5), rtol=1e-5)
    one_sided = data_free.information_entropy_loss(jnp.full((4, 5), -1e4).at[:, 2].set(1e4))
    np.testing.assert_allclose(one_sided, 0, atol=1e-6)


def test_statistics_that_agree_cost_nothing_and_pull_nowhere():
    maps = np.asarray(MAPS, np.float32)
    mean, var = maps.mean((0, 1, 2)), maps.var((0, 1, 2))
    value, gradient = jax.value_and_grad(lambda x: data_free.batch_norm_statistics_loss(x, mean, var).mean())(maps)
    assert abs(value) < 1e-5 and np.isfinite(gradient).all()
    far = jax.grad(lambda x: data_free.batch_norm_statistics_loss(x, mean, var).mean())(np.zeros_like(maps))
    assert np.isfinite(far).all()


@pytest.mark.parametrize(
    ("loss", "arrays"),
    [
        (data_free.information_entropy_loss, (LOGITS,)),
        (lambda f, where=None: data_free.batch_norm_statistics_loss(f, MEAN, VAR, where=where), (MAPS,)),
    ],
)
def test_masked_rows_do_not_count(loss, arrays):
    (x,) = arrays
    mask = np.arange(len(x)) < 2
    dirty = np.where(mask.reshape(-1, *[1] * (x.ndim - 1)), x, np.nan)
    value, gradient = jax.value_and_grad(lambda x: loss(x, where=mask).mean())(dirty)
    np.testing.assert_allclose(value, loss(x[:2])[0], rtol=1e-6)
    assert (gradient[2:] == 0).all() and np.isfinite(gradient).all()


def test_extreme_logits_stay_finite():
    hard = jnp.array([[1e4, -1e4, 0.0], [0.0, 0.0, 0.0]])
    for loss in (data_free.one_hot_loss, data_free.information_entropy_loss):
        value, gradient = jax.value_and_grad(lambda z, loss=loss: loss(z).sum())(hard)
        assert np.isfinite(value) and np.isfinite(gradient).all()


def test_bad_shapes():
    with pytest.raises(ValueError, match=r"\(4, 5\) and teacher \(4, 4\)"):
        data_free.disagreement_loss(LOGITS, TEACHER[:, :4])
    with pytest.raises(ValueError, match="a mean and a variance a channel"):
        data_free.batch_norm_statistics_loss(MAPS, MEAN[:3], VAR)
    with pytest.raises(ValueError, match="expected images"):
        data_free.image_variation_loss(LOGITS)
    with pytest.raises(ValueError, match="image_prior_loss: expected images"):
        data_free.image_prior_loss(LOGITS)
