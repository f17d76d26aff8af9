"""`check`: a loss against a reference that is written anew, in NumPy float64 and loops; value and gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest


def numeric_gradient(fn, arrays: tuple[np.ndarray, ...], which: int, step: float = 1e-4) -> np.ndarray:
    """Central differences of the number fn(*arrays) by every entry of arrays[which]."""
    gradient = np.zeros(arrays[which].shape)
    for index in np.ndindex(*gradient.shape):
        ends = []
        for sign in (1, -1):
            moved = [a.copy() for a in arrays]
            moved[which][index] += sign * step
            ends.append(fn(*moved))
        gradient[index] = (ends[0] - ends[1]) / (2 * step)
    return gradient


@pytest.fixture
def check():
    """check(loss, reference, *arrays): the mean of loss(*arrays) is reference(*arrays), and so are the gradients.

    `wrt` names the arrays whose gradients are compared; `still(*arrays)` is a reference whose detached parts stay where
    they are while it is differentiated.
    """

    def compare(loss, reference, *arrays, wrt=(0,), still=None):
        low = tuple(np.asarray(a, np.float32) for a in arrays)
        high = tuple(a.astype(np.float64) for a in low)
        mean = jax.jit(jax.value_and_grad(lambda *x: jnp.mean(loss(*x)), argnums=wrt))
        value, gradients = mean(*low)
        np.testing.assert_allclose(value, reference(*high), rtol=1e-4, atol=1e-7)
        for which, gradient in zip(wrt, gradients, strict=True):
            expected = numeric_gradient(still or reference, high, which)
            np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-4 * np.max(np.abs(expected)) + 1e-9)

    return compare
