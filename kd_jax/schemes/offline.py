"""Offline distillation: a frozen teacher, a student trained on the terms; without teacher terms, supervised."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import optax

from kd_jax.metrics import accuracy
from kd_jax.terms import paths_of
from kd_jax.types import Call, Phase, Role, Scheme, Stage, Term


def build(
    roles: Mapping[str, Role],
    terms: Mapping[str, Term],
    make_tx: Callable[[int], optax.GradientTransformation],
    steps: int,
    teacher_input: str = "batch.image",
) -> Scheme:
    """`roles` holds "student" and, if there is one, "teacher"; `make_tx(steps)` the optimizer of a stage.

    The teacher runs only when a term names it; otherwise it is but the reference that the student is compared with.
    `teacher_input` is the path that the teacher sees (Beyer et al. 2022, arXiv 2106.05237: the student's own view).
    """
    uses_teacher = any(p.startswith("teacher.") for t in terms.values() for p in paths_of(t))
    if uses_teacher and "teacher" not in roles:
        raise ValueError(f"The terms {sorted(terms)} need a teacher, and there is none.")
    forward = [Call("student", roles["student"].inputs)]
    if uses_teacher:
        forward.append(Call("teacher", (teacher_input,), train=False))
    metrics = {"accuracy": Term(accuracy, ("student.logits",), ("batch.label",), where="batch.labelled")}
    phase = Phase("student", tuple(forward), terms, make_tx(steps), metrics)
    reference = "teacher" if "teacher" in roles else None
    return Scheme(roles, (Stage(steps, (phase,)),), reference=reference)
