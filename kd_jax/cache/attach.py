"""Puts the stored answers of teachers into the jobs of a run, once it is clear that answers are all they need."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from kd_jax.cache.model import TOP_IDS, TOP_LOG_PROBS, Store
from kd_jax.cache.plan import TeacherCache, plan_cache
from kd_jax.config.fields import teachers_of
from kd_jax.core.paths import taps_in, variables_of
from kd_jax.core.terms import paths_of
from kd_jax.data import answers
from kd_jax.data.answers import Answers
from kd_jax.files import path_of
from kd_jax.losses.needs import needs_every_logit
from kd_jax.system import workdir
from kd_jax.types import Phase, Role, Scheme, Stage, Term

SHARING = ("baseline", "student")  # the jobs that see the same pictures, and the same answers to them


def stand_in(name: str, role: Role, config: ConfigDict) -> tuple[Role, Store]:
    """Returns (the teacher's role with its stored answers as inputs, still with its own model; what is stored)."""
    cache = teachers_of(config)[name].cache
    taps = {*cache.features, *taps_of_config(name, config)}
    store = Store(cache.k, cache.dtype, float(cache.temperature), tuple(sorted(taps)))
    return dataclasses.replace(role, inputs=tuple(f"batch.{name}/{field}" for field in store.names)), store


def taps_of_config(name: str, config: ConfigDict) -> set[str]:
    """Returns the taps of a teacher that the config's terms, roles and scheme arguments read."""
    terms = [t for t in config.terms.values() if "fn" in t]  # a task's own terms read no teacher
    paths = [p for t in terms for p in (*t.inputs, *t.targets, *t.options.values())]
    paths += [p for role in config.roles.values() for p in role.inputs]
    paths += [p for p in jax.tree.leaves(workdir.plain(config.scheme.kwargs)) if isinstance(p, str)]
    return set(taps_in(name, paths)) - {TOP_LOG_PROBS, TOP_IDS}


def check_use(name: str, scheme: Scheme, role: Role, store: Store) -> None:
    """Raises ValueError where the scheme needs more of a teacher than answers to the pictures of each example."""
    needs = f"needs the {name} itself, and there are only its answers"
    if name in scheme.copies:
        raise ValueError(f"This scheme copies parameters of the {name}, so it {needs}.")
    for other, fields in scheme.roles.items():
        takes = fields.initial == name or {*fields.inputs} & {*role.inputs} or variables_of(name, fields.inputs)
        if takes if other != name else fields.group is not None:
            raise ValueError(f"The role {other!r} of this scheme {needs}.")
    for stage in scheme.stages:
        for phase in stage.phases:
            _check_calls(stage, phase, name, role, needs)
            for key, term in {**phase.terms, **phase.metrics}.items():
                _check_term(key, term, name, store, needs)


def _check_calls(stage: Stage, phase: Phase, name: str, role: Role, needs: str) -> None:
    for call in phase.forward:
        if call.role == name and (call.inputs != role.inputs or stage.pre_update is not None):
            shown = call.inputs if call.inputs != role.inputs else "a batch that the student changes"
            raise ValueError(f"This scheme shows the {name} {shown}, so it {needs}.")


def _check_term(key: str, term: Term, name: str, store: Store, needs: str) -> None:
    paths = paths_of(term)
    if read := variables_of(name, paths):
        raise ValueError(f"Term {key!r} reads {read[0]!r}: it {needs}.")
    if store.k and needs_every_logit(term.fn) and f"{name}.logits" in paths:
        fn = getattr(term.fn, "func", term.fn)
        raise ValueError(
            f"Term {key!r} ({getattr(fn, '__name__', fn)}) reads every logit, and of the {name}'s answers the "
            f"{store.k} largest are stored: a cache stores all with config.{name}.cache.k=0."
        )


def attach(
    config: ConfigDict, jobs: Mapping[str, Any], teachers: Mapping[str, tuple[Role, Role, Store]]
) -> dict[str, Any]:
    """Returns the jobs with roles that read answers in baseline and student, and the answers' shapes in their data.

    `teachers` are (the teacher itself, the role of `stand_in`, what is stored) by name.
    """
    caches = {name: _planned(config, jobs, name, *teacher) for name, teacher in teachers.items()}
    views = {teachers_of(config)[name].cache.views for name, cache in caches.items() if cache.varies}
    if len(views) > 1:
        raise ValueError(
            f"All teachers must see the student's pictures: the views of their caches are {sorted(views)}."
        )
    shapes = {n: {s: split.content for s, split in cache.splits.items()} for n, cache in caches.items()}
    jobs = with_answers(jobs, shapes)
    for name in SHARING:
        if name in jobs:
            roles = dict(jobs[name].scheme.roles)
            roles |= {n: cache.stand_in for n, cache in caches.items() if n in roles}
            scheme = dataclasses.replace(jobs[name].scheme, roles=roles)
            jobs[name] = dataclasses.replace(jobs[name], scheme=scheme)
    settings = dataclasses.replace(jobs["student"].settings, views=max(views, default=0))
    jobs["student"] = dataclasses.replace(jobs["student"], settings=settings, caches=caches)
    return jobs


def _planned(
    config: ConfigDict, jobs: Mapping[str, Any], name: str, role: Role, reads: Role, store: Store
) -> TeacherCache:
    """The cache of one teacher and the folder where it lies."""
    fields, student = teachers_of(config)[name], jobs["student"]
    if name in jobs:
        trained, place = {k: jobs[name].config[k] for k in ("teacher", "data")}, jobs[name].directory
    else:  # it teaches as it is loaded
        trained = {"teacher": {k: workdir.plain(fields[k]) for k in ("model", "inputs", "initial", "seed")}}
        place = path_of(fields.workdir, f"{name}.workdir") if fields.workdir else student.directory.parent / name
    check_use(name, student.scheme, reads, store)
    cache = plan_cache(name, config, role, reads, store, student, trained)
    folder = path_of(fields.cache.directory, f"{name}.cache.directory")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{name}.cache.directory={str(folder)!r} is a file; the answers need a folder.")
    if fields.cache.directory == "auto":  # beside the teacher, so that runs which share it share its answers
        described = {s: answers.describe(split.content, split.identity, 0) for s, split in cache.splits.items()}
        folder = place / "cache" / workdir.fingerprint(described)
    return dataclasses.replace(cache, folder=folder)


def with_answers(jobs: Mapping[str, Any], answered: Mapping[str, Mapping[str, Answers]]) -> dict[str, Any]:
    """Returns the jobs with {teacher: {split: answers}} in the data of student and baseline, which share it."""
    sources = {}
    for split, source in jobs["student"].sources.items():
        said = {name: splits[split] for name, splits in answered.items() if split in splits}
        sources[split] = dataclasses.replace(source, answers={**source.answers, **said}) if said else source
    changed = {name: dataclasses.replace(jobs[name], sources=sources) for name in SHARING if name in jobs}
    return {**jobs, **changed}
