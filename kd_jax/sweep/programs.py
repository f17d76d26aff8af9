"""The programs of a sweep: which points are members of one, what they share, and their training.

The fields of a point that reach the compiled step as numbers (seed, weights, floats of a term, learning rate) are
traced; points that agree in all others are one program. A field counts as traced only if the scheme uses its number as
it stands; where it does not, or where the scheme cannot run members at all, the points are divided further.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from kd_jax.config.fields import settled, teachers_of, whole_terms
from kd_jax.config.knowledge import check_terms
from kd_jax.core import optimizers
from kd_jax.core.evaluate import scored_by
from kd_jax.core.many import KINDS, Members, Runs, Single, obstacle, stack
from kd_jax.core.network import Network
from kd_jax.core.terms import Scheduled, hyper_of
from kd_jax.resolve import resolve
from kd_jax.sweep.fastest import fastest
from kd_jax.sweep.spec import Point, apply
from kd_jax.system import workdir
from kd_jax.system.log import NonFiniteLoss
from kd_jax.train import run as train
from kd_jax.train import teachers
from kd_jax.train.calibrated import check_calibrated
from kd_jax.train.fit import Watch
from kd_jax.train.found import name_exports
from kd_jax.train.identify import digests_in, with_digests
from kd_jax.train.jobs import Job
from kd_jax.train.measuring import measures_of
from kd_jax.types import Headline, Scheme, Term

RATE = "train.optimizer.learning_rate"


@dataclasses.dataclass
class Program:
    """Points that are run together, as members of one program, or the one point that is run by itself."""

    config: ConfigDict  # of all its points, but for the fields that are traced
    points: list[Point]
    directory: Path
    members: Runs
    choice: Path  # where the way to run them is noted: programs alike, as of a search's trials, share it
    why: str  # a point is run by itself; "" where it is not
    data: str  # its name
    headline: Headline  # what validation judges by
    digests: Mapping[str, workdir.Digests]  # by job, of what they depend on beside the config
    eval_every: int  # steps between two of its evaluations


def begun(config: ConfigDict, root: Path) -> ConfigDict:
    """Returns the config with what all runs of a sweep share: no reports, one order of the data, a compile cache."""
    config = config.copy_and_resolve_references()
    config.terms = whole_terms(config.terms)
    config.report, config.examples = False, 0
    if config.export.name:
        print(f"config.export={config.export.name!r} is of one run: a run of the best setting writes these files")
        config.export.name = ""
    config.view_seed = config.seed if config.view_seed is None else config.view_seed
    name_exports(config)
    if config.members not in ("auto", *KINDS):
        raise ValueError(f"config.members is 'auto', {', '.join(map(repr, KINDS))}, not {config.members!r}.")
    if jax.config.jax_compilation_cache_dir is None:  # pyrefly: ignore[missing-attribute]: JAX adds it as it starts
        jax.config.update("jax_compilation_cache_dir", str((root / "compiled").absolute()))
    return config


def share_teachers(config: ConfigDict, root: Path) -> None:
    """Gives teachers that are trained alike one workdir, so that they are trained once."""
    for role, teacher in teachers_of(config).items():
        if not teacher.checkpoint and not teacher.workdir:
            alike = {
                k: workdir.plain(teacher[k])
                for k in ("model", "inputs", "preparation", "initial", "seed", "train", "data")
            }
            alike |= {k: workdir.plain(config[k]) for k in ("data", "extra", "prepare", "log_every", "eval_every")}
            teacher.workdir = str(root / "teachers" / f"{role}-{workdir.fingerprint(alike)}")


def programs_of(config: ConfigDict, points: Sequence[Point], root: Path, mesh: Mesh) -> list[Program]:
    """Groups the points by what must be compiled anew. Raises ValueError, before any training, for what is wrong."""
    for point in points:
        check_point(config, point)
    traced = {f for point in points for f in point if _may_be_traced(f, config)}
    return list(_split(config, points, traced, root, mesh))


def check_point(config: ConfigDict, point: Point) -> None:
    """Raises ValueError for a value of another type or out of range, also where the number will be traced."""
    check_terms(settled(apply(config, point)).terms)


def _groups(points: Iterable[Point], traced: set[str]) -> Iterable[tuple[Point, list[Point]]]:
    """Returns the values of the fields that are not traced, and the points that have them in common."""
    groups: dict[str, tuple[Point, list[Point]]] = {}
    for point in points:
        fixed = {k: v for k, v in point.items() if k not in traced}
        groups.setdefault(json.dumps(workdir.plain(fixed), sort_keys=True), (fixed, []))[1].append(point)
    return groups.values()


def _split(config: ConfigDict, points: Iterable[Point], traced: set[str], root: Path, mesh: Mesh) -> Iterable[Program]:
    for fixed, group in _groups(points, traced):
        shared = settled(apply(config, fixed))
        # Students are the same with and without a baseline beside them.
        identity = {"config": workdir.plain(shared) | {"baseline": False}, "points": workdir.plain(group)}
        directory = root / "runs" / workdir.fingerprint(identity)
        share_teachers(shared, root)
        jobs, splits = train.checked_jobs(shared, directory, mesh)
        check_calibrated(shared, jobs)
        measures_of(shared, jobs)
        if splits.validation is None:
            raise ValueError(
                "A sweep chooses by validation, and nothing is held out: set for example --config.data.validation=0.1."
            )
        scheme, rules = jobs["student"].scheme, jobs["student"].settings.rules
        why = obstacle(scheme, rules)
        opaque = {f for f in traced if f != "seed" and not _is_traced(f, shared, scheme)}
        if why and traced:
            yield from _split(config, group, set(), root, mesh)
        elif opaque:
            yield from _split(config, group, traced - opaque, root, mesh)
        else:
            members = Single(int(shared.seed)) if why else members_of(shared, group, scheme)
            choice = root / "members" / f"{workdir.fingerprint(shared)}-{len(group)}.json"
            _check_folders(jobs, group, members)
            shown = splits.train.name, scored_by(scheme).headline, digests_in(jobs)
            every = jobs["student"].settings.eval_every
            yield Program(shared, group, directory, members, choice, why, *shown, every)


def _check_folders(jobs: Mapping[str, Job], points: Sequence[Point], members: Runs) -> None:
    """Raises ValueError where the folder of a job holds one that was given something else."""
    train.check_jobs({**jobs, "student": _shared(jobs["student"], points, members)})


def _shared(job: Job, points: Sequence[Point], members: Runs) -> Job:
    """The training of all points at once; of the one point where it is run by itself."""
    if not isinstance(members, Members):
        return job
    config = job.config | {"members": workdir.plain(points)}
    return dataclasses.replace(job, name=f"{len(points)} {job.name}s", config=config)


def _may_be_traced(field: str, config: ConfigDict) -> bool:
    parts = field.split(".")
    if parts[0] == "terms" and len(parts) == 3:
        return parts[2] == "weight"
    if parts[0] == "terms" and len(parts) == 4:
        kwargs = getattr(config.terms.get(parts[1]), "kwargs", {})
        return parts[2] == "kwargs" and isinstance(kwargs.get(parts[3]), float)
    if field == RATE:
        optimizer = config.train.optimizer
        return not config.optimizers and optimizer.learning_rate > 0 and optimizers.scales_with_rate(optimizer)
    return field == "seed"


def _leaf(hyper: Mapping[str, Any], parts: Sequence[str]) -> Any:
    term = hyper["terms"].get(parts[1])
    return None if term is None else term.get("weight") if parts[2] == "weight" else term["kwargs"].get(parts[3])


def _is_traced(field: str, config: ConfigDict, scheme: Scheme) -> bool:
    """Returns whether the number of a term reaches the step as it stands, wherever the scheme uses the term.

    A scheme may put a number into a schedule it builds, or use a loss under another name: such numbers are constants.
    """
    parts = field.split(".")
    if parts[0] != "terms":
        return True
    fn, number = config.terms[parts[1]].get("fn"), np.float32(_value(config, field))
    fn = resolve(fn) if fn else None  # of a term of the task, which no scheme uses under another name
    leaves = []
    for stage in scheme.stages:
        hyper = hyper_of(stage)
        for phase in stage.phases:
            leaves += [_leaf(hyper[phase.group], parts)] if parts[1] in phase.terms else []
            others = [term for name, term in phase.terms.items() if name not in config.terms]
            if any(_may_be(term, fn) for term in others):
                return False
    return bool(leaves) and all(leaf is not None and np.float32(leaf) == number for leaf in leaves)


def _may_be(term: Term, fn: Any) -> bool:
    """Returns whether a term that the scheme named may be one of the config's with this loss."""
    opaque = callable(term.weight) and not isinstance(term.weight, Scheduled)
    loss = term.fn
    while isinstance(loss, functools.partial):
        loss = loss.func
    return opaque or loss is fn


def _value(config: ConfigDict, field: str) -> Any:
    for name in field.split("."):
        config = config[name]
    return config


def members_of(config: ConfigDict, points: Sequence[Point], scheme: Scheme) -> Members:
    """Returns the points as members: their seeds, and the scheme's hyper-parameters with their numbers in place."""
    hypers = []
    for point in points:
        stages = [jax.tree.map(np.asarray, hyper_of(stage)) for stage in scheme.stages]
        for group in (group for stage in stages for group in stage.values()):
            for field, value in point.items():
                parts = field.split(".")
                if field == RATE:
                    group["learning_rate_scale"] = np.float32(value / config.train.optimizer.learning_rate)
                elif parts[0] == "terms" and _leaf(group, parts) is not None:
                    term = group["terms"][parts[1]]
                    owner, name = (term, "weight") if len(parts) == 3 else (term["kwargs"], parts[3])
                    owner[name] = np.float32(value)
        hypers.append(stages)
    return Members(tuple(int(point.get("seed", config.seed)) for point in points), stack(hypers))


def taught(program: Program, mesh: Mesh) -> tuple[dict[str, Job], dict[str, Any], dict[str, Network]]:
    """Returns (the jobs of a program with their teachers in place, the scores of the teachers, the teachers themselves,
    where they are looked at); trains what is missing.

    The baseline is among the jobs where the config asks for one.
    """
    jobs, _ = train.jobs_of(program.config, program.directory)
    jobs = with_digests(train.untrained(jobs), program.digests)
    jobs, _, networks, scores = teachers.teach(program.config, jobs, mesh)
    return jobs, scores, networks


def train_program(program: Program, mesh: Mesh, watch: Watch | None = None) -> list[dict[str, Any]]:
    """Trains what a program lacks; returns a dict for every point, with its scores at the last and the best step."""
    return train_job(program, taught(program, mesh)[0]["student"], mesh, watch)


def train_job(program: Program, job: Job, mesh: Mesh, watch: Watch | None = None) -> list[dict[str, Any]]:
    """Trains `job` with the members of the program: what train_program does, of another job than the student's."""
    members, count = program.members, len(program.points)
    job = _shared(job, program.points, members)
    way: dict[str, Any] = {}  # how the members are run, and what was measured to choose it
    if isinstance(members, Members):
        how = program.config.members
        if how == "auto":
            how, way = fastest(job, members, mesh, program.choice)
        members, way = dataclasses.replace(members, how=how), way | {"how": how}
    try:
        results = teachers.finish_or_resume(job, mesh, members, watch)
    except NonFiniteLoss as e:
        print(f"{job.name}: {e}")
        return [{"point": point, "diverged": True, "validation": None, "test": None} for point in program.points]
    entry, headline = job.scheme.evaluate[0], scored_by(job.scheme).headline
    runs = []
    for point, prefix, scores in zip(program.points, members.prefixes, members.parted(results), strict=True):
        last = scores["last"]
        judged = {split: last[split][entry][headline.metric] for split in ("validation", "test")}
        if judged["validation"] is None:
            raise ValueError(f"A sweep chooses by the {headline.metric} on validation, where no example has a label.")
        values = last["validation"][entry]
        diverged = not all(math.isfinite(v) for v in values.values() if isinstance(v, float))
        noise = values.get(headline.error)  # None: the task measures none
        run = {"point": point, "diverged": diverged, **judged, "noise": noise, **scores}
        run |= {"export": str(job.directory / "export" / f"{prefix}last"), "program": {"members": count, **way}}
        run["seconds"] = results["seconds"]
        run["alone"] = [f"--config.{k}={v}" for k, v in {**point, "view_seed": program.config.view_seed}.items()]
        runs.append(run)
    return runs
