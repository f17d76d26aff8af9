"""From a config to the scheme of one training: its terms, optimizers and view of the data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import numpy as np
import optax
from ml_collections import ConfigDict

from kd_jax.config import knowledge
from kd_jax.config.fields import teachers_of
from kd_jax.core import optimizers
from kd_jax.core.bind import evaluated_roles
from kd_jax.core.paths import Path
from kd_jax.core.prepare import Preparation, preparation_of
from kd_jax.data.source import BATCH, Source
from kd_jax.resolve import call, near
from kd_jax.tasks.choose import task_of
from kd_jax.train.roles import CLEAN
from kd_jax.train.used import check_used
from kd_jax.types import Parts, Role, Scheme, Task, Term, TrainState

Summary = Callable[[TrainState, Mapping[str, Any]], list[dict[str, Any]]]


def num_steps(config: Mapping[str, Any], examples: int) -> int:
    if min(config["steps"], config["epochs"]) < 0 or bool(config["steps"]) == bool(config["epochs"]):
        raise ValueError(
            f"Give either train.steps or train.epochs, not steps={config['steps']}, epochs={config['epochs']}."
        )
    return config["steps"] or math.ceil(config["epochs"] * examples / config["batch_size"])


def make_scheme(
    config: ConfigDict,
    train: Mapping[str, Any],
    terms: Mapping | None,
    roles: Mapping[str, Role],
    sources: Mapping[str, Source | None],
    build: Callable[[Parts], Scheme] | None = None,
    extra: Mapping[str, Any] | None = None,
    group_optimizers: Mapping[str, Any] | None = None,
) -> Scheme:
    """Returns the scheme (config.scheme if no `build` is given) with terms, optimizers, and view of the data.

    `own` are the optimizers of groups that have one beside that of `train`: config.optimizers, unless it is given.
    """
    source, whole = sources["train"], build is None
    steps, build = num_steps(train, len(source)), build or partial(call, config.scheme.name, **config.scheme.kwargs)
    groups: set[str] = set()  # whose optimizer the scheme asks for

    def make_tx(count: int, group: str = "student") -> optax.GradientTransformation:
        groups.add(group)
        groups_own = config.optimizers if group_optimizers is None else group_optimizers
        return optimizers.make_optimizer(groups_own.get(group) or train["optimizer"], count)

    prepare = prepare_of(config, train, source, roles)
    task = task_of(config.task, source)
    parts = Parts(roles, terms_of(task, terms, source, steps), steps, make_tx, prepare, sources, task)
    built = build(parts)
    if whole:
        check_used(config, train, built, groups)
    if config.summary["name"]:
        summary = call(config.summary["name"], built.roles, sources, **config.summary["kwargs"])
        built = dataclasses.replace(built, summary=_both(built.summary, summary))
    changes = {"prepare": built.prepare or prepare, "extra": {**(extra or {}), **built.extra}}
    return dataclasses.replace(built, task=built.task or task, **changes)


def prepare_of(config: ConfigDict, train: Mapping[str, Any], source: Source, roles: Mapping[str, Role]) -> Preparation:
    """Returns how a training prepares its batches, before its scheme changes anything about that."""
    views = dict(train["views"])
    if any(teacher.view == "clean" for teacher in teachers_of(config).values()):
        views[CLEAN] = ()
    preparations = tuple(r.preparation for r in roles.values() if r.preparation is not None and r.preparation.entries)
    return preparation_of({**train, "views": views}, source, config.prepare, preparations)


def terms_of(task: Task, fields: Mapping[str, Any] | None, source: Source, steps: int) -> dict[str, Term]:
    """Returns the terms of a config, or those of the task where `fields` is None.

    A term of the config without `fn` is the task's term of this name, with another `weight`.
    """
    of_task = dict(task.terms(source))
    if fields is None:
        return of_task
    named = {name: term for name, term in fields.items() if "fn" not in term}
    for name, term in named.items():
        if name not in of_task or set(term) - {"weight"}:
            raise ValueError(f"Term {name!r} has no `fn`, and is none of the task's. {near(name, of_task)}")
    knowledge.check_terms(named)
    made = knowledge.make_terms(
        {n: t for n, t in fields.items() if n not in named}, steps, len(source), _classes_of(source)
    )
    return made | {n: dataclasses.replace(of_task[n], weight=float(t.get("weight", 1.0))) for n, t in named.items()}


def _classes_of(source: Source) -> np.ndarray | None:
    """The class of each example, -1 where it has none; None where an example has no single class."""
    labels = source.labels
    return labels if labels is not None and labels.ndim == 1 and labels.dtype == np.int32 else None


def _both(first: Summary | None, second: Summary) -> Summary:
    return second if first is None else lambda state, record: [*first(state, record), *second(state, record)]


def sees_data(scheme: Scheme) -> bool:
    """Returns whether the network that is scored is trained on examples of the data, or on what is made of them.

    False where it is called in training, and all that it reads comes from elsewhere (a generator, a bank of images).
    """
    roles, called = evaluated_roles(scheme), False
    for phase in (phase for stage in scheme.stages for phase in stage.phases):
        made_of_data: set[str] = set()
        for one in phase.forward:
            if any(_of_data(Path.parse(path), made_of_data) for path in one.inputs):
                made_of_data.add(one.name or one.role)
                if one.role in roles:
                    return True
            called = called or one.role in roles
    return not called


def _of_data(path: Path, made_of_data: Collection[str]) -> bool:
    """Whether a path leads to an entry of the batch that is an example, or to what such a call returned."""
    return (path.kind == "batch" and path.owner not in BATCH) or path.owner in made_of_data
