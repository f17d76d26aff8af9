"""FGSM and PGD against a linear classifier, on which the worst change of a size is known."""

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.measure.attacks import fgsm, pgd

W = np.random.default_rng(0).normal(size=7).astype(np.float32)
X = np.random.default_rng(1).normal(size=(40, 7)).astype(np.float32)
Y = np.sign(X @ W + 0.5)
GRADIENT = jax.grad(lambda x: jax.nn.softplus(-Y * (x @ W)).sum())
FAR = 1e6


def test_on_a_linear_classifier_both_reach_the_worst_case():
    eps = 0.3
    worst = Y * (X @ W) - eps * np.abs(W).sum()
    start = X + eps * np.random.default_rng(2).uniform(-1, 1, X.shape).astype(np.float32)
    for made in (fgsm(GRADIENT, X, eps, -FAR, FAR), pgd(GRADIENT, X, start, eps, 2.5 * eps / 10, 10, -FAR, FAR)):
        np.testing.assert_allclose(Y * (made @ W), worst, atol=1e-4)


def test_changes_stay_in_the_ball_and_in_the_valid_range_of_each_channel():
    low, high, eps = (jnp.array([v], jnp.float32) for v in ([-1.0] * 7, [0.5] * 7, np.linspace(0.1, 0.7, 7)))
    clean = jnp.clip(X, low, high)
    for made in (fgsm(GRADIENT, clean, eps, low, high), pgd(GRADIENT, clean, clean + eps, eps, eps / 2, 5, low, high)):
        assert (made >= low).all() and (made <= high).all()
        assert (jnp.abs(made - clean) <= eps + 1e-6).all() and (made != clean).any()
