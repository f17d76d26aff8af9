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
    teachers = f", the teacher those of {int(teacher):,}" if teacher else ""
    if labelled and not (results.get("data") or {}).get("student_sees", True):
        sees = f"The student saw no {noun} of the data: what it learned from was made."
        had = f"The baseline had the labels of {int(labelled):,} {noun}s{teachers}. "
        return [had + sees if "baseline" in trained else sees]
    if not labelled or (not transfer and (teacher or labelled) == labelled):
        return []
    who = "Baseline and student" if "baseline" in trained else "The student"
    without = "the teacher's answers only" if "teacher" in trained else "no labels"
    more = f"; of {int(transfer):,} more {noun}s the student saw {without}" if transfer else ""
    return [f"{who} had the labels of {int(labelled):,} {noun}s{teachers}{more}."]
