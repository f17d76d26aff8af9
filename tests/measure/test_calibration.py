"""Temperature scaling, and what it does to ECE and NLL, against scipy's minimum on a grid and values by hand."""

import numpy as np
import pytest

from kd_jax.core.temperature import RANGE, fit_temperature, nll
from kd_jax.measure.calibration import reliability


def test_two_logits_by_hand():
    # right in 3 of 4 with a margin of 2: sigma(2 / T) = 3 / 4 at T = 2 / log 3
    logits, labels = np.array([[2.0, 0.0]] * 4), np.array([0, 0, 0, 1])
    assert fit_temperature(logits, labels) == pytest.approx(2 / np.log(3), rel=1e-4)
    assert nll(logits, labels, 2 / np.log(3)) == pytest.approx(-0.75 * np.log(0.75) - 0.25 * np.log(0.25))


def test_it_is_the_minimum_of_the_nll_and_leaves_out_what_has_no_label():
    rng = np.random.default_rng(0)
    logits, labels = 5 * rng.normal(size=(200, 4)), rng.integers(0, 4, 200)
    labels[:100] = logits[:100].argmax(-1)
    best = fit_temperature(logits, labels)
    assert all(nll(logits, labels, best) <= nll(logits, labels, t) + 1e-9 for t in np.geomspace(*RANGE, 200))
    more = np.concatenate([logits, np.full((5, 4), 100.0)]), np.concatenate([labels, [-1] * 5])
    assert fit_temperature(*more) == best


def test_without_labels_there_is_no_temperature():
    with pytest.raises(ValueError, match="none of these has a label"):
        fit_temperature(np.zeros((3, 2)), np.full(3, -1))


def test_reliability_by_hand():
    logits = np.log([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
    np.testing.assert_allclose(reliability(logits, np.array([0, 1, 1])), [[60, 100], [90, 50]], rtol=1e-5)
