"""run(config, workdir): load the data -> check everything -> teacher -> baseline -> student -> report."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from kd_jax.config.fields import check_effects, own_data, teachers_of
from kd_jax.core.bind import evaluated_roles
from kd_jax.core.paths import entry_paths, roles_read
from kd_jax.data.batches import batch_shapes
from kd_jax.data.load import check_seeds, load, shaped
from kd_jax.data.source import Splits
from kd_jax.files import path_of, read_json, told_of_full_disk, write_json
from kd_jax.models.host import failing
from kd_jax.report.verdict import headline_of, judge
from kd_jax.resolve import call, check_kwargs, resolve
from kd_jax.system import heartbeat, parallel, precision
from kd_jax.system.workdir import cache_programs, check_configs, locked, plain
from kd_jax.train.brought import brought, check_learns, note_objects
from kd_jax.train.calibrated import check_calibrated
from kd_jax.train.chain import chain_of, chain_section
from kd_jax.train.check import check_data, check_job
from kd_jax.train.effect import check_run
from kd_jax.train.fit import DONE
from kd_jax.train.identify import digests_of, with_digests
from kd_jax.train.initial import handed_over
from kd_jax.train.jobs import Job, make_model, plan, ready_teachers, with_origins
from kd_jax.train.measuring import looked_at, measures_of
from kd_jax.train.networks import check_exports, export_of, load_network
from kd_jax.train.nonfinite import require_numbers
from kd_jax.train.results import collect
from kd_jax.train.roles import tell_what_is_seen
from kd_jax.train.scores import seen_shapes
from kd_jax.train.teachers import finish_or_resume, teach
from kd_jax.types import Model, Variables

RESULTS = "results.json"


def read_finished(config: ConfigDict, directory: Path, jobs: Mapping[str, Job]) -> dict[str, Any] | None:
    """Returns the results of this very run if all of it is done, else None."""
    results, done = read_json(directory / RESULTS), [read_json(job.directory / DONE) for job in jobs.values()]
    if not results or not all(done) or results.get("config") != plain(config):
        return None
    for job, finished in zip(jobs.values(), done, strict=True):
        parallel.on_lead(lambda job=job, finished=finished: check_exports(job, finished or {}))
    if parallel.is_lead():
        print(f"Read from {directory}, finished {results['finished']}; nothing was trained.")
    return results


def present(config: ConfigDict, results: dict[str, Any], directory: Path) -> dict[str, Any]:
    if config.report and parallel.is_lead():
        from kd_jax.report import results_table, write_report  # here, since Matplotlib takes a fifth of the start-up

        print(results_table(results))
        print(f"Report: {write_report(results, directory)}")
    if parallel.is_lead():
        print(how_to_use(results, directory))
    return results


def check_export(config: ConfigDict) -> None:
    """Raises ValueError, before anything is loaded, where config.export names no function or what it does not take.

    A function may have a further one as its attribute `check`, (config, **kwargs), which says what else it cannot do.
    """
    if config.export.name:
        fn, kwargs = resolve(config.export.name), dict(config.export.kwargs)
        check_kwargs(config.export.name, fn, kwargs, positional=2)
        if hasattr(fn, "check"):
            fn.check(config, **kwargs)


def write_exports(config: ConfigDict, directory: Path) -> None:
    """Writes the further files that config.export asks for of a finished run, in the lead process."""
    if config.export.name and parallel.is_lead():
        call(config.export.name, directory, config, **config.export.kwargs)


def how_to_use(results: Mapping[str, Any], directory: Path) -> str:
    """Returns where the student lies and the lines that use it."""
    student = results["models"]["student"]
    lines = ["import kd_jax", f"student = kd_jax.load({str(directory)!r})", "student.predict(raw)"]
    export = f"{directory / student['export']}{' (and best)' if 'best' in student else ''}"
    return "\n    ".join([f"The student is in {export}. To use it on examples as they lie in the data:", *lines])


@heartbeat.together()
@told_of_full_disk()
def run(
    config: ConfigDict,
    workdir: str | Path,
    *,
    student: Any = None,
    teacher: Any = None,
    teacher_variables: Any = None,
    teachers: Mapping[str, Any] | None = None,
    data: Splits | None = None,
    until: str = "",
) -> dict[str, Any]:
    """Trains (or loads) the teacher, the baseline and the student of `config` in `workdir`; returns results.json.

    `student` and `teacher` replace the configured models by a Flax module or a Model, `teacher_variables` are the
    teacher's parameters in any of models.variables.FORMS; an NNX module and models.host_model(fn) bring their own, and
    kd_jax.from_answers makes one of answers without a network. `teachers` {name: network, or (network, variables)} are
    further ones, of which the terms read "<name>.logits". What a teacher sees that was handed over so are the raw
    arrays, unless its `preparation` says otherwise (core/role_preparation.py). `data` takes the place of what
    config.data reads (kd_jax.from_arrays makes it from NumPy arrays, from_folder from pictures); labels, label_noise,
    limit and the other fields of data.load.SHAPING act on it, also those of teachers.
    A workdir with an unfinished run of the same config is resumed, with a finished one read. `until="cache"` ends
    when the answers of the teachers are in their caches, and returns nothing.
    Raises ValueError, before anything is trained, for whatever does not fit.
    """
    _check_types(config, data)
    start, directory = time.monotonic(), path_of(workdir, "workdir")
    cache_programs(config.compilation_cache)
    parallel.start_processes(config.distributed)
    mesh = parallel.make_mesh(config.mesh.axes)
    networks, variables = brought(student, teacher, teacher_variables, teachers or {})
    config = note_objects(config, networks, data, {*variables})
    jobs, splits = checked_jobs(config, directory, mesh, networks, data, variables)
    variables = {name: handed_over(value, jobs["student"], name) for name, value in variables.items()}
    for name, value in variables.items():
        require_numbers("teacher_variables" if name == "teacher" else f"the variables of {name}", value)
    check_run(config, jobs)
    check_calibrated(config, jobs)
    measures_of(config, jobs)
    check_jobs(jobs)
    if until not in ("", "cache") or (until and not jobs["student"].caches):
        raise ValueError(f"until={until!r}: a run ends at '', or at 'cache' where a teacher.cache.directory is given.")
    if not until and (results := read_finished(config, directory, jobs)):
        write_exports(config, directory)
        return present(config, results, directory)
    tell_what_is_seen(jobs["student"].scheme.roles)
    with locked(directory), failing(models_in(jobs["student"])):
        if until:
            teach(config, jobs, mesh, variables)
            return {}
        results = train_all(config, jobs, splits, variables, mesh, directory)
        if not parallel.is_lead():
            return {}
        verdict = judge(results).as_json(headline_of(results))
        # Trainings that were read, or had begun, took their time before this call.
        trained = sum(model.get("train_seconds", 0.0) for model in results["models"].values())
        results |= {"verdict": verdict, "command": shlex.join(sys.argv)}
        results["wall_seconds"] = max(time.monotonic() - start, trained)
        write_json(directory / RESULTS, results)
        write_exports(config, directory)
        return present(config, results, directory)


def _check_types(config: Any, data: Any) -> None:
    if not isinstance(config, ConfigDict):
        raise ValueError(
            f"run(config, workdir): config is what kd_jax.base() or get_config() makes, not {config!r:.80}"
        )
    if data is not None and not isinstance(data, Splits):
        kind = type(data).__name__
        raise ValueError(f"data is what kd_jax.from_arrays(train=(x, y), test=(x, y)) makes, not a {kind}.")


def train_all(
    config: ConfigDict,
    jobs: Mapping[str, Job],
    splits: Splits,
    handed: Mapping[str, Variables],
    mesh: Mesh,
    directory: Path,
) -> dict[str, Any]:
    """Trains the teachers, the baseline and the student in order; returns their results.json in the lead process."""
    jobs, finished, networks, scores = teach(config, jobs, mesh, handed)
    for name in ("baseline", "student"):
        if name in jobs:
            job = jobs[name]
            finished[name] = finish_or_resume(job, mesh)
            if looked_at(config):  # every process reads, in the same order, since reading waits for all
                role, path = job.scheme.roles[evaluated_roles(job.scheme)[0]], entry_paths(job.scheme.evaluate[0])[0]
                export, shapes = export_of(job, "last"), seen_shapes(job)
                frozen = {teacher: networks[teacher].params for teacher in roles_read(role.inputs)}
                networks[name] = load_network(export, role, path, job.scheme.extra, shapes, frozen=frozen)
    student, start = jobs["student"], ({}, {})
    if student.scheme.chain:  # every process reads
        params, stats = parallel.on_host(student.scheme.roles["teacher"].initial)
        start = precision.restored(params), stats
    if not parallel.is_lead():
        return {}
    if any(source is not None and source.answers for source in jobs["student"].sources.values()):
        # the report shows what teachers said of the test images
        splits = splits._replace(**{split: jobs["student"].sources[split] for split in splits._fields})
    results = collect(config, finished, scores, jobs, networks, splits)
    if student.scheme.chain:
        made = chain_of(student, finished["student"], scores["teacher"], start, directory, measure=config.report)
        results["chain"] = made
        results["sections"].append(chain_section(results["chain"], headline_of(results)))
    return results


def checked_jobs(
    config: ConfigDict,
    directory: Path,
    mesh: Mesh,
    networks: Mapping[str, Model] | None = None,
    data: Splits | None = None,
    handed: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Job], Splits]:
    """Returns jobs_of without the trainings that are not needed; raises first what can be known to fail in the others.

    The jobs have the digests of what they depend on. Teachers that are loaded need no training, as those whose
    variables are `handed` over, by name.
    """
    handed = handed or {}
    planned, splits = jobs_of(config, directory, networks, data, {*handed})
    jobs = untrained(planned)
    for name, fields in teachers_of(config).items():
        if name in jobs and fields.use not in ("last", *(["best"] if jobs[name].sources["validation"] else [])):
            raise ValueError(f"{name}.use is 'last', or 'best' where data.validation is not 0; not {fields.use!r}.")
    shapes = {}
    for name, job in jobs.items():  # all errors of all jobs come before the first hour of the first
        check_data(job)
        first = job.sources.get(job.scheme.stages[0].data) or splits.train
        shapes[name] = check_job(job, batch_shapes(first, job.settings.batch_size), mesh)
    variables = {name: handed_over(value, jobs["student"], name) for name, value in handed.items()}  # in one form
    return with_digests(jobs, digests_of(config, planned, shapes, networks or {}, variables)), splits


def check_jobs(jobs: Mapping[str, Job]) -> None:
    """Raises ValueError where the folder of a job holds a training of another config, or of other data or code."""
    configs = {job.directory: job.config for job in jobs.values()}
    check_configs(configs, {job.directory: job.digests for job in jobs.values()})


def models_in(job: Job) -> list[Model]:
    """Returns the models of a job, those of the teachers too whose answers are stored."""
    return [role.model for role in (*job.scheme.roles.values(), *(cache.role for cache in job.caches.values()))]


def untrained(jobs: Mapping[str, Job]) -> dict[str, Job]:
    """Returns the jobs without those of teachers whose answers are all stored."""
    whole = {name for name, cache in jobs["student"].caches.items() if cache.whole}
    there = {name for name in whole if name in jobs and not (jobs[name].directory / DONE).exists()}
    return {name: job for name, job in jobs.items() if name not in there}


def jobs_of(
    config: ConfigDict,
    directory: Path,
    networks: Mapping[str, Model] | None = None,
    data: Splits | None = None,
    loaded: Collection[str] = (),
) -> tuple[dict[str, Job], Splits]:
    """Returns (the trainings of the config, the student's data), untrained; `networks` replace some models by role.

    The parameters of the teachers `loaded` are the caller's.
    """
    check_effects(config, loaded)
    check_export(config)
    check_seeds(config.data)
    splits, teachers = shaped(data, config.data) if data else load(config.data), teachers_of(config)
    sources = {**splits._asdict(), **_called(config.splits, splits)}
    teacher_sources = {name: _splits_of(config, t, splits, data)._asdict() for name, t in teachers.items()}
    named, networks = {"student": config.student, **teachers, **config.roles}, networks or {}
    learned = {name: sources["train"] for name, sources in teacher_sources.items()}
    models = {
        role: networks.get(role) or make_model(fields["model"], splits.train, learned.get(role))
        for role, fields in named.items()
    }
    check_learns(models["student"])
    ready, extra = ready_teachers(config, models, loaded), _called(config.extra, splits)
    jobs = plan(config, directory, models, sources, teacher_sources, extra, ready)
    by_name = {role: fields["model"] for role, fields in named.items() if role not in networks}
    return with_origins(jobs, models, by_name, splits.train), splits


def _called(part: Mapping[str, Any], splits: Splits) -> dict[str, Any]:
    """What a function of the config makes of the data: {name: value}; nothing where none is named."""
    return dict(call(part["name"], splits, **part["kwargs"])) if part["name"] else {}


def _splits_of(config: ConfigDict, teacher: ConfigDict, splits: Splits, data: Splits | None) -> Splits:
    fields = own_data(config, teacher)
    if fields == dict(config.data):
        return splits
    return shaped(data, fields) if data else load(fields)
