"""From a config to the trainings of a run: teacher, baseline, student."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Collection, Mapping, Set
from functools import partial
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from kd_jax.cache.attach import SHARING, attach, check_use
from kd_jax.cache.plan import TeacherCache
from kd_jax.cache.stored import StoredAnswers, check_pictures, with_stored
from kd_jax.config.fields import own_data, teachers_of
from kd_jax.core.paths import roles_read
from kd_jax.data.source import Source
from kd_jax.files import path_of
from kd_jax.models.adapters import LinenModel, as_model
from kd_jax.models.host import HostModel
from kd_jax.resolve import call, check_kwargs, made, resolve
from kd_jax.schemes import offline
from kd_jax.system.workdir import plain
from kd_jax.train.about import About, origins_of
from kd_jax.train.answered import check_moved, compared
from kd_jax.train.fit import Settings
from kd_jax.train.roles import asked_once, further_roles, learning_teacher, roles_of_student
from kd_jax.train.scheme import make_scheme, prepare_of
from kd_jax.types import Model, Parts, Role, Scheme


def make_model(config: Mapping[str, Any], source: Source, learns_from: Source | None = None) -> Model:
    """Makes the model of a config; `num_classes`, or `vocabulary`, comes from the data unless the config sets it.

    A teacher that is fitted as it is made takes `source`: the examples that it `learns_from`. Every Linen network takes
    `torch_variance` beside its own arguments (kd_jax/models/torch_variance.py).
    """
    factory, kwargs, torch_variance = _factory(config, source)
    if "source" in inspect.signature(factory).parameters:
        kwargs["source"] = learns_from or source
    model = as_model(made(config["name"], factory, **kwargs))
    if not torch_variance:
        return model
    if not isinstance(model, LinenModel):
        raise ValueError(f"torch_variance is of Linen's BatchNorm, and {config['name']!r} makes no Linen network.")
    return dataclasses.replace(model, torch_variance=True)


def _factory(config: Mapping[str, Any], source: Source) -> tuple[Callable[..., Any], dict[str, Any], bool]:
    """What makes the model of a config, its arguments, and whether its BatchNorms average as PyTorch's do."""
    factory, kwargs = resolve(config["name"]), dict(config["kwargs"])
    named = inspect.signature(factory).parameters
    torch_variance = "torch_variance" not in named and bool(kwargs.pop("torch_variance", False))
    check_kwargs(config["name"], factory, kwargs)
    size = "vocabulary" if "vocabulary" in named else "num_classes"
    try:
        check_kwargs("", factory, [size])
        kwargs.setdefault(size, source.num_classes)
    except ValueError:
        pass
    return factory, kwargs, torch_variance


def with_origins(
    jobs: Mapping[str, Job], models: Mapping[str, Model], named: Mapping[str, Any], source: Source
) -> dict[str, Job]:
    """Returns the jobs whose exports tell of the models that the config's `named` {role: {name, kwargs}} made."""
    origins = origins_of({role: (models[role], *_factory(fields, source)[:2]) for role, fields in named.items()})
    return {
        name: dataclasses.replace(job, facts=dataclasses.replace(job.facts, origins=origins))
        for name, job in jobs.items()
    }


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
        repeats=train["repeats"],
        profile=tuple(config.profile),
        tracker=config.tracker,
        rules=rules,
    )


def tenth(steps: int, per_dispatch: int) -> int:
    """Returns the steps between ten evaluations, in whole dispatches: the last may come earlier than the others."""
    size = max(per_dispatch, 1)
    return max(-(-steps // (10 * size)), 1) * size


def as_loaded(teacher: Mapping[str, Any]) -> bool:
    """Tells whether a teacher makes no step from where it starts."""
    return bool(teacher["initial"]["name"]) and not (teacher["train"]["steps"] or teacher["train"]["epochs"])


def ready_teachers(config: ConfigDict, models: Mapping[str, Model], loaded: Collection[str]) -> set[str]:
    """Returns the teachers that need no training: functions, stored answers, those of a checkpoint, those `loaded`.

    Raises ValueError where the caller has the variables of a teacher of which there are only answers.
    """
    teachers = teachers_of(config)
    stored = {name for name in teachers if isinstance(models[name], StoredAnswers)}
    if both := sorted({*loaded} & stored):
        raise ValueError(f"{both[0]}: its variables are given, and there are only answers of it.")
    return {n for n, f in teachers.items() if f.checkpoint or n in loaded or isinstance(models[n], HostModel)} | stored


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
    facts: About = dataclasses.field(default_factory=About)  # what its exports say

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
    stored = {name: m for name in teachers if isinstance(m := models[name], StoredAnswers)}
    for name, model in stored.items():
        sources = with_stored(name, model, sources)
    make = partial(_job, config, directory, extra)
    learning = {name: teacher for name, teacher in teachers.items() if not (name in ready or as_loaded(teacher))}
    jobs = {name: _teacher_job(make, config, name, models[name], teacher_sources[name]) for name in learning}
    train = sources["train"]
    assert train is not None  # only validation may be left out
    asked = asked_once(config, models, train)
    roles, rules = roles_of_student(config, models, asked, train)
    labelled = train.labelled.any()
    if config.baseline and not labelled:
        print("baseline: no training example has a label, so there is nothing to train it on, and it is left out")
    if config.baseline and labelled:
        jobs["baseline"] = _baseline_job(make, config, roles, rules, sources)
    jobs["student"] = _student_job(make, config, models, roles, rules, sources)
    return attach(config, _compared(jobs, stored), asked)


def _compared(jobs: dict[str, Job], stored: Mapping[str, StoredAnswers]) -> dict[str, Job]:
    """The jobs, compared with what teachers have answered; ValueError where the student needs more than there is."""
    for name in (name for name in SHARING if name in jobs):
        job = jobs[name]
        jobs[name] = dataclasses.replace(job, scheme=compared(name, job.scheme, job.sources, stored))
    for name in stored:
        check_pictures(name, jobs["student"])
        check_moved(name, jobs["student"].scheme)
        role = jobs["student"].scheme.roles[name]
        check_use(name, jobs["student"].scheme, role, stored[name].store)
    return jobs


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
    group_optimizers = {} if name in teachers_of(config) else None
    scheme = make_scheme(config, train, terms, roles, sources, build, extra, group_optimizers)
    common = ("prepare", "extra", "task", "summary", "log_every", "eval_every")
    depends = {**depends, **{k: config[k] for k in common}}
    if view_seed is not None:
        depends["view_seed"] = view_seed
    steps = sum(stage.steps for stage in scheme.stages)
    settings = make_settings(config, train, steps, seed, view_seed, rules)
    facts = About(prepare_of(config, train, sources["train"], roles))
    identity = {k: plain(v) for k, v in depends.items()}
    return Job(name, scheme, sources, settings, directory / name, identity, facts=facts)


def _teacher_job(
    make: Callable[..., Job], config: ConfigDict, name: str, model: Model, sources: Mapping[str, Source | None]
) -> Job:
    """A teacher's training on its labels, in which it is the student."""
    teacher = teachers_of(config)[name]
    depends = {"teacher": {k: teacher[k] for k in ("model", "inputs", "preparation", "initial", "seed", "train")}}
    depends["data"] = own_data(config, teacher)
    if teacher.scheme.name:
        depends["teacher"]["scheme"] = teacher.scheme
    train_data = sources["train"]
    assert train_data is not None  # only validation may be left out
    roles = {"student": learning_teacher(name, model, teacher, train_data)}
    rules = {"student": config.mesh.teacher_rules}
    train = {**teacher.train, "labelled_share": 1.0}
    job = make(name, train, None, depends, roles, sources, rules, teacher.seed, build=alone(teacher))
    return dataclasses.replace(job, directory=path_of(teacher.workdir, f"{name}.workdir")) if teacher.workdir else job


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
    seeds = (config.seed, config.view_seed)
    return make("baseline", train, None, depends, roles, sources, rules, *seeds, build=alone(config.teacher))


def alone(teacher: Mapping[str, Any]) -> Callable[[Parts], Scheme]:
    """Returns how teacher and baseline learn the terms of the task: teacher.scheme, or from the data as they are."""
    scheme = teacher["scheme"]
    return partial(call, scheme["name"], **scheme["kwargs"]) if scheme["name"] else offline.build


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
    train = sources["train"]
    assert train is not None  # only validation may be left out
    roles = {**roles, **further_roles(config, models, train)}
    seeds = (config.seed, config.view_seed)
    return make("student", config.train, config.terms, depends, roles, sources, rules, *seeds, build=None)


def _fields_of_student(config: ConfigDict) -> dict[str, Any]:
    return {k: config[k] for k in ("data", "seed", "student", "teacher", "teachers")}
