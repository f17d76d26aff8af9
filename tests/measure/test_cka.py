"""Linear CKA against the formula over features, and its invariances."""

import numpy as np
import pytest
from scipy.stats import ortho_group

from kd_jax.measure.cka import cka, gram

X = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
Y = (X[:, :3] @ np.random.default_rng(1).normal(size=(3, 4)) + 0.5).astype(np.float32)


def between(x, y):
    return cka(np.asarray(gram(x), np.float64), np.asarray(gram(y), np.float64))


def test_it_is_the_formula_over_features():
    x, y = X - X.mean(0), Y - Y.mean(0)
    norm = np.linalg.norm
    assert between(X, Y) == pytest.approx(norm(y.T @ x) ** 2 / (norm(x.T @ x) * norm(y.T @ y)), rel=1e-5)


def test_it_is_1_up_to_rotation_scale_and_offset_and_nan_of_a_constant():
    turned = (3 * X @ ortho_group.rvs(5, random_state=0) + 2).astype(np.float32)
    assert between(X, turned) == pytest.approx(1, abs=1e-5)
    assert np.isnan(between(X, np.ones((30, 2), np.float32)))
    assert between(X.reshape(30, 5, 1), X) == pytest.approx(1, abs=1e-6)
