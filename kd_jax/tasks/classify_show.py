"""What a report shows of classifiers: who gains and loses by class, and what the teacher knows beside the label."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from kd_jax.types import Shown, Term

MOST = 24  # classes that are shown; of more only both ends


def show(shown: Shown) -> list[dict[str, Any]]:
    """Returns the sections that there are numbers for."""
    return [*class_gaps(shown), *confusion(shown), *dark_knowledge(shown)]


def confusion(shown: Shown) -> list[dict[str, Any]]:
    """Returns the table of what the student answers for the examples of each class, where that was counted."""
    pairs = ((shown.scores.get("student") or {}).get("test") or {}).get("confusion")
    if not pairs:
        return []
    names = [str(name) for name in shown.source.class_names]
    rows = [[name, *row] for name, row in zip(names, pairs, strict=True)]
    lead = "How many test examples of a class (a row) the student puts into each class (a column)."
    return [{"kind": "table", "title": "Confusion", "lead": lead, "columns": ["", *names], "rows": rows}]


def class_gaps(shown: Shown) -> list[dict[str, Any]]:
    """Returns the section of 100 * (student - other) test accuracy for each class, the best class first."""
    accuracies = _class_accuracies(shown)
    others = [role for role in ("teacher", "baseline") if role in accuracies]
    if "student" not in accuracies or not others:
        return []
    gaps = {role: 100 * (accuracies["student"] - accuracies[role]) for role in others}
    order = np.argsort(-gaps[others[-1]])
    if len(order) > MOST:
        order = np.concatenate([order[: MOST // 2], order[-MOST // 2 :]])
    classes = len(accuracies["student"])
    noise = _noise(shown, classes)
    names = [str(shown.source.class_names[i]) for i in order]
    return [
        {
            "kind": "dots",
            "title": "Who gains, who loses",
            "lead": _gaps_lead(shown, noise, len(order), classes),
            "names": names,
            "series": {role: [_plain(x) for x in gap[order]] for role, gap in gaps.items()},
            "band": noise,
            "x_label": "points; to the right the student is better",
        }
    ]


def _class_accuracies(shown: Shown) -> dict[str, np.ndarray]:
    """Returns the test accuracy of each class, nan where the test set has none of it, of the roles that state one."""
    tables = {role: (scores.get("test") or {}).get("per_class_accuracy") for role, scores in shown.scores.items()}
    return {
        role: np.array([math.nan if value is None else value for value in values], np.float64)
        for role, values in tables.items()
        if values
    }


def _gaps_lead(shown: Shown, noise: float | None, drawn: int, classes: int) -> str:
    lead = "Test accuracy of the student minus that of the others, class by class."
    if noise:
        lead += (
            f" Inside the shaded band (± {noise:.1f} points) a difference is within the noise of so few "
            f"{shown.source.noun}s."
        )
    if drawn < classes:
        lead += f" The {drawn} classes at both ends, of {classes}."
    return lead


def _noise(shown: Shown, classes: int) -> float | None:
    """Returns two standard errors, in points, of a difference of two accuracies on the examples of one class."""
    accuracy = shown.scores["student"]["test"].get("accuracy")
    if accuracy is None:
        return None
    return 200 * math.sqrt(2 * accuracy * (1 - accuracy) * classes / len(shown.source))


def dark_knowledge(shown: Shown) -> list[dict[str, Any]]:
    """Returns the section of the test examples of which the teacher is least certain, and what each network says."""
    logits = {role: np.asarray(outputs.logits, np.float32) for role, outputs in shown.outputs.items()}
    if "teacher" not in logits or not shown.count or logits["teacher"].ndim != 2 or shown.source.entry != "image":
        return []
    if logits["teacher"].shape[-1] != shown.source.num_classes:
        return []
    temperature = temperature_of(shown.terms)
    p = np.asarray(jax.nn.softmax(logits["teacher"]))
    entropy = -(p * np.log(np.maximum(p, 1e-30))).sum(-1)
    examples = []
    for i in np.argsort(-entropy, kind="stable")[: shown.count]:
        example = {
            "image": picture(shown.batch["image"][i]),
            "label": int(shown.batch["label"][i]),
            "temperature": temperature,
        }
        example |= {n: np.asarray(jax.nn.softmax(z[i])).tolist() for n, z in logits.items()}
        example |= {f"{n}_soft": np.asarray(jax.nn.softmax(z[i] / temperature)).tolist() for n, z in logits.items()}
        examples.append(example)
    lead = (
        "The label names one class and is silent about the rest. The teacher's softened probabilities say what else an "
        "example resembles; this is what the student learned from. Bars: the teacher's five likeliest classes, the "
        "label in bold."
    )
    names = list(map(str, shown.source.class_names))
    return [{"kind": "examples", "title": "Dark knowledge", "lead": lead, "examples": examples, "names": names}]


def picture(image: np.ndarray) -> list | None:
    """Returns the values 0..255 of a grey or colour image [H, W, C], floats stretched to that range; else None."""
    if image.ndim != 3 or image.shape[-1] not in (1, 3):
        return None
    if image.dtype != np.uint8:
        image = image - image.min()
        image = np.round(255 * image / max(image.max(), 1e-12))
    return image.astype(int).tolist()


def temperature_of(terms: Mapping[str, Term]) -> float:
    """Returns the temperature of the first term on the student's logits that has a number as one, else 4.

    The report's picture alone is drawn with it.
    """
    for term in terms.values():
        value = term.kwargs.get("temperature")
        if isinstance(value, (int, float)) and "student.logits" in term.inputs:
            return float(value)
    return 4.0


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
