"""Who is served worse: gaps between classes, and between the groups that a sensitive attribute makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kd_jax.data.source import Source
from kd_jax.measure.subject import Measure, Measured, Subject
from kd_jax.ranges import Count
from kd_jax.resolve import near
from kd_jax.tasks.units import MISSING

SHOWN = ("accuracy", "positive_rate", "recall", "false_positive_rate")
LABELS = {
    "accuracy": "accuracy",
    "positive_rate": "answers “{positive}”",
    "recall": "answers “{positive}” where that is right (TPR)",
    "false_positive_rate": "answers “{positive}” where that is wrong (FPR)",
}
GAPS = {
    "accuracy_gap": "accuracy, best minus worst group",
    "demographic_parity": "demographic parity difference",
    "equalised_odds": "equalised odds difference",
}


def measure(subject: Subject, fields: tuple[str, ...] = (), smallest: Count[int] = 30) -> Measured:
    """Returns the worst class and, for each field, rates by group, the worst group and the gaps between groups.

    `fields` names fields of the data that hold the number of a group for each example; () takes those whose groups the
    data name (Source.levels), such as the sensitive attributes of a table. Gaps leave out rates of fewer than
    `smallest` examples, which differ by chance. Test examples with a label.
    """
    source = subject.source("test")
    groups = groups_of(source, fields)
    logits, labels = subject.labelled("test")
    there = subject.labels("test") >= 0
    values: dict[str, dict[str, Any]] = {}
    for role, answers in logits.items():
        chosen = answers.argmax(-1)
        everyone = counts(chosen, labels, np.zeros_like(labels), 1, source.num_classes)
        values[role] = worst_class(everyone[0])
        for field, names in groups.items():
            number = np.asarray(source.fields[field])[there]
            pairs = counts(chosen, labels, number, len(names), source.num_classes)
            values[role][field] = by_group(pairs, names, smallest)
    rows = {
        "worst_class": ("accuracy of the worst class", "%"),
        "class_gap": ("accuracy, best minus worst class", "%"),
    }
    return Measured(values, rows, [section(field, values, source, smallest) for field in groups if values])


def groups_of(source: Source, fields: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
    """Returns {field: names of its groups}; ValueError for a field that is not there, no number, or constant.

    Without `fields` they are those that the data name, but for the constant ones.
    """
    made = {}
    for field in fields or source.levels:
        if field not in source.fields:
            raise ValueError(
                f"groups of {field!r}: the fields of {source.name} are {sorted(source.fields) or 'none'}. "
                f"{near(field, source.fields)}"
            )
        numbers = np.asarray(source.fields[field])
        if numbers.ndim != 1 or numbers.dtype.kind not in "iub" or numbers.min(initial=0) < 0:
            raise ValueError(
                f"groups of {field!r}: a group is a number from 0 on for each example, and the field is "
                f"{numbers.dtype} {numbers.shape}."
            )
        there = np.unique(numbers)
        if len(there) < 2 and not fields:
            continue
        if len(there) < 2:
            raise ValueError(
                f"groups of {field!r}: all {len(numbers)} {source.split} examples of {source.name} are of group "
                f"{there[0] if len(there) else 'none'}: between fewer than two groups there is no gap."
            )
        made[field] = source.levels.get(field) or tuple(map(str, range(int(there[-1]) + 1)))
    return made


def counts(answers: np.ndarray, labels: np.ndarray, groups: np.ndarray, number: int, classes: int) -> np.ndarray:
    """Returns how many examples of each group and class get each answer, int [groups, classes, classes]."""
    flat = (np.asarray(groups).astype(np.int64) * classes + labels) * classes + answers
    return np.bincount(flat, minlength=number * classes * classes).reshape(number, classes, classes)


def worst_class(pairs: np.ndarray) -> dict[str, float | None]:
    """Returns the accuracy of the worst class of counts [class, answer], and how far the best lies above it.

    What distillation does to them: Lukasik, Bhojanapalli, Menon, Kumar, "Teacher's pet: understanding and mitigating
    biases in distillation", 2021, arXiv 2106.10494. Classes without an example are left out.
    """
    accuracy = _share(np.diag(pairs), pairs.sum(1))
    there = accuracy[~np.isnan(accuracy)]
    if not len(there):
        return {"worst_class": None, "class_gap": None}
    return {"worst_class": float(there.min()), "class_gap": float(there.max() - there.min())}


def by_group(pairs: np.ndarray, names: Sequence[str], smallest: int = 1) -> dict[str, Any]:
    """Returns rates and gaps of counts [group, class, answer]; "groups" holds the rates of each group by its name.

    Gaps and worst group are of the rates of at least `smallest` examples.

    accuracy_gap and worst_group (Sagawa, Koh, Hashimoto, Liang, "Distributionally Robust Neural Networks for Group
    Shifts", 2020, arXiv 1911.08731) are of the accuracy. demographic_parity is the largest difference between two
    groups in how often a class is answered (Dwork, Hardt, Pitassi, Reingold, Zemel, "Fairness Through Awareness", 2012,
    arXiv 1104.3913); equalised_odds the same among the examples of one class (Hardt, Price, Srebro, "Equality of
    Opportunity in Supervised Learning", 2016, arXiv 1610.02413). Of two classes these are |P(1|a) - P(1|b)| and the
    larger of the differences of TPR and FPR, the second class being the positive one; the maximum over more classes is
    ours. None where no example counts.
    """
    totals = pairs.sum((1, 2))
    accuracy = _share(np.trace(pairs, axis1=1, axis2=2), totals)
    answered = _share(pairs.sum(1), totals[:, None])
    given_class = _share(pairs, pairs.sum(2, keepdims=True))
    rates: dict[str, Any] = {"accuracy": accuracy}
    if pairs.shape[1] == 2:
        rates |= {"positive_rate": answered[:, 1], "recall": given_class[:, 1, 1]}
        rates["false_positive_rate"] = given_class[:, 0, 1]
    groups = {
        name: {"count": int(totals[i]), **{rate: _number(v[i]) for rate, v in rates.items()}}
        for i, name in enumerate(names)
    }
    many, many_of_class = totals >= smallest, pairs.sum(2, keepdims=True) >= smallest
    return {
        "worst_group": float(accuracy[many].min()) if many.any() else None,
        "accuracy_gap": _spread(np.where(many, accuracy, np.nan)),
        "demographic_parity": _spread(np.where(many[:, None], answered, np.nan)),
        "equalised_odds": _spread(np.where(many_of_class, given_class, np.nan)),
        "groups": groups,
    }


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, nan where there is nothing."""
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def _spread(rates: np.ndarray) -> float | None:
    """The largest difference along the first axis, of all others, leaving nan out."""
    high, low = np.where(np.isnan(rates), -np.inf, rates).max(0), np.where(np.isnan(rates), np.inf, rates).min(0)
    there = (~np.isnan(rates)).sum(0) > 1
    return float((high - low)[there].max()) if there.any() else None


def _number(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)


def section(field: str, values: Mapping[str, Mapping[str, Any]], source: Source, smallest: int) -> dict[str, Any]:
    """Returns the table of a field: rates of each group, then the gaps, of each network."""
    positive = source.class_names[-1]
    first = next(iter(values.values()))[field]
    rows = []
    for rate in (r for r in SHOWN if r in next(iter(first["groups"].values()))):
        for name, rates in first["groups"].items():
            cells = [_percent(one[field]["groups"][name][rate]) for one in values.values()]
            rows.append([f"{LABELS[rate].format(positive=positive)}: {name}, {rates['count']:,}", *cells])
    rows += [[label, *(_percent(one[field][gap]) for one in values.values())] for gap, label in GAPS.items()]
    lead = (
        f"Percent of the test {source.noun}s of each group. Differences leave out what fewer than {smallest} "
        f"{source.noun}s say."
    )
    return {"kind": "table", "title": f"Groups by {field}", "lead": lead, "columns": [field, *values], "rows": rows}


def _percent(value: float | None) -> str:
    return MISSING if value is None else f"{100 * value:.1f}"


def check(subject: Subject, fields: tuple[str, ...], smallest: int) -> None:
    """Raises ValueError for a field that makes no groups of the test examples."""
    del smallest
    groups_of(subject.source("test"), fields)


MEASURE = Measure(measure, needs=("classes",), cheap=True, check=check)
