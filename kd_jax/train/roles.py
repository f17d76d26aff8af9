"""From a config to the roles of a training: what each network reads, and what it is shown of a picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from ml_collections import ConfigDict

from kd_jax.cache.attach import stand_in
from kd_jax.cache.model import Store
from kd_jax.cache.stored import StoredAnswers, role_of
from kd_jax.config.fields import teachers_of
from kd_jax.core.role_preparation import role_preparation
from kd_jax.data.source import Source
from kd_jax.models.remat import Remat
from kd_jax.system import parallel, precision
from kd_jax.train.answered import check_unneeded
from kd_jax.types import Model, Role

CLEAN = "teacher_image"  # the picture without augmentation, where a teacher sees that
HANDED = "it was handed over; preparation.like='data' shows it what the data are normalised to"


def shown(
    role: Role, name: str, fields: Mapping[str, Any], source: Source, views: Collection[str], place: str = ""
) -> Role:
    """Returns the role with what its `preparation` says that it is shown of the pictures of a source."""
    why = HANDED if dict(fields["preparation"]) == {"like": "raw"} else ""
    preparation = role_preparation(name, fields["preparation"], role.model, source, role.inputs, views, place, why)
    return (
        role
        if preparation is None
        else dataclasses.replace(role, preparation=preparation, inputs=preparation.inputs(role.inputs))
    )


def teacher_role(model: Model, config: ConfigDict) -> Role:
    """Returns the frozen role of a teacher in the student's run."""
    if config.view not in ("same", "clean"):
        raise ValueError(f"teacher.view is 'same' or 'clean', not {config.view!r}.")
    precision.check_dtype(config.dtype, "teacher.dtype")
    if config.mode not in ("eval", "train"):
        raise ValueError(f"teacher.mode is 'eval' or 'train', not {config.mode!r}.")
    clean = {"batch.image": f"batch.{CLEAN}"} if config.view == "clean" else {}
    inputs = tuple(clean.get(p, p) for p in config.inputs)
    return Role(model, inputs, dtype=config.dtype or None, training=config.mode == "train")


def learning_teacher(name: str, model: Model, fields: ConfigDict, source: Source) -> Role:
    """Returns the role of a teacher in its own training, in which it is the student."""
    role = Role(model, tuple(fields.inputs), group="student")
    return shown(role, name, fields, source, fields.train.views, _place(name))


def asked_once(config: ConfigDict, models: Mapping[str, Model], source: Source) -> dict[str, tuple[Role, Role, Store]]:
    """Returns {teacher: (its role, the role that stands in for it, what is stored of it)} of those that are cached."""
    for name, teacher in teachers_of(config).items():
        if isinstance(models[name], StoredAnswers):
            check_unneeded(name, teacher)
    cached = {name: teacher for name, teacher in teachers_of(config).items() if teacher.cache.directory}
    frozen = {name: _frozen(name, models[name], teacher, config, source) for name, teacher in cached.items()}
    return {name: (role, *stand_in(name, role, config)) for name, role in frozen.items()}


def roles_of_student(
    config: ConfigDict,
    models: Mapping[str, Model],
    asked: Mapping[str, tuple[Role, Role, Store]],
    source: Source,
) -> tuple[dict[str, Role], dict[str, Any]]:
    """Returns the roles of the student's run, the student first, and the sharding rules of those with parameters."""
    remat, network = config.student.remat, models["student"]
    network = Remat(network, remat.modules, remat.policy) if remat.policy else network
    student = Role(network, tuple(config.student.inputs), group="student")
    roles = {"student": shown(student, "student", config.student, source, config.train.views)}
    rules: dict[str, Any] = {"student": config.mesh.student_rules}
    for name, teacher in teachers_of(config).items():
        if name in asked:
            roles[name] = asked[name][1]
        elif isinstance(model := models[name], StoredAnswers):
            roles[name] = role_of(name, model, teacher_role(model, teacher), source.num_classes)
        else:
            roles[name] = _frozen(name, models[name], teacher, config, source)
            rules[name] = config.mesh.teacher_rules
    return roles, rules


def further_roles(config: ConfigDict, models: Mapping[str, Model], source: Source) -> dict[str, Role]:
    """Returns the roles of config.roles."""
    made = {}
    for name, fields in config.roles.items():
        group, initial = fields["group"] or name, fields["initial"] or None
        role = Role(models[name], tuple(fields["inputs"]), group, initial)
        made[name] = shown(role, name, fields, source, config.train.views, "roles.")
    return made


def _frozen(name: str, model: Model, fields: ConfigDict, config: ConfigDict, source: Source) -> Role:
    return shown(teacher_role(model, fields), name, fields, source, {*config.train.views, CLEAN}, _place(name))


def tell_what_is_seen(roles: Mapping[str, Role]) -> None:
    """Prints a line for each network of the student's run that reads pictures: what it is shown of them."""
    if parallel.is_lead():
        for name, role in roles.items():
            if role.preparation is not None and role.preparation.role == name:
                print(f"{name} sees: {role.preparation.text()}")


def _place(name: str) -> str:
    return "" if name == "teacher" else "teachers."
