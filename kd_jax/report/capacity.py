"""Whether the student could take what its teacher has: signs that it is too small, or the teacher too weak."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from kd_jax.report.cost import number
from kd_jax.tasks.units import percent


def too_small(trained: Mapping[str, Mapping[str, Any]], noun: str) -> list[str]:
    """Returns the sentence that the student looks too small, [] where it does not or where that was not measured.

    It is said where the student is, by two standard errors, less often right on its own training examples than the
    teacher on the test examples, and not measurably more often than on the test examples: it fails to fit what it
    learns, rather than to generalise. Cho, Hariharan, "On the Efficacy of Knowledge Distillation", 2019, arXiv
    1910.01348, on students that cannot mimic their teacher.
    """
    student, teacher = trained.get("student") or {}, trained.get("teacher") or {}
    fitted, count = (number(student, "measures", "fit", name) for name in ("train_accuracy", "examples"))
    test, error = (number(student, "last", "test", name) for name in ("accuracy", "accuracy_error"))
    goal, goal_error = (number(teacher, "last", "test", name) for name in ("accuracy", "accuracy_error"))
    if fitted is None or not count or test is None or error is None or goal is None or goal_error is None:
        return []
    fit_error = math.sqrt(fitted * (1 - fitted) / count)
    if goal - fitted <= 2 * math.hypot(fit_error, goal_error) or fitted - test > 2 * math.hypot(fit_error, error):
        return []
    return [
        f"The student looks too small, or trained too briefly: on {int(count):,} of its own training {noun}s its "
        f"accuracy is {percent(fitted)}, below what the teacher reaches on the test {noun}s, and not measurably above "
        "its own there. It fails to fit, not to generalise."
    ]
