"""A term as a config writes it: `term` fills in what is not said, `kd_term` and `supervised` are the two commonest."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from kd_jax.resolve import near

Terms = dict[str, Any]
KD = "losses.response.kd_loss"


def part(name: str = "", **kwargs: Any) -> dict[str, Any]:
    """Returns a schedule, connector, scheme, ... as a config writes it: {name, kwargs}; "" for none."""
    return {"name": name, "kwargs": kwargs}


def term(
    fn: str,
    inputs: Sequence[str],
    targets: Sequence[str] = (),
    *,
    weight: float = 1.0,
    kwargs: Mapping[str, Any] | None = None,
    options: Mapping[str, str] | None = None,
    where: str = "",
    connector: Mapping[str, Any] | None = None,
    schedule: Mapping[str, Any] | None = None,
    memory: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Returns a term with all its fields, which are those of kd_jax.types.Term; `schedule` multiplies the weight.

    A connector has an `initial` too, {name, kwargs} as that of a network: where it starts, instead of at random.
    """
    fields = dict(
        fn=fn,
        inputs=tuple(inputs),
        targets=tuple(targets),
        weight=float(weight),
        kwargs=dict(kwargs or {}),
        options=dict(options or {}),
        where=where,
        connector=part() | {"initial": part()} | dict(connector or {}),
        schedule=part() | dict(schedule or {}),
        memory=part() | dict(memory or {}),
    )
    return copy.deepcopy(fields)  # or overriding one term's connector would change its neighbour's


def filled(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the term called `name` with all its fields; `fn` and `inputs` are enough.

    Raises ValueError for a field that no term has, naming what was probably meant, and where one of the two is missing.
    """
    if not re.fullmatch(r"[\w-]+", name):
        raise ValueError(f"Term {name!r}: the name of a term is letters, digits, _ and -, since paths hold it.")
    if not hasattr(fields, "keys"):
        raise ValueError(f"Term {name!r} is {fields!r}, not a mapping such as {{'fn': '{KD}', 'inputs': (...)}}.")
    expected = inspect.signature(term).parameters
    for field in fields.keys():
        if field not in expected:
            raise ValueError(f"Term {name!r} has no field {field!r}. {near(field, expected)}")
    if missing := [field for field in ("fn", "inputs") if field not in fields]:
        raise ValueError(f"Term {name!r} lacks {' and '.join(missing)}: fn is a loss, inputs are paths of the student.")
    for field in ("inputs", "targets"):
        if isinstance(fields.get(field, ()), str):
            raise ValueError(f"Term {name!r}: {field} are several paths, ({fields[field]!r},), not one string.")
    for field in ("connector", "schedule", "memory"):
        if isinstance(fields.get(field), str):
            raise ValueError(
                f"Term {name!r}: {field} is {{'name': 'module.function', 'kwargs': {{...}}}}, not {fields[field]!r}."
            )
    return term(**{**fields, "weight": weight_of(name, fields)})


def weight_of(name: str, fields: Mapping[str, Any]) -> float:
    """Returns the weight of the term called `name`, 1 where it says none; raises ValueError for what is no number."""
    try:
        return float(fields.get("weight", 1.0))
    except (TypeError, ValueError) as e:
        raise ValueError(
            f"Term {name!r}: weight is a number, not {fields['weight']!r}; `schedule` changes it over the run."
        ) from e


def supervised(weight: float = 1.0) -> Terms:
    """Returns the cross-entropy on the labelled examples.

    `batch.target` is the label, or the mixture of two after mixup.
    """
    fn = "losses.task.cross_entropy_loss"
    return {"ce": term(fn, ("student.logits",), ("batch.target",), weight=weight, where="batch.labelled")}


def kd_term(
    weight: float = 0.9,
    temperature: float = 4.0,
    *,
    inputs: Sequence[str] = ("student.logits",),
    targets: Sequence[str] = ("teacher.logits",),
    where: str = "",
) -> dict[str, Any]:
    """Returns the term weight * T^2 KL(teacher, student) at temperature T."""
    return term(KD, inputs, targets, weight=weight, kwargs={"temperature": float(temperature)}, where=where)


def response(weight: float = 0.9, temperature: float = 4.0, ce: float = 0.1, **paths: Any) -> Terms:
    """Returns ce * cross-entropy (left out at 0) + weight * T^2 KL(teacher, student); `paths` are those of kd_term."""
    return {**(supervised(ce) if ce else {}), "kd": kd_term(weight, temperature, **paths)}


def features(side: str, taps: Sequence[str]) -> tuple[str, ...]:
    """Returns the paths of the taps of one network: ("student.features:stage1", ...)."""
    return tuple(f"{side}.features:{tap}" for tap in taps)


def whole_terms(terms: Mapping[str, Any]) -> ConfigDict:
    """Returns the terms with all their fields; one that says at most a weight is the task's of this name.

    Raises ValueError for any other without `fn`.
    """
    of_task = {name: fields for name, fields in terms.items() if hasattr(fields, "keys") and {*fields} <= {"weight"}}
    whole = {name: filled(name, fields) for name, fields in terms.items() if name not in of_task}
    weights = {name: {"weight": weight_of(name, fields)} for name, fields in of_task.items()}
    return ConfigDict({name: (whole | weights)[name] for name in terms})
