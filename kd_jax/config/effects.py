"""Fields that cannot act, because of another field, are refused before anything is loaded.

Every function that checks raises ValueError that names both. What needs the data or the networks to be known is checked
in train/effect.py and train/used.py; which fields of config.data act on which data, in data/load.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from kd_jax.resolve import near

_NAMELESS = ("task", "model")  # the task of the data takes kwargs; a config without a teacher may keep its model's
# Whose names the user chooses; load.py knows the fields of data, and a function of the user may read others.
_FREE = (
    "kwargs",
    "terms",
    "teachers",
    "roles",
    "optimizers",
    "views",
    "axes",
    "data",
    "scores",
    "recipe",
    "preparation",
    "measure_kwargs",
)
# Of a teacher: they need a network.
_UNTAUGHT = ("checkpoint", "workdir", "min_accuracy", "calibrate", "dtype", "preparation")


def check_names(where: str, config: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuses a field that `defaults` lack: nothing would read it. A ConfigDict takes any name that Python assigns."""
    for key, value in config.items():
        if key not in defaults:
            below = sorted((p for p in _paths(defaults) if p.endswith(f".{key}")), key=len)
            hint = f"Did you mean {where}.{below[0]}?" if below else near(key, defaults)
            raise ValueError(f"{where} has no field {key!r}. {hint}")
        if key not in _FREE and hasattr(value, "items") and hasattr(defaults[key], "items"):
            check_names(f"{where}.{key}", value, defaults[key])


def _paths(fields: Mapping[str, Any]) -> list[str]:
    """The paths of all fields: "train", "train.optimizer", ..."""
    inner = {key: _paths(value) for key, value in fields.items() if hasattr(value, "items")}
    return [*fields, *(f"{key}.{path}" for key, paths in inner.items() for path in paths)]


def tell_parts(config: Mapping[str, Any], path: str = "config") -> None:
    """Says which parts have kwargs and name nothing: no error, since an empty name switches off what a file names."""
    for key, value in config.items():
        if not hasattr(value, "items"):
            continue
        where = f"{path}.{key}"
        if {"name", "kwargs"} <= {*value.keys()} and not value["name"] and value["kwargs"] and key not in _NAMELESS:
            print(f"{where}.kwargs={dict(value['kwargs'])} have no effect: {where}.name is ''")
        tell_parts(value, where)


def check_optimizer(where: str, fields: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuses what the schedule of an optimizer does not read, and a rate or decay that is told twice or does nothing.

    `fields` are those of the user, before core.optimizers.with_defaults moves the decay to the kwargs.
    """
    if fields["schedule"] != "step":
        for key in ("boundaries", "decay"):
            value, default = fields[key], defaults[key]
            if (tuple(value) if isinstance(default, tuple) else value) != default:
                raise ValueError(
                    f"{where}.{key}={value} is of the schedule 'step', and {where}.schedule is {fields['schedule']!r}."
                )
    if "learning_rate" in fields["kwargs"]:
        raise ValueError(f"{where}.kwargs.learning_rate: the learning rate is {where}.learning_rate.")
    inside, decay = fields["kwargs"].get("weight_decay"), fields["weight_decay"]
    if inside is not None and decay not in (0.0, defaults["weight_decay"], inside):
        raise ValueError(
            f"{where}.weight_decay={decay} and {where}.kwargs.weight_decay={inside} are one number: give one of them."
        )
    if fields["decay_pattern"] != ".*" and not decay and not inside:
        raise ValueError(f"{where}.decay_pattern={fields['decay_pattern']!r} has no effect: weight_decay is 0.")


def check_teacher(name: str, teacher: ConfigDict, defaults: ConfigDict, handed_over: bool = False) -> None:
    """Refuses fields of a teacher of which only one can count, and those of a cache that there is not."""
    where = f"config.{name}"
    if not teacher.model.name:
        _check_absent(where, teacher, handed_over)
        return
    _check_ready(where, teacher, defaults, handed_over)
    if teacher.train.labelled_share not in (defaults.train.labelled_share, 1.0):
        raise ValueError(
            f"{where}.train.labelled_share={teacher.train.labelled_share} has no effect: a teacher learns from "
            "labelled examples alone."
        )
    for view in teacher.train.views:
        if f"batch.{view}" not in teacher.inputs:
            raise ValueError(f"{where}.train.views.{view}: the {name} reads {tuple(teacher.inputs)}, not batch.{view}.")
    _check_cache(where, teacher.cache, defaults.cache)
    if teacher.calibrate and teacher.cache.directory:
        raise ValueError(
            f"{where}.calibrate=True: the answers of {where}.cache.directory are stored before a temperature is chosen."
        )
    if teacher.mode == "train" and teacher.cache.directory:
        raise ValueError(f"{where}.mode='train': its answers depend on the batch, and {where}.cache.directory is set.")


def _check_absent(where: str, teacher: ConfigDict, handed_over: bool) -> None:
    """Refuses what needs a network, of a teacher without one."""
    named = [f for f in _UNTAUGHT if teacher[f]] + [f for f in ("initial",) if teacher[f].name]
    if named or handed_over:
        what = f"{where}.{named[0]} is set" if named else "teacher_variables are given"
        raise ValueError(f"{what}, and there is no teacher: {where}.model.name is ''.")


def _check_ready(where: str, teacher: ConfigDict, defaults: ConfigDict, handed_over: bool) -> None:
    """Refuses what says twice where the parameters of a teacher come from, and fields of one that is trained here."""
    source = "teacher_variables" if handed_over else f"{where}.checkpoint" if teacher.checkpoint else ""
    if not source:
        return
    if handed_over and teacher.checkpoint:
        raise ValueError(f"teacher_variables and {where}.checkpoint both are the teacher's parameters: give one.")
    if teacher.initial.name:
        raise ValueError(f"{source} and {where}.initial both say what the teacher starts from: give one.")
    if teacher.scheme.name:
        raise ValueError(f"{where}.scheme is how a teacher is trained by this run, and {source} is given.")
    if teacher.use != defaults.use:
        raise ValueError(f"{where}.use={teacher.use!r} is of a teacher that this run trains, and {source} is given.")
    if teacher.workdir and teacher.cache.directory != "auto":
        raise ValueError(f"{where}.workdir is where a teacher is trained, and {source} is given.")


def _check_cache(where: str, cache: ConfigDict, defaults: ConfigDict) -> None:
    for key, default in defaults.items():
        value = tuple(cache[key]) if isinstance(default, tuple) else cache[key]
        if not cache.directory and value != default:
            raise ValueError(f"{where}.cache.{key}={value!r} has no effect: {where}.cache.directory is ''.")
    if cache.directory and not cache.k and cache.temperature != defaults.temperature:
        raise ValueError(
            f"{where}.cache.temperature={cache.temperature} is of the k largest, and {where}.cache.k=0 stores all."
        )


def check_student(config: ConfigDict, defaults: ConfigDict) -> None:
    """Refuses modules to compute again without a policy, and addresses of processes that are not started."""
    remat, distributed = config.student.remat, config.distributed
    cached = [
        name for name, teacher in {"teacher": config.teacher, **config.teachers}.items() if teacher.cache.directory
    ]
    if config.train.repeats > 1 and cached:
        raise ValueError(
            f"config.train.repeats={config.train.repeats}: a cache counts the views of an example one a batch, and "
            f"config.{cached[0]}.cache.directory is set."
        )
    if not remat.policy and remat.modules != defaults.student.remat.modules:
        raise ValueError(
            f"config.student.remat.modules={remat.modules!r} has no effect: config.student.remat.policy is ''."
        )
    for key, default in defaults.distributed.items():
        if not distributed.enabled and distributed[key] != default:
            raise ValueError(
                f"config.distributed.{key}={distributed[key]!r} has no effect: config.distributed.enabled is False."
            )
