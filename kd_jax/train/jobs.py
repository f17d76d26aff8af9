"""From a config to the trainings of a run: teacher, baseline, student."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Set
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from kd_jax.cache.attach import attach, stand_in
from kd_jax.cache.model import Store
from kd_jax.cache.plan import TeacherCache
from kd_jax.config.fields import own_data, settled, teachers_of
from kd_jax.core.paths import roles_read
from kd_jax.data.load import SHAPING, replaced
from kd_jax.data.source import Source, Splits
from kd_jax.files import path_of
from kd_jax.models.adapters import as_model, name_of
from kd_jax.models.remat import Remat
from kd_jax.resolve import check_kwargs, made, resolve
from kd_jax.schemes import offline
from kd_jax.system import precision
from kd_jax.system.workdir import plain
from kd_jax.train.about import About, origins_of
from kd_jax.train.fit import Settings
from kd_jax.train.scheme import make_scheme, prepare_of
from kd_jax.types import Model, Parts, Role, Scheme


def make_model(config: Mapping[str, Any], source: Source) -> Model:
    """Makes the model of a config; `num_classes`, or `vocabulary`, comes from the data unless the config sets it."""
    factory, kwargs = _factory(config, source)
    return as_model(made(config["name"], factory, **kwargs))


def _factory(config: Mapping[str, Any], source: Source) -> tuple[Callable[..., Any], dict[str, Any]]:
    """What makes the model of a config, and its arguments."""
    factory, kwargs = resolve(config["name"]), dict(config["kwargs"])
    check_kwargs(config["name"], factory, kwargs)
    size = "vocabulary" if "vocabulary" in inspect.signature(factory).parameters else "num_classes"
    try:
        check_kwargs("", factory, [size])
        kwargs.setdefault(size, source.num_classes)
    except ValueError:
        pass
    return factory, kwargs


def with_origins(
    jobs: Mapping[str, Job], models: Mapping[str, Model], named: Mapping[str, Any], source: Source
) -> dict[str, Job]:
    """Returns the jobs whose exports tell of the models that the config's `named` {role: {name, kwargs}} made."""
    origins = origins_of({role: (models[role], *_factory(fields, source)) for role, fields in named.items()})
    return {name: replace(job, about=replace(job.about, origins=origins)) for name, job in jobs.items()}


def note_objects(config: ConfigDict, models: Mapping[str, Model], data: Splits | None) -> ConfigDict:
    """Returns the settled config, which tells of the models and data given as objects in place of what it names."""
    config = settled(config)
    with config.unlocked():
        for role, model in models.items():
            config[role].model = ConfigDict({"name": name_of(model), "kwargs": {"given": plain(model)}})
        if data is not None:
            train, labelled = data.train, int(data.train.labelled.sum())
            acting = _acting_on_objects(config, train.name)
            config.data = ConfigDict({"name": train.name, **acting})
            config.data.given = f"{len(train)} examples of shape {train.image_shape}, {labelled} with a label"
    return config


def _acting_on_objects(config: ConfigDict, name: str) -> dict[str, Any]:
    """The fields of config.data that act on data given as an object; says which of the others they replace.

    A teacher's own `data` is left with those fields alone. Raises ValueError where it asks for other data.
    """
    for role, teacher in teachers_of(config).items():
        if asked := replaced({k: v for k, v in teacher.data.items() if v is not None}):
            shown = ", ".join(f"{k}={v!r}" for k, v in asked.items())
            raise ValueError(
                f"config.{role}.data asks for {shown}, and data= is what every network reads: only "
                f"{', '.join(SHAPING)} act on it."
            )
        teacher.data = ConfigDict({k: teacher.data[k] for k in SHAPING}, convert_dict=False)
    if other := replaced(config.data):
        shown = ", ".join(f"{k}={v!r}" for k, v in other.items())
        print(f"data: {name!r}, given as an object, takes the place of config.data's {shown}")
    return {k: config.data[k] for k in SHAPING}


def teacher_role(model: Model, config: ConfigDict) -> Role:
    """Returns the frozen role of a teacher in the student's run."""
    if config.view not in ("same", "clean"):
        raise ValueError(f"teacher.view is 'same' or 'clean', not {config.view!r}.")
    precision.check_dtype(config.dtype, "teacher.dtype")
    clean = {"batch.image": "batch.teacher_image"} if config.view == "clean" else {}
    return Role(model, tuple(clean.get(p, p) for p in config.inputs), dtype=config.dtype or None)


def make_settings(
    config: ConfigDict,
    train: Mapping[str, Any],
    steps: int,
    seed: int,
    view_seed: int | None,
    rules: Mapping[str, Any],
) -> Settings:
    """Returns how a training of so many `steps` is run."""
    return Settings(
        batch_size=train["batch_size"],
        seed=seed,
        view_seed=view_seed,
        log_every=config.log_every,
        eval_every=tenth(steps, config.steps_per_dispatch) if config.eval_every is None else config.eval_every,
        eval_batch_size=config.eval_batch_size,
        labelled_share=train["labelled_share"],
        keep=config.keep,
        workers=config.workers,
        steps_per_dispatch=config.steps_per_dispatch,
        accumulate=train["accumulate"],
        profile=tuple(config.profile),
        rules=rules,
    )


def tenth(steps: int, per_dispatch: int) -> int:
    """Returns the steps between ten evaluations, in whole dispatches: the last may come earlier than the others."""
    size = max(per_dispatch, 1)
    return max(-(-steps // (10 * size)), 1) * size


def as_loaded(teacher: Mapping[str, Any]) -> bool:
    """Tells whether a teacher makes no step from where it starts."""
    return bool(teacher["initial"]["name"]) and not (teacher["train"]["steps"] or teacher["train"]["epochs"])


@dataclasses.dataclass(frozen=True)
class Job:
    """One of the trainings of a run: a teacher, the baseline or the student. What is learned later makes a new one."""

    name: str
    scheme: Scheme
    sources: Mapping[str, Source | None]
    settings: Settings
    directory: Path
    config: dict[str, Any]  # what it depends on: the same config resumes, another is refused
    caches: Mapping[str, TeacherCache] = dataclasses.field(default_factory=dict)  # of the teachers that it asks no more
    digests: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)  # of data, variables, code, ...
    about: About = dataclasses.field(default_factory=About)  # what its exports say

    @property
    def source(self) -> Source:
        train = self.sources["train"]
        assert train is not None  # only validation may be left out
        return train


def plan(
    config: ConfigDict,
    directory: Path,
    models: Mapping[str, Model],
    sources: Mapping[str, Source | None],
    teacher_sources: Mapping[str, Mapping[str, Source | None]],
    extra: Mapping[str, Any] | None = None,
    ready: Set[str] = frozenset(),
) -> dict[str, Job]:
    """Returns the trainings of a run in order: the teachers on their labels, the student without and with them.

    Teachers that are `ready` are loaded, and need none.

    The baseline makes as many steps as the student, on the labelled examples only. `sources` are those of the student,
    `teacher_sources` those of each teacher; `models` has a model for every role that the config names.
    """
    teachers = teachers_of(config)
    if taken := {"student", "baseline"} & {*teachers} or {"student", *teachers} & {*config.roles}:
        raise ValueError(f"The names {sorted(taken)} are taken: config.teachers and config.roles need others.")
    make = partial(_job, config, directory, extra)
    learning = {name: teacher for name, teacher in teachers.items() if not (name in ready or as_loaded(teacher))}
    jobs = {name: _teacher_job(make, config, name, models[name], teacher_sources[name]) for name in learning}
    asked = _asked_once(config, models)
    roles, rules = _roles_of_student(config, models, asked)
    train = sources["train"]
    labelled = train is not None and train.labelled.any()
    if config.baseline and not labelled:
        print("baseline: no training example has a label, so there is nothing to train it on, and it is left out")
    if config.baseline and labelled:
        jobs["baseline"] = _baseline_job(make, config, roles, rules, sources)
    jobs["student"] = _student_job(make, config, models, roles, rules, sources)
    return attach(config, jobs, asked)


def _asked_once(config: ConfigDict, models: Mapping[str, Model]) -> dict[str, tuple[Role, Role, Store]]:
    """{teacher: (its role, the role that stands in for it, what is stored of it)} of the teachers that are cached."""
    cached = {name: teacher for name, teacher in teachers_of(config).items() if teacher.cache.directory}
    frozen = {name: teacher_role(models[name], teacher) for name, teacher in cached.items()}
    return {name: (role, *stand_in(name, role, config)) for name, role in frozen.items()}


def _roles_of_student(
    config: ConfigDict, models: Mapping[str, Model], asked: Mapping[str, tuple[Role, Role, Store]]
) -> tuple[dict[str, Role], dict[str, Any]]:
    """(the roles of the student's run, the student first; the sharding rules of those that have parameters)."""
    roles, rules = {"student": _student_role(config, models["student"])}, {"student": config.mesh.student_rules}
    for name, teacher in teachers_of(config).items():
        role = teacher_role(models[name], teacher)
        roles[name] = asked[name][1] if name in asked else role
        if name not in asked:
            rules[name] = config.mesh.teacher_rules
    return roles, rules


def _job(
    config: ConfigDict,
    directory: Path,
    extra: Mapping[str, Any] | None,
    name: str,
    train: Mapping[str, Any],
    terms: Mapping[str, Any] | None,
    depends: Mapping[str, Any],
    roles: Mapping[str, Role],
    sources: Mapping[str, Source | None],
    rules: Mapping[str, Any],
    seed: int,
    view_seed: int | None = None,
    build: Callable[[Parts], Scheme] | None = offline.build,
) -> Job:
    """A training that learns `terms` (None: the task's) by `build` (None: config.scheme); `depends` identify it."""
    # A teacher is the student of its own training, and config.optimizers.student is not its optimizer.
    own = {} if name in teachers_of(config) else None
    scheme = make_scheme(config, train, terms, roles, sources, build, extra, own)
    common = ("prepare", "extra", "task", "summary", "log_every", "eval_every")
    depends = {**depends, **{k: config[k] for k in common}}
    if view_seed is not None:
        depends["view_seed"] = view_seed
    steps = sum(stage.steps for stage in scheme.stages)
    settings = make_settings(config, train, steps, seed, view_seed, rules)
    about = About(prepare_of(config, train, sources["train"]))
    identity = {k: plain(v) for k, v in depends.items()}
    return Job(name, scheme, sources, settings, directory / name, identity, about=about)


def _teacher_job(
    make: Callable[..., Job], config: ConfigDict, name: str, model: Model, sources: Mapping[str, Source | None]
) -> Job:
    """A teacher's training on its labels, in which it is the student."""
    teacher = teachers_of(config)[name]
    depends = {"teacher": {k: teacher[k] for k in ("model", "inputs", "initial", "seed", "train")}}
    depends["data"] = own_data(config, teacher)
    roles = {"student": Role(model, tuple(teacher.inputs), group="student")}
    rules = {"student": config.mesh.teacher_rules}
    train = {**teacher.train, "labelled_share": 1.0}
    job = make(name, train, None, depends, roles, sources, rules, teacher.seed)
    return dataclasses.replace(job, directory=path_of(teacher.workdir, f"{name}.workdir")) if teacher.workdir else job


def _student_role(config: ConfigDict, model: Model) -> Role:
    remat = config.student.remat
    network = Remat(model, remat.modules, remat.policy) if remat.policy else model
    return Role(network, tuple(config.student.inputs), group="student")


def _baseline_job(
    make: Callable[..., Job],
    config: ConfigDict,
    roles: Mapping[str, Role],
    rules: Mapping[str, Any],
    sources: Mapping[str, Source | None],
) -> Job:
    """The student's training on labels alone; of the teachers it has the one that it is compared with."""
    train = {**config.train, "labelled_share": 1.0}
    wanted = {"student", "teacher", *roles_read(roles["student"].inputs)}
    roles, rules = ({name: v for name, v in by_role.items() if name in wanted} for by_role in (roles, rules))
    depends = {**_fields_of_student(config), "train": train}
    return make("baseline", train, None, depends, roles, sources, rules, config.seed, config.view_seed)


def _student_job(
    make: Callable[..., Job],
    config: ConfigDict,
    models: Mapping[str, Model],
    roles: Mapping[str, Role],
    rules: Mapping[str, Any],
    sources: Mapping[str, Source | None],
) -> Job:
    further = ("train", "terms", "scheme", "roles", "optimizers", "splits")
    depends = {**_fields_of_student(config), **{k: config[k] for k in further}}
    roles = dict(roles)
    for name, fields in config.roles.items():
        group, initial = fields["group"] or name, fields["initial"] or None
        roles[name] = Role(models[name], tuple(fields["inputs"]), group, initial)
    seeds = (config.seed, config.view_seed)
    return make("student", config.train, config.terms, depends, roles, sources, rules, *seeds, build=None)


def _fields_of_student(config: ConfigDict) -> dict[str, Any]:
    return {k: config[k] for k in ("data", "seed", "student", "teacher", "teachers")}
