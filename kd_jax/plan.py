"""From a config to the trainings of a run (teacher, baseline, student), checked against the shapes of the data."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from kd_jax import knowledge, optim, parallel
from kd_jax.config import own_data
from kd_jax.data import augment
from kd_jax.data.batches import train_batches
from kd_jax.data.source import Source, Splits
from kd_jax.evaluate import role_variables
from kd_jax.loop import Settings
from kd_jax.models.adapters import as_model, name_of
from kd_jax.presets import supervised
from kd_jax.resolve import call, check_kwargs, resolve
from kd_jax.state import bind, init_state, loaded_variables
from kd_jax.types import Model, Role, Scheme, TrainState
from kd_jax.workdir import plain


def make_model(config: Mapping[str, Any], source: Source) -> Model:
    """The model that a config names; `num_classes` comes from the data unless the config sets it."""
    factory, kwargs = resolve(config["name"]), dict(config["kwargs"])
    check_kwargs(config["name"], factory, kwargs)
    try:
        check_kwargs("", factory, ["num_classes"])
        kwargs.setdefault("num_classes", source.num_classes)
    except ValueError:
        pass
    return as_model(factory(**kwargs))


def note_given(config: ConfigDict, models: Mapping[str, Model], data: Splits | None) -> ConfigDict:
    """A copy of the config that tells of the models and data that were given as objects, in place of what it names."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        for role, model in models.items():
            config[role].model = ConfigDict({"name": name_of(model), "kwargs": {"given": plain(model)}})
        if data is not None:
            train, labelled = data.train, int(data.train.labelled.sum())
            config.data = ConfigDict({"name": train.name})
            config.data.given = f"{len(train)} examples of shape {train.image_shape}, {labelled} with a label"
            config.teacher.data = ConfigDict()
    return config


def num_steps(config: Mapping[str, Any], examples: int) -> int:
    if min(config["steps"], config["epochs"]) < 0 or bool(config["steps"]) == bool(config["epochs"]):
        raise ValueError(
            f"Give either train.steps or train.epochs, not steps={config['steps']}, epochs={config['epochs']}."
        )
    return config["steps"] or math.ceil(config["epochs"] * examples / config["batch_size"])


def prepare_fn(config: Mapping[str, Any], source: Source, view: str = "same"):
    """batch -> the batch that the networks see.

    `target` is the label, or [B, classes] probabilities after mixup or cutmix; with view "clean" there is also
    `teacher_image`, without augmentation.
    """
    view_of = functools.partial(augment.prepare, mean=source.mean, std=source.std)
    ops = tuple(config["augment"])

    def prepare(batch: Mapping[str, jax.Array], key: jax.Array, train: bool) -> Mapping[str, jax.Array]:
        seen = view_of(batch, key, train, augment=ops)
        seen["target"] = seen["label"]
        if "mix_label" in seen:
            if view == "clean":
                raise ValueError("teacher.view='clean' shows the teacher one image, mixup and cutmix the student two.")
            one, other = (jax.nn.one_hot(seen[k], source.num_classes) for k in ("label", "mix_label"))
            weight = seen["mix_weight"][:, None]
            seen["target"] = weight * one + (1 - weight) * other
        return {**seen, "teacher_image": view_of(batch, key, False)["image"]} if view == "clean" else seen

    return prepare


def make_scheme(
    config: ConfigDict,
    train: Mapping[str, Any],
    terms: Mapping,
    roles: Mapping[str, Role],
    source: Source,
    scheme: str = "",
) -> Scheme:
    """The scheme (config.scheme if none is named) with terms, optimizer and view of the data; nothing is run yet."""
    if config.teacher.view not in ("same", "clean"):
        raise ValueError(f"teacher.view is 'same' or 'clean', not {config.teacher.view!r}.")
    try:
        jnp.dtype(config.teacher.dtype or "float32")
    except TypeError as e:
        raise ValueError(f"teacher.dtype is a type such as 'bfloat16', not {config.teacher.dtype!r}.") from e
    clean = config.teacher.view == "clean"
    steps = num_steps(train, len(source))
    built = call(
        scheme or config.scheme,
        roles,
        knowledge.make_terms(terms, steps, len(source)),
        lambda count: optim.make_optimizer(train["optimizer"], count),
        steps,
        teacher_input="batch.teacher_image" if clean else "batch.image",
    )
    return dataclasses.replace(built, prepare=built.prepare or prepare_fn(train, source, config.teacher.view))


def make_settings(config: ConfigDict, train: Mapping[str, Any], seed: int, rules: Mapping[str, Any]) -> Settings:
    return Settings(
        batch_size=train["batch_size"], seed=seed, log_every=config.log_every, eval_every=config.eval_every,
        eval_batch_size=config.eval_batch_size, labelled_share=train["labelled_share"], keep=config.keep,
        workers=config.workers, rules=rules,
    )  # fmt: skip


@dataclasses.dataclass
class Job:
    """One of the trainings of a run: teacher, baseline or student."""

    name: str
    scheme: Scheme
    source: Source
    settings: Settings
    directory: Path
    config: dict[str, Any]  # what it depends on: the same config resumes, another is refused


def plan(
    config: ConfigDict, directory: Path, models: Mapping[str, Model], student_data: Source, teacher_data: Source
) -> dict[str, Job]:
    """The trainings of a run in order: the teacher on its labels, the student without and with the teacher.

    The baseline makes as many steps as the student, on the labelled examples only.
    """
    if not config.terms:
        raise ValueError("config.terms is empty: knowledge.compose('response') fills it.")
    jobs: dict[str, Job] = {}

    def add(name: str, train: Any, terms: Any, about: Any, *, roles: Any, data: Source, seed: int, rules: Any) -> None:
        kind = config.scheme if name == "student" else "schemes.offline.build"
        scheme = make_scheme(config, train, terms, roles, data, kind)
        about = about | {"log_every": config.log_every, "eval_every": config.eval_every}
        settings = make_settings(config, train, seed, rules)
        jobs[name] = Job(name, scheme, data, settings, directory / name, {k: plain(v) for k, v in about.items()})

    train = {**config.teacher.train, "labelled_share": 1.0}
    about = {"teacher": {k: config.teacher[k] for k in ("model", "seed", "train")}, "data": own_data(config)}
    alone, rules = {"student": Role(models["teacher"], group="student")}, {"student": config.mesh.teacher_rules}
    add("teacher", train, supervised(), about, roles=alone, data=teacher_data, seed=config.teacher.seed, rules=rules)
    if config.teacher.workdir:
        jobs["teacher"].directory = Path(config.teacher.workdir)

    student = Role(models["student"], group="student")
    frozen = Role(models["teacher"], dtype=config.teacher.dtype or None)
    rules = {"student": config.mesh.student_rules, "teacher": config.mesh.teacher_rules}
    roles = {"student": student, "teacher": frozen}
    shared = {"roles": roles, "data": student_data, "seed": config.seed, "rules": rules}
    about = {k: config[k] for k in ("data", "seed", "student", "teacher")}
    if config.baseline:
        train = {**config.train, "labelled_share": 1.0}
        add("baseline", train, supervised(), about | {"train": train}, **shared)
    about |= {k: config[k] for k in ("train", "terms", "scheme")}
    add("student", config.train, config.terms, about, **shared)
    return jobs


def check(job: Job, batch: Mapping[str, Any], mesh: Mesh) -> None:
    """Raises ValueError for all that can be known to fail before a step is made; nothing is computed or written.

    Paths, taps and shapes, the number of classes, the batch against data and mesh, sharding rules.
    """
    settings = job.settings
    for field in ("batch_size", "eval_batch_size", "log_every", "eval_every"):
        if getattr(settings, field) < 1:
            raise ValueError(f"{job.name}: {field} is {getattr(settings, field)}; it must be at least 1.")
        if field.endswith("size"):
            parallel.check_batch_size(mesh, getattr(settings, field), f"{job.name}'s {field}")
    train_batches(  # checks what it is given, and reads nothing for no steps
        job.source, batch_size=settings.batch_size, seed=settings.seed, num_steps=0,
        sharding=parallel.batch_sharding(mesh), labelled_share=settings.labelled_share,
    )  # fmt: skip
    scheme, inputs = bind(job.scheme, batch)
    state = jax.eval_shape(lambda key: init_state(scheme, inputs, key, loaded_variables(scheme)), jax.random.key(0))
    _check_classes(job, scheme, inputs, state)
    parallel.check_roles(settings.rules, scheme)
    parallel.state_shardings(state, settings.rules, mesh)


def _check_classes(job: Job, scheme: Scheme, inputs: Mapping[str, tuple], state: TrainState) -> None:
    """Every evaluated network, and the teacher, must have one logit a class of the data."""
    for name in {*scheme.evaluate, *([scheme.reference] if scheme.reference else [])}:
        infer = functools.partial(scheme.roles[name].model.apply, train=False, key=jax.random.key(0))
        outputs, _ = jax.eval_shape(infer, *role_variables(state, scheme, name), *inputs[name])
        shape = jax.tree.map(jnp.shape, outputs.logits)
        called = "teacher" if job.name == "teacher" else name
        if len(shape) != 2 or not isinstance(shape[0], int):
            raise ValueError(f"The output of the {called} has shape {shape}; a classifier's is [batch, classes].")
        if shape[1] != job.source.num_classes:
            raise ValueError(
                f"The {called} has {shape[1]} classes, {job.source.name} has {job.source.num_classes}. "
                f"Set config.{called}.model.kwargs.num_classes, or take a checkpoint that was trained on this data."
            )
