"""run(config, workdir): load the data -> check everything -> teacher -> baseline -> student -> report."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from kd_jax import parallel, workdir
from kd_jax.checkpoint import load_tree, write_json
from kd_jax.config import own_data
from kd_jax.data.batches import batch_shapes, eval_batches
from kd_jax.data.load import load
from kd_jax.data.source import Splits
from kd_jax.evaluate import evaluate, make_eval_step
from kd_jax.loop import DONE, exported, fit
from kd_jax.models.adapters import as_model
from kd_jax.plan import Job, check, make_model, note_given, plan
from kd_jax.report import results_table, write_report
from kd_jax.results import collect
from kd_jax.types import Model, PyTree, Role, Scheme, TrainState

RESULTS = "results.json"


def finish_or_resume(job: Job, splits: Splits, mesh: Mesh) -> dict[str, Any]:
    """The results of the job; trains what is missing."""
    workdir.claim(job.directory, job.config)
    done = job.directory / DONE
    if done.exists():
        print(f"{job.name}: finished before, in {job.directory}")
        return json.loads(done.read_text())
    sources = {"train": job.source, "validation": splits.validation, "test": splits.test}
    return fit(job.scheme, sources, job.settings, job.directory, mesh, job.name)


def score_teacher(
    job: Job, model: Model, variables: tuple[PyTree, PyTree], splits: Splits, mesh: Mesh
) -> dict[str, Any]:
    """{split: {metric: value}} of the frozen teacher, on the data and with the preparation that `job` uses."""
    scheme = Scheme({"teacher": Role(model)}, (), evaluate=("teacher",), prepare=job.scheme.prepare)
    whole = parallel.replicated(mesh)
    state = TrainState(jax.numpy.int32(0), {}, {}, {}, {"teacher": jax.device_put(variables, whole)}, {})
    step, key = jax.jit(make_eval_step(scheme)), parallel.create_everywhere(lambda: jax.random.key(0), mesh)
    size, sharding = job.settings.eval_batch_size, parallel.batch_sharding(mesh)
    with jax.set_mesh(mesh):
        return {
            name: evaluate(step, state, eval_batches(source, batch_size=size, sharding=sharding), key)["teacher"]
            for name, source in (("validation", splits.validation), ("test", splits.test))
            if source is not None
        }


def export_of(job: Job, which: str) -> Path:
    """Where a finished job leaves the parameters of its "last" or "best" step."""
    return job.directory / "export" / which / job.scheme.evaluate[0]


def load_variables(export: Path, model: Model, batch: Mapping[str, Any], prepare) -> tuple[PyTree, PyTree]:
    """(params, stats) of an exported model as NumPy; raises ValueError when it is missing or of another model."""
    if not export.exists():
        raise ValueError(
            f"There is no exported model at {export}. A finished run has them under <workdir>/<name>/export/."
        )
    seen = jax.eval_shape(lambda b: prepare(b, jax.random.key(0), False), batch)
    params, stats = jax.eval_shape(model.init, jax.random.key(0), seen["image"])
    tree = load_tree(export, exported(params, stats))
    return tree["params"], tree.get("stats", stats)


def check_teacher(config: ConfigDict, scores: Mapping[str, Any]) -> None:
    """The teacher must reach config.teacher.min_accuracy on the validation split (test, if none was held out)."""
    split = "validation" if "validation" in scores else "test"
    accuracy, wanted = scores[split]["accuracy"], config.teacher.min_accuracy
    print(f"teacher: {100 * accuracy:.2f}% on the {split} split")
    if accuracy < wanted:
        raise ValueError(
            f"The teacher has {100 * accuracy:.2f}% on the {split} split, "
            f"config.teacher.min_accuracy asks for {100 * wanted:.2f}%. "
            "Is it the right checkpoint, with the same classes in the same order and the same input scaling?"
        )


def read_finished(config: ConfigDict, directory: Path, jobs: Mapping[str, Job]) -> dict[str, Any] | None:
    """The results of this very run if all of it is done."""
    path = directory / RESULTS
    if not path.exists() or not all((job.directory / DONE).exists() for job in jobs.values()):
        return None
    results = json.loads(path.read_text())
    return results if results["config"] == workdir.plain(config) else None


def present(config: ConfigDict, results: dict[str, Any], directory: Path) -> dict[str, Any]:
    if config.report and parallel.is_lead():
        print(results_table(results))
        print(f"Report: {write_report(results, directory)}")
    return results


def run(
    config: ConfigDict,
    directory: str | Path,
    *,
    student: Any = None,
    teacher: Any = None,
    teacher_variables: tuple[PyTree, PyTree] | None = None,
    data: Splits | None = None,
) -> dict[str, Any]:
    """Trains (or loads) the teacher, the baseline and the student of `config` in `directory`; returns results.json.

    `student` and `teacher` replace the configured models by a Flax module or a Model, `teacher_variables` gives the
    teacher's (params, stats), `data` replaces the configured data (data.load.from_arrays makes it from NumPy arrays).
    A directory with an unfinished run of the same config is resumed, with a finished one read.
    Raises ValueError, before anything is trained, for whatever does not fit.
    """
    start, directory = time.monotonic(), Path(directory)
    parallel.start_processes(config.distributed)
    mesh = parallel.make_mesh(config.mesh.axes)
    given = {role: as_model(m) for role, m in (("student", student), ("teacher", teacher)) if m is not None}
    config = note_given(config, given, data)
    splits, own = data or load(config.data), own_data(config)
    teacher_splits = splits if own == dict(config.data) else load(own)
    models = {r: given.get(r) or make_model(config[r].model, splits.train) for r in ("student", "teacher")}
    jobs = plan(config, directory, models, splits.train, teacher_splits.train)
    if teacher_variables is not None or config.teacher.checkpoint:
        del jobs["teacher"]
    elif config.teacher.use not in ("last", *(["best"] if teacher_splits.validation else [])):
        raise ValueError(
            f"teacher.use is 'last', or 'best' where data.validation is not 0; not {config.teacher.use!r}."
        )
    batch = batch_shapes(splits.train, config.train.batch_size)
    for job in jobs.values():  # all errors of all jobs come before the first hour of the first
        check(job, batch, mesh)
    workdir.check({job.directory: job.config for job in jobs.values()})
    if results := read_finished(config, directory, jobs):
        return present(config, results, directory)
    finished: dict[str, dict[str, Any]] = {}
    if "teacher" in jobs:
        finished["teacher"] = finish_or_resume(jobs["teacher"], teacher_splits, mesh)
    if teacher_variables is None:
        checkpoint = config.teacher.checkpoint
        export = Path(checkpoint) if checkpoint else export_of(jobs["teacher"], config.teacher.use)
        teacher_variables = load_variables(export, models["teacher"], batch, jobs["student"].scheme.prepare)
    scores = score_teacher(jobs["student"], models["teacher"], teacher_variables, splits, mesh)
    check_teacher(config, scores)
    for name in ("baseline", "student"):
        if name in jobs:
            job = jobs[name]
            roles = dict(job.scheme.roles)
            roles["teacher"] = dataclasses.replace(roles["teacher"], initial=teacher_variables)
            job.scheme = dataclasses.replace(job.scheme, roles=roles)
            finished[name] = finish_or_resume(job, splits, mesh)
    variables = {"teacher": teacher_variables}
    trained = [name for name in finished if name != "teacher"]  # a list: every process reads in the same order,
    models |= {name: jobs[name].scheme.roles["student"].model for name in trained}
    for name in trained if config.report else ():  # and all of them read, since reading waits for all
        export = export_of(jobs[name], "last")
        variables[name] = load_variables(export, models[name], batch, jobs["student"].scheme.prepare)
    if not parallel.is_lead():
        return {}
    results = collect(config, finished, scores, jobs, models, variables, splits)
    results |= {"command": shlex.join(sys.argv), "wall_seconds": time.monotonic() - start}
    write_json(directory / RESULTS, results)
    return present(config, results, directory)
