"""The kernel of wide networks and its regression, against NumPy and against a wide network itself."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_reference import draw

from kd_jax.losses.kernel import kernel_regression_loss, tangent_kernel

MINE, THEIRS = np.array([0, 1, 2, 1]), np.array([2, 0, 1])


def kernel(x, y):
    """One hidden layer, entry by entry."""
    made = np.zeros((len(x), len(y)))
    for i, a in enumerate(x):
        for j, b in enumerate(y):
            first, scale = a @ b / len(a), np.sqrt((a @ a) * (b @ b)) / len(a)
            angle = np.arccos(np.clip(first / scale, -1 + 1e-6, 1 - 1e-6))
            second = scale * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / np.pi
            made[i, j] = second + first * (np.pi - angle) / np.pi
    return made


def regression(synthetic, real):
    inner = kernel(synthetic, synthetic)
    inner = inner + 0.1 * np.trace(inner) / len(inner) * np.eye(len(inner))
    y_s, y_r = np.eye(3)[MINE] - 1 / 3, np.eye(3)[THEIRS] - 1 / 3
    return np.mean(0.5 * np.sum((y_r - kernel(real, synthetic) @ np.linalg.solve(inner, y_s)) ** 2, axis=1))


def test_kernel_regression(check):
    labels = dict(synthetic_labels=MINE, real_labels=THEIRS, classes=3, ridge=0.1)
    check(functools.partial(kernel_regression_loss, **labels), regression, *draw((4, 5), (3, 5)))


def test_the_kernel_is_that_of_a_wide_network():
    """The inner products of gradients of a network of 8,192 hidden units, at random parameters."""
    x = jnp.asarray(draw((3, 6))[0], jnp.float32)
    keys, width = jax.random.split(jax.random.key(0)), 8192
    params = (jax.random.normal(keys[0], (6, width)), jax.random.normal(keys[1], (width,)))

    def network(params, one):
        first, second = params
        return jax.nn.relu(one @ first / np.sqrt(6)) @ second * np.sqrt(2 / width)

    rows = jax.vmap(jax.grad(network), in_axes=(None, 0))(params, x)
    flat = jnp.concatenate([r.reshape(3, -1) for r in rows], axis=1)
    np.testing.assert_allclose(flat @ flat.T, tangent_kernel(x, x), rtol=0.1, atol=0.05)


def test_equal_and_empty_examples_have_finite_gradients():
    x = jnp.zeros((3, 4)).at[0].set(1.0).at[1].set(1.0)
    gradient = jax.grad(lambda x: tangent_kernel(x, x, depth=2).sum())(x)
    assert np.all(np.isfinite(gradient))
    with pytest.raises(ValueError, match=r"one width, got \(3, 4\) and \(3, 5\)"):
        tangent_kernel(x, jnp.zeros((3, 5)))
    with pytest.raises(ValueError, match=r"need labels of theirs, got \(2,\) and \(3,\)"):
        kernel_regression_loss(x, x, jnp.zeros(2, int), jnp.zeros(3, int), classes=2)
