"""Robustness to common corruptions of pictures: noise, blur, weather, compression, and mCE against the baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from kd_jax.measure.corruption_kinds import KINDS, SEVERITIES, corrupted
from kd_jax.measure.subject import Measure, Measured, Subject, infer_of, rows_until
from kd_jax.ranges import NotNegative

REFERENCE = "baseline"  # whose errors are 100%, where the paper takes AlexNet's


def measure(subject: Subject, examples: NotNegative[int] = 0) -> Measured:
    """Returns accuracy and errors on the test set under 15 corruptions in 5 severities (measure/corruption_kinds.py).

    `examples` are how many of the first test examples are corrupted, 0 for all. mCE is over the baseline's errors; None
    where the run has no baseline.
    """
    errors = errors_of(subject, examples)
    values = {role: _values(of_role, errors.get(REFERENCE)) for role, of_role in errors.items()}
    by_severity = {
        role: [[s, 100 - 100 * float(np.mean([e[s - 1] for e in of_role.values()]))] for s in SEVERITIES]
        for role, of_role in errors.items()
    }
    lines = {
        "kind": "lines",
        "title": "Accuracy on corrupted pictures",
        "lead": "The mean of the 15 kinds of corruption at each severity.",
        "x_label": "severity",
        "y_label": "accuracy (%)",
        "lines": by_severity,
    }
    table = {
        "kind": "table",
        "title": "Accuracy by corruption",
        "lead": "In %, the mean of the five severities, on the test set.",
        "columns": ["", *errors],
        "rows": [
            [kind.replace("_", " "), *(f"{100 - 100 * np.mean(of_role[kind]):.1f}" for of_role in errors.values())]
            for kind in KINDS
        ],
    }
    rows = {
        "accuracy": ("accuracy on corrupted pictures", "%"),
        "mce": (f"mean corruption error (mCE), {REFERENCE} = 100%", "%"),
    }
    return Measured(values, rows, [lines, table])


def _values(errors: Mapping[str, list[float]], reference: Mapping[str, list[float]] | None) -> dict[str, Any]:
    return {
        "accuracy": 1 - float(np.mean(list(errors.values()))),
        "mce": None if reference is None else mean_corruption_error(errors, reference),
        "errors": {kind: list(by_severity) for kind, by_severity in errors.items()},
    }


def mean_corruption_error(errors: Mapping[str, list[float]], reference: Mapping[str, list[float]]) -> float | None:
    """Computes mCE = mean over kinds of sum_s error / sum_s error of the reference; both {kind: [error by severity]}.

    None where the reference makes no error on a kind. Hendrycks, Dietterich 2019, arXiv 1903.12261, section 4.1.
    """
    totals = {kind: (sum(errors[kind]), sum(reference[kind])) for kind in errors}
    if not all(other for _, other in totals.values()):
        return None
    return float(np.mean([mine / other for mine, other in totals.values()]))


def errors_of(subject: Subject, examples: int = 0) -> dict[str, dict[str, list[float]]]:
    """Returns {role: {kind: [share of wrong answers at each severity]}}, over test examples with a label.

    A teacher of which there are only answers to the clean pictures is left out.
    """
    networks = {role: network for role in subject.networks if (network := subject.network(role))}
    infer = {role: infer_of(network) for role, network in networks.items()}
    key, count = jax.random.key(subject.seed), 0
    wrong = {role: {kind: np.zeros(len(SEVERITIES)) for kind in KINDS} for role in networks}
    for batch in rows_until(subject.batches("test"), examples):
        labels = np.asarray(batch["label"])
        counted = np.asarray(batch["mask"]) & (labels >= 0)
        count += counted.sum()
        for kind in KINDS:
            for severity in SEVERITIES:
                pictures = corrupted(kind, key, batch["image"], batch["index"], severity)
                prepared = subject.prepared({**batch, "image": pictures})
                for role, answer in infer.items():
                    answers = np.asarray(answer(prepared)).argmax(-1)
                    wrong[role][kind][severity - 1] += (counted & (answers != labels)).sum()
    return {
        role: {kind: (total / count).tolist() for kind, total in of_role.items()} for role, of_role in wrong.items()
    }


MEASURE = Measure(measure, needs=("classes", "pictures"))
