"""Offline distillation in stages, each on some of the terms (TinyBERT, MiniLM, MobileBERT)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from kd_jax.core.paths import Path, calls_in, connector_of
from kd_jax.core.terms import paths_of
from kd_jax.resolve import near
from kd_jax.schemes import offline
from kd_jax.types import Call, Parts, Phase, Scheme, Stage


def build(parts: Parts, stages: Sequence[Mapping[str, Any]]) -> Scheme:
    """Builds one stage of offline distillation for each {"name", "share" of the run's steps, "terms": their names}.

    A stage has a fresh optimizer and learning-rate schedule, those of config.optimizers[name] or else of
    config.train.optimizer; their field `trained` says what learns. The best step is one of the last stage. Weights that
    are schedules count the steps of the whole run. Raises ValueError for a term that does not exist or is in no stage,
    and for shares that do not sum to 1.
    Jiao et al., "TinyBERT", 2019, arXiv 1909.10351: the intermediate layers, then the prediction; Wang et al.,
    "MiniLM", 2020, arXiv 2002.10957: relations, then the task; Sun et al., "MobileBERT", 2020, arXiv 2004.02984
    (progressive knowledge transfer): one layer after the other.
    """
    _check(parts, stages)
    built: list[Stage] = []
    for i, stage in enumerate(stages):
        last = i == len(stages) - 1
        steps = parts.steps - sum(s.steps for s in built) if last else round(stage["share"] * parts.steps)
        terms = {name: parts.terms[name] for name in stage["terms"]}

        def make_tx(count: int, group: str = "student", name: str = stage["name"]) -> Any:
            return parts.make_tx(count, name)

        plain = offline.build(dataclasses.replace(parts, terms=terms, steps=steps, make_tx=make_tx)).stages[0]
        phases = tuple(_with_connectors(phase, parts) for phase in plain.phases)
        built.append(dataclasses.replace(plain, name=stage["name"], selects=last, phases=phases))
    reference = "teacher" if "teacher" in parts.roles else None
    return Scheme(parts.roles, tuple(built), reference=reference, task=parts.task)


def _with_connectors(phase: Phase, parts: Parts) -> Phase:
    """The phase, which also calls the connectors of terms of another stage that its terms read, as they are."""
    read = {Path.parse(path).connected for term in phase.terms.values() for path in paths_of(term)}
    resting = {name: parts.terms[name] for name in sorted(read - {*phase.terms, ""})}
    called = {call.role for call in phase.forward}
    frozen = sorted(calls_in(path for term in resting.values() for path in term.inputs) - called)
    calls = [Call(name, parts.roles[name].inputs, train=False) for name in frozen]
    calls += [Call(connector_of(name), term.inputs, train=False) for name, term in resting.items()]
    return dataclasses.replace(phase, forward=(*phase.forward, *calls))


def _check(parts: Parts, stages: Sequence[Mapping[str, Any]]) -> None:
    if not stages:
        raise ValueError('stages is empty; a stage is {"name": ..., "share": ..., "terms": (...)}.')
    for stage in stages:
        if {*stage} != {"name", "share", "terms"}:
            raise ValueError(f"A stage has the fields name, share and terms, this one has {sorted(stage)}.")
        if not stage["terms"] or round(stage["share"] * parts.steps) < 1:
            raise ValueError(
                f"Stage {stage['name']!r} has {len(stage['terms'])} terms and {stage['share']} of the "
                f"{parts.steps} steps; it needs at least one of both."
            )
        for name in stage["terms"]:
            if name not in parts.terms:
                raise ValueError(f"Stage {stage['name']!r}: there is no term {name!r}. {near(name, parts.terms)}")
    if unused := {*parts.terms} - {name for stage in stages for name in stage["terms"]}:
        raise ValueError(f"The terms {sorted(unused)} are in no stage.")
    if abs(sum(stage["share"] for stage in stages) - 1) > 1e-6:
        raise ValueError(f"The shares of the stages sum to {sum(stage['share'] for stage in stages)}, not to 1.")
