"""Calibration before and after temperature scaling: the temperature is of validation, the errors are of the test."""

from __future__ import annotations

from typing import Any

import numpy as np

from kd_jax.core.metrics import calibration_bins, expected_calibration_error
from kd_jax.core.temperature import fit_temperature, nll
from kd_jax.measure.subject import Measure, Measured, Subject


def measure(subject: Subject) -> Measured:
    """Returns the temperature of every network, and ECE and NLL after it; reliability before it goes into the report.

    A network without validation answers (stored ones of a teacher) has None.
    """
    held, held_labels = subject.logits("validation"), subject.labels("validation")
    answers, labels = subject.labelled("test")
    values, lines = {}, {}
    for role, logits in answers.items():
        temperature = fit_temperature(held[role], held_labels) if role in held else None
        values[role] = {"temperature": temperature, **_after(logits, labels, temperature)}
        lines[role] = reliability(logits, labels)
    section = {
        "kind": "lines",
        "title": "Reliability",
        "lead": "How often a network is right where it is so sure, before its temperature; a calibrated one has both "
        "alike. Bins of 15 that hold an example.",
        "x_label": "mean confidence in a bin (%)",
        "y_label": "accuracy in it (%)",
        "lines": lines,
    }
    rows = {
        "temperature": ("temperature by validation (above 1: too sure)", ""),
        "ece": ("calibration error (ECE) after it", "%"),
        "nll": ("NLL after it", ""),
    }
    return Measured(values, rows, [section])


def _after(logits: np.ndarray, labels: np.ndarray, temperature: float | None) -> dict[str, Any]:
    if temperature is None:
        return {"ece": None, "nll": None}
    sums = calibration_bins(logits / temperature, labels)
    return {"ece": expected_calibration_error(*sums), "nll": nll(logits, labels, temperature)}


def reliability(logits: np.ndarray, labels: np.ndarray) -> list[list[float]]:
    """Returns [mean confidence, accuracy] in % of the bins of core.metrics.calibration_bins that hold an example."""
    confidence, hits, count = (np.asarray(x, np.float64) for x in calibration_bins(logits, labels))
    full = count > 0
    return (100 * np.stack([confidence[full], hits[full]], 1) / count[full, None]).tolist()


MEASURE = Measure(measure, needs=("classes", "validation"), cheap=True)
