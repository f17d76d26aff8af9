"""What a sweep's best setting is compared with: its teacher, and its baseline over the same seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from kd_jax.config.fields import teachers_of
from kd_jax.core.many import Members, Single
from kd_jax.sweep import table
from kd_jax.sweep.programs import RATE, Program, members_of, programs_of, taught, train_job
from kd_jax.sweep.spec import Point
from kd_jax.system import workdir
from kd_jax.train.jobs import Job
from kd_jax.train.networks import export_of
from kd_jax.types import Headline


def references(
    config: ConfigDict, runs: Sequence[Mapping[str, Any]], headline: Headline, root: Path, mesh: Mesh
) -> dict[str, dict[str, Any]]:
    """Returns {name: scores} of the teachers of the best setting and, where the config asks for it, of its baseline.

    The baseline is what a run of that setting trains beside its student: the same network, seeds, steps and learning
    rate without the teacher. An entry has "name" and "export", "last" with all scores by split (a teacher's) or "runs"
    (the baseline's), and what a row of the table has; that is missing of a teacher that cannot be scored.
    """
    best = table.summarise(runs, headline)[0]["setting"]
    points = [run["point"] for run in runs if table.setting_of(run["point"]) == best]
    models: dict[str, dict[str, Any]] = {}
    baselines: list[dict[str, Any]] = []
    for program in programs_of(config, points, root, mesh):
        jobs, scores, _ = taught(program, mesh)
        for name, fields in teachers_of(program.config).items():
            export = str(export_of(jobs[name], fields.use)) if name in jobs else fields.checkpoint
            models.setdefault(name, _teacher(fields, scores[name], headline) | {"export": export})
        if "baseline" in jobs:
            baselines += train_job(*_baseline(program, jobs["baseline"], root), mesh)
    if baselines:
        seeds = [run | {"point": {"seed": run["point"].get("seed", config.seed)}} for run in baselines]
        name = config.student.model.name.rpartition(".")[2]
        models["baseline"] = {"name": name, "runs": baselines} | table.summarise(seeds, headline)[0]
    return models


def _teacher(fields: ConfigDict, scores: Mapping[str, Mapping[str, Any]], headline: Headline) -> dict[str, Any]:
    entry = {"name": fields.model.name.rpartition(".")[2], "last": dict(scores)}
    values = {split: (scores.get(split) or {}).get(headline.metric) for split in ("validation", "test")}
    if None in values.values():
        return entry
    noise = scores["validation"].get(headline.error)
    run = {"point": {"seed": fields.seed}, "diverged": False, "noise": noise, **values}
    return entry | table.summarise([run], headline)[0]


def _baseline(program: Program, job: Job, root: Path) -> tuple[Program, Job]:
    """Returns the program of the baselines: of the points only the fields that reach them; alike ones are one."""
    points: list[Point] = [{k: v for k, v in point.items() if k in ("seed", RATE)} for point in program.points]
    choice = program.choice.with_name(f"baseline-{program.choice.name}")
    members = program.members
    if isinstance(members, Members):
        members = members_of(program.config, points, job.scheme)
    identity = {"config": job.config, "points": workdir.plain(points), "alone": isinstance(members, Single)}
    directory = root / "baselines" / workdir.fingerprint(identity)
    program = dataclasses.replace(program, points=points, members=members, choice=choice)
    return program, dataclasses.replace(job, directory=directory)
