"""What config.measure names, of every student of a sweep, of its teachers and of the baseline of the best setting."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from kd_jax.core.bind import evaluated_roles
from kd_jax.core.network import Network
from kd_jax.core.paths import entry_paths, roles_read
from kd_jax.sweep import table
from kd_jax.sweep.programs import programs_of, taught
from kd_jax.tasks.units import MISSING
from kd_jax.train.jobs import Job
from kd_jax.train.measuring import TITLE, looked_at, measure_all
from kd_jax.train.networks import load_network
from kd_jax.train.scores import seen_shapes
from kd_jax.types import Headline

Labels = dict[tuple[str, str], tuple[str, str]]  # {(measure, metric): (label, unit)}


def measure(
    config: ConfigDict,
    runs: Sequence[dict[str, Any]],
    models: Mapping[str, dict[str, Any]],
    headline: Headline,
    root: Path,
    mesh: Mesh,
) -> list[dict[str, Any]]:
    """Adds "measures" {measure: {metric: number}} to `runs`, `models` and the baseline's runs; returns the table.

    Runs that diverged have none, and there is no table where nothing is named. Networks are those of the last step; the
    teachers of the best setting are measured, and every student beside its own.
    """
    sound = {_key(run): run for run in runs if looked_at(config) and not run["diverged"]}
    if not sound:
        return []
    best, labels = table.summarise(runs, headline)[0]["setting"], Labels()
    baselines = models["baseline"]["runs"] if "baseline" in models else []
    for program in programs_of(config, [run["point"] for run in sound.values()], root, mesh):
        jobs, _, teachers = taught(program, mesh)
        asked = [("student", sound[_key({"point": point})]) for point in program.points]
        if of_best := best in map(table.setting_of, program.points):
            asked += [("baseline", run) for run in baselines if "measures" not in run]
        for role, run in asked:
            network = _network(jobs[role], Path(run["export"]), teachers)
            made = measure_all(program.config, jobs, {**teachers, role: network}, {})
            run["measures"], labels = made["values"][role], labels | made["labels"]
            for name in teachers if of_best else ():
                models[name]["measures"] = made["values"][name]
    return [_table(runs, models, headline, labels)]


def _key(run: Mapping[str, Any]) -> str:
    return json.dumps(run["point"], sort_keys=True, default=str)


def _network(job: Job, export: Path, teachers: Mapping[str, Network]) -> Network:
    """The network that a member, or a run by itself, left in the folder `export`."""
    name = evaluated_roles(job.scheme)[0]
    role, path = job.scheme.roles[name], entry_paths(job.scheme.evaluate[0])[0]
    frozen = {teacher: teachers[teacher].params for teacher in roles_read(role.inputs)}
    return load_network(export / name, role, path, job.scheme.extra, seen_shapes(job), frozen=frozen)


def _table(
    runs: Sequence[Mapping[str, Any]], models: Mapping[str, Mapping[str, Any]], headline: Headline, labels: Labels
) -> dict[str, Any]:
    """The section of all settings in the order of the sweep's table, and of the models below them."""
    settings = [row["setting"] for row in table.summarise(runs, headline)]
    rows = []
    for setting in settings:
        group = [run for run in runs if table.setting_of(run["point"]) == setting]
        values = [f"{v:.4g}" if isinstance(v, float) else str(v) for v in setting.values()]
        rows.append(["student", *values, *_cells(group, labels)])
    for name, model in models.items():
        rows.append([name, *("" for _ in settings[0]), *_cells(model.get("runs", [model]), labels)])
    columns = ["model", *table.short_names([*settings[0]]).values(), *(label for label, _ in labels.values())]
    lead = "On the test set, at the last step: mean ± standard deviation over seeds; shares in %. Best first."
    return {"kind": "table", "title": TITLE, "lead": lead, "columns": columns, "rows": rows}


def _cells(runs: Sequence[Mapping[str, Any]], labels: Labels) -> list[str]:
    """Mean ± standard deviation of each metric over the runs that have it."""
    cells = []
    for (name, metric), (_, unit) in labels.items():
        values = [run.get("measures", {}).get(name, {}).get(metric) for run in runs]
        numbers = [(100 if unit == "%" else 1) * x for x in values if x is not None]
        spread = f" ± {statistics.stdev(numbers):.4g}" if len(numbers) > 1 else ""
        cells.append(f"{statistics.fmean(numbers):.4g}{spread}" if numbers else MISSING)
    return cells
