"""Chains of teacher assistants over a large gap in capacity: teacher -> assistant -> ... -> student, a stage each."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping
from typing import Any

import jax

from kd_jax.ranges import BelowOne
from kd_jax.resolve import near
from kd_jax.schemes.offline import watched
from kd_jax.schemes.redirect import reading, renamed
from kd_jax.tasks.units import name_of, score_text
from kd_jax.types import Array, Call, Parts, Phase, Role, Schedule, Scheme, Stage, Term


def build(
    parts: Parts,
    chain: tuple[str, ...] = (),
    steps: Mapping[str, int] | None = None,
    dense: bool = False,
    drop: BelowOne[float] = 0.0,
) -> Scheme:
    """Builds one stage for each network of the chain, on the terms of the config for "student" and "teacher".

    `chain` names roles of config.roles, largest first, each in a group of its own; the student comes last. A network
    learns from the finished network before it. Every stage has config.train.steps, or what `steps` has for its name,
    and its schedules start anew. chain=() is offline distillation.
    Mirzadeh, Farajtabar, Li, Levine, Matsukawa, Ghasemzadeh, "Improved Knowledge Distillation via Teacher Assistant"
    (TAKD), 2019, arXiv 1902.03393.
    `dense`: a network learns from all before it, in equal shares of the terms' weights; `drop` is the probability that
    a step leaves out one of several teachers. Son, Na, Choi, Hwang, "Densely Guided Knowledge Distillation using
    Multiple Teacher Assistants" (DGKD), 2020, arXiv 2009.08825, who sum over the teachers where we take the mean.
    """
    steps = dict(steps or {})
    _check(parts, chain, steps, dense, drop)
    networks = ("teacher", *chain, "student")
    stages, start = [], 0
    for i, learner in enumerate(networks[1:], start=1):
        teachers = networks[:i] if dense else networks[i - 1 : i]
        count = steps.get(learner, parts.steps)
        terms = _terms(parts, learner, teachers, drop, start, count)
        forward = [Call(learner, parts.roles[learner].inputs)]
        forward += [Call(name, parts.roles[name].inputs, train=False) for name in teachers]
        group = parts.roles[learner].group
        phase = Phase(group, tuple(forward), terms, parts.make_tx(count, group), watched(parts, f"{learner}.logits"))
        stages.append(Stage(count, (phase,), name=learner, selects=learner == "student"))
        start += count
    split = "validation" if parts.sources.get("validation") is not None else "test"
    headline = parts.task.headline

    def summary(_: Any, record: Mapping[str, Any]) -> list[dict[str, Any]]:
        rows = []
        for stage, after in zip(stages, record["stages"], strict=True):
            score = score_text(headline, after[split][stage.name])
            rows.append([stage.name, " + ".join(_teachers_of(stage)), stage.steps, score])
        columns = ["Network", "Learns from", "Steps", f"{name_of(headline).capitalize()} ({split})"]
        lead = "Each network when its own stage ended."
        return [{"kind": "table", "title": "The chain of assistants", "lead": lead, "columns": columns, "rows": rows}]

    return Scheme(
        parts.roles,
        tuple(stages),
        evaluate=("student", *chain),
        reference="teacher",
        stage_splits=(split,),
        summary=summary,
        task=parts.task,
    )


def _teachers_of(stage: Stage) -> list[str]:
    return [call.role for call in stage.phases[0].forward[1:]]


def _check(parts: Parts, chain: tuple[str, ...], steps: Mapping[str, int], dense: bool, drop: float) -> None:
    if "teacher" not in parts.roles:
        raise ValueError("A chain of assistants starts at a teacher, and there is none (config.teacher.model.name).")
    for name in chain:
        _check_assistant(parts.roles, chain, name)
    for name, count in steps.items():
        if name not in (*chain, "student") or count < 1:
            raise ValueError(f"steps: {name!r} makes {count} steps. {near(name, (*chain, 'student'))} At least 1 step.")
    if not 0 <= drop < 1 or (drop and not dense):
        raise ValueError(f"drop is a probability below 1 and goes with dense=True, got drop={drop}, dense={dense}.")


def _check_assistant(roles: Mapping[str, Role], chain: tuple[str, ...], name: str) -> None:
    if name not in roles or name in ("teacher", "student"):
        others = [n for n in roles if n not in ("teacher", "student")]
        raise ValueError(f"chain: {name!r} is no role of config.roles. {near(name, others)}")
    group = roles[name].group
    shared = [n for n, role in roles.items() if role.group and role.group == group and n != name]
    if group is None or shared or chain.count(name) > 1:
        raise ValueError(
            f"chain: {name!r} learns once, in a stage and a group of its own; its group is {group!r}, "
            f"which it shares with {shared}, and the chain is {tuple(chain)}."
        )


def _terms(parts: Parts, learner: str, teachers: tuple[str, ...], drop: float, start: int, count: int) -> dict:
    """Returns the terms of one stage under names of their own, so that no stage trains the connectors of another."""
    taught = reading("teacher", parts.terms)
    suffix = "" if learner == "student" else f"_{learner}"
    result: dict[str, Term] = {}
    for teacher in teachers:
        origin = f"_from_{teacher}" if len(teachers) > 1 else ""
        names = {name: name + (origin if name in taught else "") + suffix for name in parts.terms}
        for name, term in parts.terms.items():
            weight = in_stage(term.weight, parts.steps, start, count)
            if name in taught and len(teachers) > 1:
                weight = _shared(weight, len(teachers), drop, names[name])
            result[names[name]] = renamed(
                dataclasses.replace(
                    term,
                    weight=weight,
                    kwargs={k: in_stage(v, parts.steps, start, count) for k, v in term.kwargs.items()},
                ),
                {"student": learner, "teacher": teacher, **names},
            )
    return result


def in_stage(value: Any, total: int, start: int, count: int) -> Any:
    """Turns a schedule over `total` steps into one over the `count` steps from `start` on; returns others as is."""
    if not callable(value) or (start == 0 and count == total):
        return value
    return lambda step: value((step - start) * (total / count))


def _shared(weight: float | Schedule, teachers: int, drop: float, name: str) -> float | Schedule:
    """Returns weight / teachers, or 0 in a step that leaves this teacher out, which depends on the step alone."""
    if not drop:
        return (lambda step: weight(step) / teachers) if callable(weight) else weight / teachers
    key = zlib.crc32(name.encode())

    def now(step: Array) -> Array:
        takes_part = jax.random.bernoulli(jax.random.fold_in(jax.random.key(key), step), 1 - drop)
        return takes_part * (weight(step) if callable(weight) else weight) / teachers

    return now
