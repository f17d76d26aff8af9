"""Measures of networks that were loaded, on arrays: Student.measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from kd_jax.core.network import Network
from kd_jax.data.arrays import in_memory
from kd_jax.data.source import Source
from kd_jax.measure import choose
from kd_jax.measure.subject import Subject
from kd_jax.tasks import classify
from kd_jax.types import Role

Pair = tuple[Any, Any]


def measure(
    names: str | Sequence[str],
    students: Mapping[str, Any],
    pairs: Mapping[str, Pair | None],
    prepare: Callable[..., Mapping[str, Any]],
    options: Mapping[str, Mapping[str, Any]],
) -> dict[str, dict[str, dict[str, Any]]]:
    """Returns {role: {measure: {metric: value}}} of loaded Students; `pairs` are (x, y) by split, `prepare` is theirs.

    Raises ValueError for a measure that does not fit, for networks that are prepared for differently, and for another
    task than classification.
    """
    info = students["student"].info
    if info["task"]["name"] != "classify":
        raise ValueError(f"Loaded networks are measured on classification; this one is of {info['task']['name']!r}.")
    for role, student in students.items():
        if student.info["preparation"] != info["preparation"]:
            raise ValueError(f"The {role} sees pictures in another form than the student: measure both in their run.")
    field = (names,) if isinstance(names, str) else tuple(names)
    choose.check(field, options)
    if "energy" in choose.names_of(field):
        raise ValueError("The FLOPs of 'energy' are counted with a run's report: measure it there.")
    sources = {split: None if pair is None else _source(split, pair, info) for split, pair in pairs.items()}
    networks = {
        role: Network(s.model, s.params, s.stats, Role(s.model, tuple(s.info["inputs"])), s.fixed, s.entry)
        for role, s in students.items()
    }
    subject = Subject(networks, sources, prepare, classify.task(sources["test"]))
    values: dict[str, dict[str, Any]] = {role: {} for role in students}
    for name, made in choose.chosen(field, options, subject, default=False).items():
        for role, metrics in made.run(subject, **options.get(name, {})).values.items():
            values[role][name] = dict(metrics)
    return values


def _source(split: str, pair: Pair, info: Mapping[str, Any]) -> Source:
    preparation, (x, y) = info["preparation"], pair
    statistics = {name: tuple(preparation[name]) for name in ("mean", "std")}
    return in_memory("arrays", split, np.asarray(x), np.asarray(y), class_names=info["classes"], **statistics)
