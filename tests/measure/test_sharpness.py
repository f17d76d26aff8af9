"""Sharpness and curvature of functions whose Hessian is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.measure.sharpness import as_vector, largest_eigenvalue, sam_rise

A = np.random.default_rng(0).normal(size=(6, 6))
A = jnp.asarray(A + A.T, jnp.float32)


def test_the_largest_eigenvalue_is_numpys():
    values = np.linalg.eigvalsh(np.asarray(A, np.float64))
    eigenvalue = largest_eigenvalue(lambda v: A @ v, jax.random.normal(jax.random.key(0), (6,)), 200)
    assert eigenvalue == pytest.approx(values[np.abs(values).argmax()], rel=1e-4)


def test_hessian_products_of_a_logistic_regression_are_those_of_the_whole_hessian():
    x, y = np.random.default_rng(1).normal(size=(20, 4)), np.random.default_rng(2).integers(0, 2, 20)

    def loss(w):
        return jax.nn.softplus(-(2 * y - 1) * (x @ w)).mean()

    w = jnp.ones(4)
    eigenvalue = largest_eigenvalue(lambda v: jax.jvp(jax.grad(loss), (w,), (v,))[1], jnp.ones(4), 100)
    assert eigenvalue == pytest.approx(np.linalg.eigvalsh(jax.hessian(loss)(w)).max(), rel=1e-3)


def test_the_rise_in_the_ball_by_hand():
    def loss(w):
        return 3 * w[0] + 4 * w[1]

    # along the gradient, of length 5: 0.1 * 5
    assert sam_rise(loss, jax.grad(loss)(jnp.zeros(2)), jnp.zeros(2), 0.1) == pytest.approx(0.5)
    assert sam_rise(lambda w: w @ w, jnp.zeros(2), jnp.zeros(2), 0.1) == 0


def test_parameters_as_a_vector_leave_integers_alone():
    params = {"w": jnp.ones((2, 3), jnp.bfloat16), "n": jnp.arange(4), "b": np.zeros(2, np.float32)}
    vector, restore = as_vector(params)
    assert vector.shape == (8,) and vector.dtype == jnp.float32
    again = restore(2 * vector)
    np.testing.assert_array_equal(again["n"], params["n"])
    np.testing.assert_array_equal(again["w"], 2 * np.ones((2, 3)))
