"""Teachers: trained or loaded, scored, asked once where their answers are cached, and given to the schemes of a run."""

from __future__ import annotations

import dataclasses
import json
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
from kd_jax.config.fields import teachers_of
from kd_jax.core.bind import evaluated_roles
from kd_jax.core.evaluate import extra_inputs, params_inputs
from kd_jax.core.many import Runs
from kd_jax.core.paths import lookup, roles_read
from kd_jax.data.answers import Answers
from kd_jax.files import read_json, write_json
from kd_jax.system import parallel, precision, workdir
from kd_jax.system.checkpoint import load_tree
from kd_jax.train.finish import exported
from kd_jax.train.fit import DONE, Watch
from kd_jax.train.initial import check_initial, first_variables, starting_at, takes_teacher
from kd_jax.train.jobs import Job
from kd_jax.train.loop import fit
from kd_jax.train.results import Network, measured
from kd_jax.train.scores import check_teacher, score_teacher, seen_shapes
from kd_jax.types import PyTree, Role

COST = "cost.json"


def teach(
    config: ConfigDict,
    jobs: Mapping[str, Job],
    mesh: Mesh,
    teacher_variables: tuple[PyTree, PyTree] | None = None,
) -> tuple[dict[str, Job], dict[str, Any], dict[str, Network], dict[str, Any]]:
    """Trains or loads the teachers, and scores them.

    Returns (the jobs, with the teachers in the schemes of baseline and student; results of the trained teachers;
    networks; scores), each by name.
    """
    jobs = dict(jobs)
    finished: dict[str, dict[str, Any]] = {}
    networks: dict[str, Network] = {}
    job, seen = jobs["student"], seen_shapes(jobs["student"])
    shapes = check_starts(config, job, {"batch": seen, "extra": job.scheme.extra})
    frozen, scores, whole = {}, {}, {}
    for name, fields in teachers_of(config).items():
        role = job.scheme.roles[name]
        given = loaded = teacher_variables if name == "teacher" else None
        if loaded is None and not fields.checkpoint:
            own = job.caches[name].role if name in job.caches else role
            loaded = first_variables(fields.initial, name, own.model, fields.seed, shapes=shapes.get(name))
        if name in jobs:
            scheme = starting_at(jobs[name].scheme, "student", loaded)
            jobs[name] = dataclasses.replace(jobs[name], scheme=scheme)
            finished[name] = finish_or_resume(jobs[name], mesh)
        else:
            given = loaded
        if name in job.caches:
            networks[name], load, said = cached_teacher(config, jobs, job.caches[name], given, mesh)
            jobs = with_answers(jobs, {name: said})
            job = jobs["student"]
            if name == "teacher" and takes_teacher(config.student.initial):
                whole[name] = load().variables
            frozen[name] = networks[name].role
            scores[name] = score_teacher(job, frozen[name], (), mesh)
            check_teacher(job, name, fields, scores[name])
            continue
        rules = job.settings.rules.get(name, ())

        def shards(params: PyTree, stats: PyTree, name=name, rules=rules) -> tuple[PyTree, PyTree]:
            everywhere = parallel.replicated(mesh)
            return parallel.param_shardings(params, rules, mesh, name), jax.tree.map(lambda _: everywhere, stats)

        extra, path = job.scheme.extra, f"{name}.logits"
        if given is not None:
            networks[name] = Network(role.model, *given, role, extra_inputs(role, extra), path)
            variables = parallel.place(given, shards(*given))
        else:
            export = Path(fields.checkpoint) if fields.checkpoint else export_of(jobs[name], fields.use)
            found = load_network(export, role, path, extra, seen, shards)
            variables = (found.params, found.stats)
            if config.report:  # it measures the network whole, on one device
                networks[name] = load_network(export, role, path, extra, seen)
        whole[name] = variables
        frozen[name] = dataclasses.replace(role, initial=(precision.stored(variables[0], role.dtype), variables[1]))
        as_trained = variables if role.dtype == precision.INT8 else None
        scores[name] = score_teacher(job, frozen[name], rules, mesh, as_trained)
        check_teacher(job, name, fields, scores[name])
    start_at = None
    if config.student.initial.name:
        model = job.scheme.roles["student"].model
        teacher = whole.get("teacher")
        start_at = first_variables(config.student.initial, "student", model, config.seed, teacher, shapes["student"])
    for name in SHARING:
        if name in jobs:
            scheme = jobs[name].scheme
            roles = {n: frozen.get(n, role) for n, role in scheme.roles.items()}
            scheme = starting_at(dataclasses.replace(scheme, roles=roles), "student", start_at)
            jobs[name] = dataclasses.replace(jobs[name], scheme=scheme)
    return jobs, finished, networks, scores


def cached_teacher(
    config: ConfigDict, jobs: Mapping[str, Job], cache: TeacherCache, given: tuple[PyTree, PyTree] | None, mesh: Mesh
) -> tuple[Network, Callable[[], Network], dict[str, Answers]]:
    """Asks a teacher once: (what stands in for it, a function that reads it, its answers by split).

    The function raises ValueError where the teacher is not on this machine. `given` are its variables where the caller
    has them.
    """
    job, fields, name = jobs["student"], teachers_of(config)[cache.name], cache.name
    export = Path(fields.checkpoint) if fields.checkpoint else None
    if name in jobs:
        export = export_of(jobs[name], fields.use)
    here = given is not None or (export is not None and export.exists())

    def load() -> Network:
        extra = job.scheme.extra
        if not here:
            raise ValueError(
                f"config.student.initial={config.student.initial.name!r} starts from the {name}, which is not on this "
                f"machine: {cache.folder} has its answers alone."
            )
        if given is not None:
            return Network(cache.role.model, *given, cache.role, extra_inputs(cache.role, extra), f"{name}.logits")
        return load_network(export, cache.role, f"{name}.logits", extra, seen_shapes(job))

    files = hash_of_files(export) if export and here and given is None else ""
    trained = None if fields.checkpoint or given is not None else cache.trained
    if not cache.whole:
        teacher = load()
        rules = config.mesh.teacher_rules
        build(cache, teacher.variables, mesh, rules=rules, files=files, trained=trained)
        if config.report and parallel.is_lead():
            write_json(cache.folder / COST, measured(teacher, job.source, job.scheme.prepare))
        del teacher  # from here on nobody has its parameters
    elif not here and parallel.is_lead():
        print(f"{name}: it is not on this machine; its answers are in {cache.folder}")
    said = opened(cache, files=files, trained=trained, parameters=(lambda: hash_of(load().variables)) if here else None)
    role = dataclasses.replace(cache.stand_in, initial=({}, {}))
    cost = cache.folder / COST
    about = json.loads(cost.read_text()) if cost.exists() else {}
    return Network(role.model, {}, {}, role, {}, f"{name}.logits", about), load, said


def check_starts(config: ConfigDict, job: Job, context: Mapping[str, Any]) -> dict[str, tuple[PyTree, PyTree]]:
    """Returns the shapes of (params, stats) of teachers and student that do not start at random, by name.

    `context` holds shapes. Raises ValueError, before anything is trained, where what they start from does not fit.
    """

    def inputs(role: Role) -> tuple[PyTree, ...]:
        frozen = {name: init(job.scheme.roles[name])[0] for name in roles_read(role.inputs)}
        return tuple(lookup({**context, "params": frozen}, p) for p in role.inputs)

    def init(role: Role) -> tuple[PyTree, PyTree]:
        return jax.eval_shape(role.model.init, jax.random.key(0), *inputs(role))

    shapes = {}
    for name, fields in {**teachers_of(config), "student": config.student}.items():
        if fields.initial.name:
            roles = {**job.scheme.roles, **{n: cache.role for n, cache in job.caches.items()}}
            role, teacher = roles[name], roles.get("teacher")
            check_initial(fields.initial, name, role.model, inputs(role), teacher and init(teacher))
            shapes[name] = init(role)
    return shapes


def finish_or_resume(job: Job, mesh: Mesh, members: Runs | None = None, watch: Watch | None = None) -> dict[str, Any]:
    """The results of the job; trains what is missing. `members` and `watch` as in loop.fit."""
    workdir.claim(job.directory, job.config)
    done = job.directory / DONE
    if results := read_json(done):
        print(f"{job.name}: finished before, in {job.directory}")
        return results
    return fit(job.scheme, job.sources, job.settings, job.directory, mesh, job.name, members, watch)


def export_of(job: Job, which: str) -> Path:
    """Where a finished job leaves the network of its "last" or "best" step."""
    return job.directory / "export" / which / evaluated_roles(job.scheme)[0]


def load_network(
    export: Path,
    role: Role,
    path: str,
    extra: Mapping[str, Any],
    batch: Mapping[str, Any],
    shardings: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]] | None = None,
    frozen: Mapping[str, PyTree] | None = None,
) -> Network:
    """Reads an exported network; raises ValueError when it is missing or of another model.

    `path` is that of its logits, `batch` has the shapes of a prepared one. `shardings(params, stats)` are where its
    parameters and statistics are read to; without it they become NumPy arrays. `frozen` {role: parameters} are those
    that it reads as an input: adapters are exported without their base.
    """
    if not export.exists():
        raise ValueError(
            f"There is no exported model at {export}. A finished run has them under <workdir>/<name>/export/."
        )
    shapes = [lookup({"batch": batch, "extra": extra, "params": frozen or {}}, p) for p in role.inputs]
    params, stats = jax.eval_shape(role.model.init, jax.random.key(0), *shapes)
    given = extra_inputs(role, extra)
    if shardings is not None:
        # Read as what it will be, since a cast afterwards would hold it twice; int8 is made of the floats.
        dtype = role.dtype if role.dtype != precision.INT8 else None
        params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype or x.dtype), params)
        places = shardings(params, stats)
        placed = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), (params, stats), places)
        params, stats = placed
    tree = load_tree(export, exported(params, stats, jax.eval_shape(lambda: given)))
    given = {**tree.get("given", given), **params_inputs(role, frozen or {})}
    return Network(role.model, tree["params"], tree.get("stats", stats), role, given, path)
