"""Selective accuracy against values by hand and scikit-learn."""

import numpy as np
import pytest

from kd_jax.measure.selective import risk_coverage


def test_by_hand():
    # from the surest: right, wrong, right, wrong
    risk = risk_coverage(np.array([0.2, 0.9, 0.5, 0.7]), np.array([True, False, False, True]))
    np.testing.assert_allclose(risk, [0, 1 / 2, 1 / 3, 2 / 4])


def test_ties_do_not_depend_on_the_order():
    wrong = np.array([True, False, False, True])
    risk = risk_coverage(np.zeros(4), wrong)
    np.testing.assert_allclose(risk, 0.5)
    np.testing.assert_array_equal(risk, risk_coverage(np.zeros(4), wrong[::-1]))


def test_against_scikit_learns_precision():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    confidence, wrong = rng.permutation(50) / 50.0, rng.random(50) < 0.3
    precision, recall, _ = metrics.precision_recall_curve(~wrong, confidence)
    risk = risk_coverage(confidence, wrong)
    hits = np.arange(1, 51) * (1 - risk)
    for p, r in zip(precision[:-1], recall[:-1], strict=True):  # at every threshold: the same precision at this recall
        at = np.flatnonzero(np.isclose(hits, r * (~wrong).sum()))
        assert any(np.isclose(1 - risk[at], p))
