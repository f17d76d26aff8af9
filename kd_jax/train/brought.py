"""What the caller of a run brings as objects: networks, the parameters of teachers, data."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from flax import nnx
from ml_collections import ConfigDict

from kd_jax.config.fields import settled, teacher_fields, teachers_of
from kd_jax.core.role_preparation import declared
from kd_jax.data.load import SHAPING, replaced
from kd_jax.data.source import Splits
from kd_jax.models.adapters import as_model, name_of
from kd_jax.models.host import HostModel
from kd_jax.system.workdir import plain
from kd_jax.train.found import name_exports
from kd_jax.types import Model

NONE = ({}, {})  # the variables of a network without any


def brought(
    student: Any, teacher: Any, teacher_variables: Any, teachers: Mapping[str, Any]
) -> tuple[dict[str, Model], dict[str, Any]]:
    """Returns (the networks by role as Models, what the caller has of the parameters of teachers, by name)."""
    if not isinstance(teachers, Mapping):
        raise ValueError(f"teachers is {{name: network, or (network, variables)}}, not a {type(teachers).__name__}.")
    pairs = {"student": (student, None), "teacher": (teacher, teacher_variables)}
    for name, value in teachers.items():
        if name in pairs or not (isinstance(name, str) and name.isidentifier()):
            raise ValueError(f"teachers: {name!r} is no name for a further one; student and teacher have arguments.")
        pairs[name] = value if isinstance(value, tuple) and len(value) == 2 else (value, None)
    networks = {name: as_model(network) for name, (network, _) in pairs.items() if network is not None}
    variables = {name: _variables_of(name, *pair) for name, pair in pairs.items()}
    return networks, {name: value for name, value in variables.items() if value is not None}


def _variables_of(name: str, network: Any, value: Any) -> Any:
    """The parameters of a network, which an NNX teacher holds itself; None of what is trained or loaded here."""
    if name == "student":
        check_learns(network)
    if isinstance(network, HostModel):
        if value is not None:
            raise ValueError(f"{name}: host_model(fn) has no parameters, and there are variables for it.")
        return NONE
    return network if isinstance(network, nnx.Module) and value is None and name != "student" else value


def check_learns(student: Any) -> None:
    """Raises ValueError for a student that no step can change."""
    if isinstance(student, HostModel):
        raise ValueError("student: host_model(fn) has no parameters, so that it can teach and cannot learn.")


def note_objects(
    config: ConfigDict, models: Mapping[str, Model], data: Splits | None, handed: Collection[str] = ()
) -> ConfigDict:
    """Returns the settled config, which tells of the models and data given as objects in place of what it names.

    Teachers that are `handed` over with their parameters see the raw arrays unless they, or the config, say otherwise.
    """
    config = config.copy_and_resolve_references()
    with config.unlocked():
        for name in {*models} - {"student", "teacher", *config.teachers}:
            config.teachers[name] = teacher_fields()
    config = settled(config)
    name_exports(config)
    with config.unlocked():
        for role, model in models.items():
            fields = config.teachers[role] if role in config.teachers else config[role]
            fields.model = ConfigDict({"name": name_of(model), "kwargs": {"network": plain(model)}})
            if role in handed and not fields.preparation and not declared(model):
                fields.preparation = ConfigDict({"like": "raw"})
            if isinstance(model, HostModel) and model.cached and not fields.cache.directory:
                fields.cache.directory = "auto"
                print(f"{role}: it runs on the host and is asked once; host_model(fn, cached=False) asks in every step")
        if data is not None:
            train, labelled = data.train, int(data.train.labelled.sum())
            acting = _acting_on_objects(config, train.name)
            config.data = ConfigDict({"name": train.name, **acting})
            config.data.object = f"{len(train)} examples of shape {train.image_shape}, {labelled} with a label"
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
