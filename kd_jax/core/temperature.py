"""The temperature that calibrates a network, by which its logits are divided."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

RANGE = (0.02, 50.0)  # a network without an error on its examples asks for 0, one without a hit for infinity


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the temperature T that minimises the mean of -log softmax(logits / T)[label], within RANGE.

    logits [n, classes], labels int [n], -1 where there is none; ValueError without any. Guo, Pleiss, Sun, Weinberger,
    "On Calibration of Modern Neural Networks", 2017, arXiv 1706.04599, section 4.2.
    """
    rows = labels >= 0
    if not rows.any():
        raise ValueError("A temperature is fitted to labelled examples, and none of these has a label.")

    def loss(log_temperature: float) -> float:
        return nll(logits[rows], labels[rows], math.exp(log_temperature))

    low, high = map(math.log, RANGE)
    minimum = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
    return float(math.exp(minimum.x))


def nll(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """Computes the mean of -log softmax(logits / temperature)[label] in float64, in nats."""
    log_p = log_softmax(np.asarray(logits, np.float64) / temperature, -1)
    return float(-log_p[np.arange(len(labels)), labels].mean())
