"""Selective accuracy: how right a network is on the share of the examples that it is surest of."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import log_softmax

from kd_jax.measure.subject import Measure, Measured, Subject
from kd_jax.ranges import Portion


def measure(subject: Subject, coverage: Portion[float] = 0.8) -> Measured:
    """Returns the area under the risk-coverage curve and the accuracy at a coverage; the curves go into the report.

    Confidence is the largest probability. Test examples with a label.
    """
    values, lines = {}, {}
    answers, labels = subject.labelled("test")
    for role, logits in answers.items():
        confidence, wrong = log_softmax(logits, -1).max(-1), logits.argmax(-1) != labels
        risk = risk_coverage(confidence, wrong)
        answered = max(round(coverage * len(risk)), 1)
        values[role] = {"aurc": float(risk.mean()), "accuracy_at_coverage": float(1 - risk[answered - 1])}
        lines[role] = _curve(risk)
    section = {
        "kind": "lines",
        "title": "Accuracy on the examples that a network is surest of",
        "lead": f"The surest {100 * coverage:g}% are the accuracy in the table; everything lies at the right end.",
        "x_label": "share of the test set that is answered (%)",
        "y_label": "accuracy on it (%)",
        "lines": lines,
    }
    rows = {
        "aurc": ("area under risk-coverage (AURC), lower is better", ""),
        "accuracy_at_coverage": (f"accuracy on the surest {coverage:.0%}", "%"),
    }
    return Measured(values, rows, [section])


def risk_coverage(confidence: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Returns the share of errors among the k surest examples, k = 1..n, float64 [n].

    `confidence` [n], `wrong` bool [n]. Equal confidences are answered together: each gets the mean of what their
    orders give. Geifman, El-Yaniv, "Selective Classification for Deep Neural Networks", 2017, arXiv 1705.08500; its
    mean is AURC, Geifman, Uziel, El-Yaniv, "Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers", 2019,
    arXiv 1805.08206.
    """
    _, group = np.unique(-np.asarray(confidence), return_inverse=True)
    counts = np.bincount(group)
    share = np.bincount(group, weights=np.asarray(wrong, np.float64)) / counts
    expected = np.repeat(share, counts)  # of ties any order is as good: the expected error of each
    return np.cumsum(expected) / np.arange(1, len(expected) + 1)


def _curve(risk: np.ndarray, points: int = 20) -> list[list[Any]]:
    """The accuracy at evenly spaced coverages, as points of a figure."""
    counts = np.unique(np.linspace(1, len(risk), points + 1).round().astype(int)[1:])
    return [[100 * int(k) / len(risk), 100 * float(1 - risk[k - 1])] for k in counts]


MEASURE = Measure(measure, needs=("classes",), cheap=True)
