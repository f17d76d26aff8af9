"""Certain and diverse answers: hand-computed values, masks, extremes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.losses.adaptation import information_loss


def test_values():
    p = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
    entropy = lambda q: -(q * np.log(q)).sum(-1)  # noqa: E731
    losses = information_loss(jnp.log(jnp.asarray(p, jnp.float32)) + 3)
    np.testing.assert_allclose(losses, entropy(p) - entropy(p.mean(0)), rtol=1e-4)


def test_the_least_is_certain_and_evenly_spread():
    certain = 1e4 * jnp.eye(4)
    np.testing.assert_allclose(information_loss(certain), -np.log(4), rtol=1e-5)
    np.testing.assert_allclose(information_loss(certain[:1]), 0, atol=1e-6)  # one class for all: nothing is known
    np.testing.assert_allclose(information_loss(jnp.zeros((3, 4))), 0, atol=1e-6)


def test_masked_rows_and_extremes():
    z = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    mask, dirty = np.array([True, False, True, True]), z.copy()
    dirty[1] = np.nan
    total = jax.jit(jax.value_and_grad(lambda z, where: information_loss(z, where=where).sum()))
    value, gradient = total(dirty, mask)
    alone, alone_gradient = jax.value_and_grad(lambda z: information_loss(z).sum())(z[mask])
    np.testing.assert_allclose(value, alone, rtol=1e-5)
    np.testing.assert_allclose(gradient[mask], alone_gradient, rtol=1e-4, atol=1e-6)
    assert not gradient[1].any()
    for extreme in (1e4 * np.sign(z), np.zeros_like(z), np.full_like(z, -1e4)):
        value, gradient = total(extreme, np.ones(4, bool))
        assert np.isfinite(value) and np.isfinite(gradient).all()
    assert information_loss(jnp.bfloat16(z)).dtype == jnp.float32
    with pytest.raises(ValueError, match=r"\(2, 3, 4\)"):
        information_loss(jnp.zeros((2, 3, 4)))
