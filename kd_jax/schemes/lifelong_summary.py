"""Measures of a stream of tasks: the matrix of accuracies after each task, and the numbers computed from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np


def matrix(record: Mapping[str, Any], entry: str = "student", metric: str = "accuracy") -> np.ndarray:
    """Returns a [tasks, tasks]: a[k, j] is the accuracy on the test images of task j after task k was learned.

    `record` is that of the loop, or a run's results.json.
    """
    stages = [stage for stage in record["stages"] if stage["stage"].startswith("task")]
    return np.array([[s[f"test_task{j}"][entry][metric] for j in range(len(stages))] for s in stages])


def judge(a: np.ndarray, initial: np.ndarray | None = None) -> dict[str, float]:
    """Computes the usual measures of a = matrix(...) of T tasks; `initial` [T]: accuracies before the first task.

    average accuracy    mean_j a[T-1, j]
    incremental         mean_k of mean_{j <= k} a[k, j] (iCaRL, 2016, arXiv 1611.07725)
    forgetting          mean_{j < T-1} of max_{k < T-1} a[k, j] - a[T-1, j] (Chaudhry et al., "Riemannian Walk
                        for Incremental Learning", 2018, arXiv 1801.10112)
    backward transfer   mean_{j < T-1} of a[T-1, j] - a[j, j]
    forward transfer    mean_{j > 0} of a[j-1, j] - initial[j]; both of Lopez-Paz, Ranzato, "Gradient Episodic Memory
                        for Continual Learning", 2017, arXiv 1706.08840
    """
    last = len(a) - 1
    measures = {
        "average accuracy": a[last].mean(),
        "average incremental accuracy": np.mean([a[k, : k + 1].mean() for k in range(len(a))]),
        "forgetting": (a[:last, :last].max(0) - a[last, :last]).mean(),
        "backward transfer": (a[last, :last] - np.diagonal(a)[:last]).mean(),
    }
    if initial is not None:
        measures["forward transfer"] = (np.diagonal(a, 1) - initial[1:]).mean()
    return {name: float(value) for name, value in measures.items()}


def make(classes: Sequence[np.ndarray], scenario: str, metric: str) -> Callable[..., list[dict[str, Any]]]:
    """Returns the `summary` of a scheme whose task k has the classes classes[k]."""

    def summary(_: Any, record: Mapping[str, Any]) -> list[dict[str, Any]]:
        a = matrix(record, metric=metric)
        measures = judge(a, None if scenario == "class" else matrix(record, "initial", metric)[0])
        measures = {**measures, "forward transfer": measures.get("forward transfer")}
        rows = [[f"task {k}", *(_percent(v) for v in a[k]), _percent(a[k, : k + 1].mean())] for k in range(len(a))]
        lead = (
            "Accuracy on the test images of each task (columns) after each task was learned (rows); the last column is "
            "the mean over the tasks learned so far."
        )
        heads = [
            f"task {k} ({', '.join(map(str, c)) if scenario != 'domain' else 'all'})" for k, c in enumerate(classes)
        ]
        none = "not defined: a class that has not been seen is no answer"
        numbers = [[name, none if value is None else f"{100 * value:+.1f} points"] for name, value in measures.items()]
        for row in numbers[:2]:
            row[1] = _percent(measures[row[0]])
        line = [[k + 1, float(a[k, : k + 1].mean())] for k in range(len(a))]
        return [
            {
                "kind": "table",
                "title": "Accuracy task by task",
                "lead": lead,
                "columns": ["After", *heads, "mean so far"],
                "rows": rows,
            },
            {
                "kind": "table",
                "title": f"{scenario.capitalize()}-incremental learning",
                "lead": "Of the table above.",
                "columns": ["Measure", "Value"],
                "rows": numbers,
            },
            {
                "kind": "lines",
                "title": "Mean accuracy on the tasks learned so far",
                "lead": "The last column of the matrix.",
                "x_label": "tasks",
                "y_label": "accuracy",
                "lines": {"student": line},
            },
        ]

    return summary


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"
