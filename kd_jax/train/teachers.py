"""Teachers: trained or loaded, scored, asked once where their answers are cached, and given to the schemes of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from kd_jax.cache.attach import SHARING, with_answers
from kd_jax.cache.build import build
from kd_jax.cache.open import hash_of, hash_of_files, opened
from kd_jax.cache.plan import TeacherCache
from kd_jax.cache.stored import StoredAnswers
from kd_jax.config.fields import teachers_of
from kd_jax.core.evaluate import extra_inputs
from kd_jax.core.many import Runs
from kd_jax.core.network import Network
from kd_jax.core.paths import lookup, roles_read
from kd_jax.data.answers import Answers
from kd_jax.files import path_of, read_json, write_json
from kd_jax.models.host import HostModel, failing
from kd_jax.models.streamed import Reading
from kd_jax.system import parallel, precision, workdir
from kd_jax.system.exports import check_export
from kd_jax.train.calibrated import calibrated
from kd_jax.train.fit import DONE, Watch
from kd_jax.train.initial import check_baseline, check_initial, first_variables, starting_at, takes_teacher
from kd_jax.train.jobs import Job
from kd_jax.train.loop import fit
from kd_jax.train.measuring import looked_at
from kd_jax.train.networks import check_exports, export_of, load_network
from kd_jax.train.nonfinite import require_numbers
from kd_jax.train.results import measured
from kd_jax.train.scores import check_teacher, score_cached, score_teacher, seen_shapes
from kd_jax.train.taught import Taught, answering
from kd_jax.types import PyTree, Role, Variables

COST = "cost.json"


def teach(
    config: ConfigDict,
    jobs: Mapping[str, Job],
    mesh: Mesh,
    handed: Mapping[str, Variables] | None = None,
) -> tuple[dict[str, Job], dict[str, Any], dict[str, Network], dict[str, Any]]:
    """Trains or loads the teachers, and scores them; `handed` are the variables of those that the caller has, by name.

    Returns (the jobs, with the teachers in the schemes of baseline and student; results of the trained teachers;
    networks; scores), each by name.
    """
    jobs, student = dict(jobs), jobs["student"]
    context = {"batch": seen_shapes(student), "extra": student.scheme.extra}
    shapes = check_starts(config, student, context, jobs.get("baseline"))
    taught: dict[str, Taught] = {}
    for name in teachers_of(config):
        variables = (handed or {}).get(name)
        jobs, taught[name] = _teach_one(config, jobs, name, variables, shapes.get(name), mesh, taught.get("teacher"))
    start = _start_of_student(config, student, taught, shapes, mesh) if config.student.initial.name else None
    for name in (name for name in SHARING if name in jobs):
        scheme = jobs[name].scheme
        roles = {n: taught[n].role if n in taught else role for n, role in scheme.roles.items()}
        scheme = starting_at(dataclasses.replace(scheme, roles=roles), "student", start)
        jobs[name] = dataclasses.replace(jobs[name], scheme=scheme)
    finished = {name: one.finished for name, one in taught.items() if one.finished is not None}
    networks = {name: one.network for name, one in taught.items() if one.network is not None}
    return jobs, finished, networks, {name: one.scores for name, one in taught.items()}


def _start_of_student(
    config: ConfigDict, student: Job, taught: Mapping[str, Taught], shapes: Mapping[str, Variables], mesh: Mesh
) -> Variables | None:
    """What config.student.initial makes, from the teacher where it takes one.

    Where rules cut the student over devices it is read to these; else the host has it, and no device holds it twice.
    """
    copied = takes_teacher(config.student.initial) and "teacher" in taught
    teacher = taught["teacher"].variables() if copied else None
    model = student.scheme.roles["student"].model
    fields, wanted = config.student.initial, shapes["student"]
    rules = student.settings.rules.get("student", ())
    cut = Reading(lambda params: parallel.param_shardings(params, rules, mesh, "student"))
    reading = cut if rules and mesh.size > 1 else None
    start = first_variables(fields, "student", model, config.seed, teacher, wanted, student.source, reading)
    require_numbers("config.student.initial", start)
    return start


def _teach_one(
    config: ConfigDict,
    jobs: dict[str, Job],
    name: str,
    handed_over: Variables | None,
    shapes: Variables | None,
    mesh: Mesh,
    teacher: Taught | None,
) -> tuple[dict[str, Job], Taught]:
    """Trains or loads one teacher, asks it where it is cached, and scores it; the jobs may have become new ones.

    `teacher` is the one called so, of which a further one may be made.
    """
    fields, student = teachers_of(config)[name], jobs["student"]
    asked = student.caches[name].role if name in student.caches else student.scheme.roles[name]
    first, finished = ({}, {}) if isinstance(asked.model, HostModel) else handed_over, None
    if first is None and not fields.checkpoint:
        copied = teacher.variables() if teacher is not None and takes_teacher(fields.initial) else None
        reading = _reading(config, jobs, name, mesh)
        first = first_variables(fields.initial, name, asked.model, fields.seed, copied, shapes, student.source, reading)
        require_numbers(f"config.{name}.initial", first)
    if name in jobs:
        scheme = starting_at(jobs[name].scheme, "student", first)
        jobs = {**jobs, name: dataclasses.replace(jobs[name], scheme=scheme)}
        finished, first = finish_or_resume(jobs[name], mesh), handed_over
    role = student.scheme.roles[name]
    if isinstance(role.model, StoredAnswers):
        return jobs, answering(jobs["student"], name, role, role.model, fields, mesh)
    if name in student.caches:
        network, load, answers = cached_teacher(config, jobs, student.caches[name], first, mesh)
        jobs = with_answers(jobs, {name: answers})
        taught = Taught(network.role, {}, lambda: load().variables, network, finished)
        scores = score_cached(config, jobs["student"], student.caches[name], network, mesh)
    else:
        network, variables = _read_teacher(config, jobs, name, first, mesh)
        as_trained = variables if role.dtype == precision.INT8 else None
        require_numbers(name, variables)
        role = dataclasses.replace(role, initial=(precision.stored(variables[0], role.dtype), variables[1]))
        if role.dtype:
            require_numbers(f"{name} in {role.dtype}", role.initial, f"config.{name}.dtype has no room for them.")
        if fields.calibrate:
            role, network = calibrated(student, name, role, network, mesh)
        taught = Taught(role, {}, lambda: variables, network, finished)
        scores = score_teacher(student, role, student.settings.rules.get(name, ()), mesh, as_trained)
    check_teacher(jobs["student"], name, fields, scores)
    return jobs, dataclasses.replace(taught, scores=scores)


def _reading(config: ConfigDict, jobs: Mapping[str, Job], name: str, mesh: Mesh) -> Reading | None:
    """Where a teacher that is read from files lies from the first on; None where the host is to have it whole.

    That is where it is trained, asked once, or looked at by report and measures, on one device of several.
    """
    student, whole = jobs["student"], looked_at(config)
    if name in jobs or name in student.caches or (whole and mesh.size > 1):
        return None
    rules, dtype = student.settings.rules.get(name, ()), student.scheme.roles[name].dtype
    stored = "" if whole or dtype in (None, precision.INT8) else dtype
    return Reading(lambda params: parallel.param_shardings(params, rules, mesh, name), stored)


def _read_teacher(
    config: ConfigDict, jobs: Mapping[str, Job], name: str, variables: Variables | None, mesh: Mesh
) -> tuple[Network | None, Variables]:
    """(the network as the report measures it, its variables under the sharding rules of the run)."""
    fields, student = teachers_of(config)[name], jobs["student"]
    role, extra, path = student.scheme.roles[name], student.scheme.extra, f"{name}.logits"
    rules = student.settings.rules.get(name, ())

    def shards(params: PyTree, stats: PyTree) -> tuple[PyTree, PyTree]:
        everywhere = parallel.replicated(mesh)
        return parallel.param_shardings(params, rules, mesh, name), jax.tree.map(lambda _: everywhere, stats)

    if variables is not None:
        network = Network(role.model, *variables, role, extra_inputs(role, extra), path)
        return network, parallel.place(variables, shards(*variables))
    export = _export_of_teacher(fields, jobs.get(name))
    placed = load_network(export, role, path, extra, seen_shapes(student), shards)
    # Report and measures look at a network whole, on one device.
    network = load_network(export, role, path, extra, seen_shapes(student)) if looked_at(config) else None
    return network, placed.variables


def _export_of_teacher(fields: ConfigDict, job: Job | None) -> Path | None:
    """Where a teacher lies: what it was trained to, or config.teacher.checkpoint; None where the caller has it."""
    if job is not None:
        return export_of(job, fields.use)
    return path_of(fields.checkpoint, "teacher.checkpoint") if fields.checkpoint else None


def cached_teacher(
    config: ConfigDict, jobs: Mapping[str, Job], cache: TeacherCache, variables: Variables | None, mesh: Mesh
) -> tuple[Network, Callable[[], Network], dict[str, Answers]]:
    """Asks a teacher once; returns (what stands in for it, a function that reads it, its answers by split).

    The function raises ValueError where the teacher is not on this machine. `variables` are its own where the caller
    has them.
    """
    job, fields, name = jobs["student"], teachers_of(config)[cache.name], cache.name
    export = _export_of_teacher(fields, jobs.get(name))
    from_files = variables is None and export is not None and export.exists()
    here = variables is not None or from_files

    def load() -> Network:
        extra = job.scheme.extra
        if not here:
            raise ValueError(
                f"config.student.initial={config.student.initial.name!r} starts from the {name}, which is not on this "
                f"machine: {cache.folder} has its answers alone."
            )
        if variables is not None:
            return Network(cache.role.model, *variables, cache.role, extra_inputs(cache.role, extra), f"{name}.logits")
        return load_network(export, cache.role, f"{name}.logits", extra, seen_shapes(job))

    files = hash_of_files(export) if from_files else ""
    trained = None if fields.checkpoint or variables is not None else cache.trained
    if not cache.whole:
        teacher = load()
        rules = config.mesh.teacher_rules
        with failing([cache.role.model]):
            build(cache, teacher.variables, mesh, rules=rules, files=files, trained=trained)
        if config.report and parallel.is_lead():
            write_json(cache.folder / COST, measured({name: teacher}, job.source, job.scheme.prepare)[name])
        del teacher  # from here on nobody has its parameters
    elif not here and parallel.is_lead():
        print(f"{name}: it is not on this machine; its answers are in {cache.folder}")
    parameters = (lambda: hash_of(load().variables)) if here else None
    answers = opened(cache, files=files, trained=trained, parameters=parameters)
    role = dataclasses.replace(cache.stand_in, initial=({}, {}))
    cost = read_json(cache.folder / COST) or {}
    network = Network(role.model, {}, {}, role, {}, f"{name}.logits", cost, load if here else None)
    return network, load, answers


def check_starts(
    config: ConfigDict, job: Job, context: Mapping[str, Any], baseline: Job | None = None
) -> dict[str, tuple[PyTree, PyTree]]:
    """Returns the shapes of (params, stats) of teachers and student that do not start at random, by name.

    `job` is the student's, `context` holds shapes. Raises ValueError, before anything is trained, where a start does
    not fit its network, or the baseline's, and where a teacher's checkpoint is missing or damaged.
    """

    def inputs(role: Role) -> tuple[PyTree, ...]:
        frozen = {name: init(job.scheme.roles[name])[0] for name in roles_read(role.inputs)}
        return tuple(lookup({**context, "params": frozen}, p) for p in role.inputs)

    def init(role: Role) -> tuple[PyTree, PyTree]:
        return jax.eval_shape(role.model.init, jax.random.key(0), *inputs(role))

    for name, fields in teachers_of(config).items():
        if (export := _export_of_teacher(fields, None)) and not (name in job.caches and job.caches[name].whole):
            check_export(export)
    shapes = {}
    if isinstance(getattr(job.scheme.roles.get("teacher"), "model", None), StoredAnswers):
        if takes_teacher(config.student.initial):
            raise ValueError(
                f"config.student.initial={config.student.initial.name!r} starts from the teacher, of which there are "
                "only answers."
            )
    for name, fields in {**teachers_of(config), "student": config.student}.items():
        if fields.initial.name:
            roles = {**job.scheme.roles, **{n: cache.role for n, cache in job.caches.items()}}
            role, teacher = roles[name], roles.get("teacher")
            check_initial(fields.initial, name, role.model, inputs(role), teacher and init(teacher), job.source)
            shapes[name] = init(role)
    if baseline is not None and config.student.initial.name:
        check_baseline(config, shapes["student"], init(baseline.scheme.roles["student"]))
    return shapes


def finish_or_resume(job: Job, mesh: Mesh, members: Runs | None = None, watch: Watch | None = None) -> dict[str, Any]:
    """Returns the results of the job; trains what is missing. `members` and `watch` are those of loop.fit."""
    workdir.claim(job.directory, job.config, job.digests)
    if results := read_json(job.directory / DONE):
        parallel.on_lead(lambda: check_exports(job, results))
        print(f"{job.name}: read from {job.directory}, finished {results['finished']}; it was not trained again")
        return results
    return fit(job.scheme, job.sources, job.settings, job.directory, mesh, job.name, members, watch, job.facts)
