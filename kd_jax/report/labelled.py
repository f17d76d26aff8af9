"""Who had which labels: half of a gain may be the teacher's."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from kd_jax.report.cost import number


def sentences(results: Mapping[str, Any], trained: Collection[str], noun: str) -> list[str]:
    """Returns what is said where the labels were not the same for all, and where the student saw nothing of the data.

    `trained` are the roles that the run has, `noun` is what an example is called.
    """
    labelled, transfer, teacher = (number(results, "data", n) for n in ("labelled", "transfer", "teacher_labelled"))
    made = not (results.get("data") or {}).get("student_sees", True)
    if not labelled or (not made and not transfer and (teacher or labelled) == labelled):
        return []
    who = "Baseline and student" if "baseline" in trained else "The student"
    who = "The baseline" if made and "baseline" in trained else who
    words = f"{who} had the labels of {int(labelled):,} {noun}s"
    words += f", the teacher those of {int(teacher):,}" if teacher else ""
    if made:
        sees = f"The student saw no {noun} of the data: what it learned from was made."
        return [f"{words}. {sees}" if "baseline" in trained else sees]
    without = "the teacher's answers only" if "teacher" in trained else "no labels"
    return [f"{words}{f'; of {int(transfer):,} more {noun}s the student saw {without}' if transfer else ''}."]
