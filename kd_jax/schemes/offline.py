"""Offline distillation: a student learns from frozen teachers, or from labels alone where no term reads a teacher."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from kd_jax.core.terms import calls_of
from kd_jax.types import Call, Parts, Phase, Scheme, Stage, Term


def build(parts: Parts, views: Mapping[str, str] | None = None) -> Scheme:
    """Builds one stage in which the student learns from the terms of the config.

    Every network reads the inputs of its role, so teacher and student see the same view (Beyer et al. 2022, arXiv
    2106.05237). A frozen role runs in training only if a term reads it. The role "teacher" is in any case the reference
    that the student is compared with. `views` {name: path} are further pictures, {"strong": "batch.strong"} of
    config.train.views: terms read what a network answers to one as "student_strong.logits", "teacher_strong.logits".
    """
    if not parts.terms:
        raise ValueError("config.terms is empty: knowledge.compose('response') fills it.")
    named = calls_of(parts.terms.values())
    teachers = [name for name, role in parts.roles.items() if role.group is None and name in named]
    if "teacher" in named and "teacher" not in parts.roles:
        raise ValueError(f"The terms {sorted(parts.terms)} need a teacher, and there is none.")
    learns = "student" in named  # or connectors alone do
    forward = [Call("student", parts.roles["student"].inputs)] if learns else []
    forward += [Call(name, parts.roles[name].inputs, train=False) for name in teachers]
    forward += _on_views(parts, views or {}, named)
    metrics = watched(parts) if learns else {}
    phase = Phase("student", tuple(forward), parts.terms, parts.make_tx(parts.steps), metrics)
    reference = "teacher" if "teacher" in parts.roles else None
    return Scheme(parts.roles, (Stage(parts.steps, (phase,)),), reference=reference, task=parts.task)


def _on_views(parts: Parts, views: Mapping[str, str], named: Collection[str]) -> list[Call]:
    """The calls of networks on further pictures, of whose answers terms read something."""
    calls = []
    for view, path in views.items():
        readers = [name for name in parts.roles if f"{name}_{view}" in named]
        if not readers:
            raise ValueError(f"views: no term reads an answer to {view!r}, such as 'student_{view}.logits'.")
        calls += [Call(name, (path,), train=name == "student", name=f"{name}_{view}") for name in readers]
    return calls


def watched(parts: Parts, path: str = "student.logits", batch: str = "batch", name: str = "") -> dict[str, Term]:
    """Returns what the task shows live of the main output at `path`, as metrics of a phase; `name` tells them apart."""
    terms = parts.task.watch(path, batch) if parts.task is not None and parts.task.watch is not None else {}
    return {f"{metric}_{name}" if name else metric: term for metric, term in terms.items()}
