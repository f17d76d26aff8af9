"""Sweeps: many students of one teacher, as few programs as there are different ones.

Runs that differ in seed, weights, temperatures (any float of a term) and learning rate alone are members of one
compiled program (kd_jax.core.many), in which the teacher answers once for all. Runs that differ in anything else, an
architecture for example, come one after the other; they share teachers and compiled programs through the workdir.

Members see the same batches in the same order and the same augmented pictures: those of config.view_seed (config.seed
if it is None), whatever their own seed, which decides initial weights and dropout. A run of its own with
--config.seed=<seed> --config.view_seed=<view_seed> and the values of the member reproduces it to float tolerance.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from kd_jax.config import expected
from kd_jax.files import path_of, read_json, write_json
from kd_jax.report.compared import against_published
from kd_jax.report.surface import write_sweep
from kd_jax.sweep import table
from kd_jax.sweep.measured import measure
from kd_jax.sweep.programs import Program, begun, programs_of, train_program
from kd_jax.sweep.references import references
from kd_jax.sweep.spec import Spec
from kd_jax.system import parallel, workdir
from kd_jax.types import Headline

RESULTS = "sweep.json"


def run(config: ConfigDict, spec: Spec, directory: str | Path) -> dict[str, Any]:
    """Trains every combination of the spec in `directory`, prints and writes table and plot; returns sweep.json.

    An unfinished sweep of the same command goes on, a finished one is read, another is refused. Raises ValueError,
    before anything is trained, for whatever does not fit.
    """
    if spec.ranges:
        field, interval = next(iter(spec.ranges.items()))
        limits = f"{interval.kind}:{interval.low}..{interval.high}"
        raise ValueError(f"{field} has a range ({limits}): give --trials to search in it.")
    start, root = time.monotonic(), path_of(directory, "workdir")
    parallel.start_processes(config.distributed)
    mesh, config = parallel.make_mesh(config.mesh.axes), begun(config, root)
    asked = {"config": workdir.plain(config), "sweep": workdir.plain(spec.choices)}
    check(root, asked)
    programs = programs_of(config, spec.grid(), root, mesh)
    if (finished := read(root, asked)) is not None:
        return present(finished, root)
    runs: list[dict[str, Any]] = []
    describe(programs)
    with workdir.locked(root):
        workdir.claim(root, asked)
        for program in programs:
            runs += train_program(program, mesh)
        models = references(config, runs, programs[0].headline, root, mesh)
        sections = measure(config, runs, models, programs[0].headline, root, mesh)
    if not parallel.is_lead():
        return {}
    results = (
        asked
        | collect(runs, programs[0].headline, models)
        | {
            "title": f"{config.title or programs[0].data}: sweep of {len(runs)} runs",
            "sections": sections,
            "wall_seconds": time.monotonic() - start,
        }
    )
    results["conclusion"] += beside_published(config, results)
    write_json(root / RESULTS, results)
    return present(results, root)


def describe(programs: Sequence[Program]) -> None:
    """Says which runs share a program, and why others do not."""
    for program in programs:
        what = ", ".join(f"{k}={v}" for k, v in program.points[0].items()) if program.why else ""
        why = f" by itself ({what}): {program.why}" if what else ""
        print(f"{len(program.points)} run{'s' * (len(program.points) > 1)} in one program{why}")


def collect(
    runs: Sequence[Mapping[str, Any]], headline: Headline, models: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Returns what sweep.json says of finished runs: the table over seeds, the conclusion, and how they were made.

    `models` are the teacher and the baseline that the best setting is compared with (references.references).
    """
    rows = table.summarise(runs, headline)
    columns, lines = table.table(rows, headline, models)
    return {
        "rows": rows,
        "columns": columns,
        "lines": lines,
        "conclusion": table.conclusion(rows, headline, models),
        "models": dict(models or {}),
        "headline": headline._asdict(),
        "runs": list(runs),
        "command": shlex.join(sys.argv),
        "finished": workdir.now(),
        "versions": workdir.versions(),
        "git": workdir.git_hash(),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }


def beside_published(config: ConfigDict, results: Mapping[str, Any]) -> list[str]:
    """Returns the sentence on the number published for this recipe, where the sweep is over seeds of it alone."""
    first, *others = results["rows"]
    if others or first["setting"] or not expected.applies(config):
        return []
    headline, rows = Headline(**results["headline"]), {"student": first, **results["models"]}
    tests = {role: row["test"] for role, row in rows.items() if row.get("test", {}).get("mean") is not None}
    measured = {role: table.cell(test, headline) for role, test in tests.items()}
    what, held_out = f"last step, mean ± standard deviation of {first['seeds']} seeds", config.data.validation
    line = against_published(workdir.plain(config.published), measured, what=what, held_out=held_out)
    return [line] if line else []


def check(root: Path, asked: Mapping[str, Any], digests: workdir.Digests | None = None) -> None:
    """Raises ValueError where another sweep or search was begun in `root`, with what differs."""
    if (root / RESULTS).exists() and not (root / workdir.CONFIG).exists():
        raise ValueError(f"{root} holds a sweep of an older version, which cannot go on: choose another --workdir.")
    workdir.check_configs({root: asked}, {root: digests or {}})


def read(root: Path, asked: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the results in `root`, and says so, if they are all that was asked for; None if it is not finished."""
    results = read_json(root / RESULTS) or {}
    if not all(results.get(k) == v for k, v in json.loads(json.dumps(asked)).items()):
        return None
    if parallel.is_lead():
        print(f"Read from {root}, finished {results['finished']}; nothing was trained.")
    return results


def present(results: dict[str, Any], root: Path) -> dict[str, Any]:
    """Prints the table and the conclusion, and writes sweep.html and the plot; returns `results`."""
    if parallel.is_lead():
        print(table.text(results["columns"], results["lines"]), *results["conclusion"], sep="\n")
        for section in results.get("sections", []):
            print(section["title"], table.text(section["columns"], section["rows"]), sep="\n")
        print(f"Response surface and table: {', '.join(map(str, write_sweep(results, root)))}")
    return results
