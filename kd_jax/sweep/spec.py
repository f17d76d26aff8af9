"""What a sweep varies: "seed=0,1,2;terms.kd.weight=0.5,0.9" as fields and their values, or ranges to search in."""

from __future__ import annotations

import ast
import dataclasses
import itertools
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from kd_jax.config.files import add_field, check_field, execute, may_be_new
from kd_jax.files import path_of
from kd_jax.resolve import near

KINDS = ("log", "uniform", "int")
EXAMPLE = '--sweep="seed=0,1,2;terms.kd.kwargs.temperature=1,2,4;train.optimizer.learning_rate=0.05,0.1"'
Point = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included: "log" (uniform in the logarithm), "uniform" or "int"."""

    kind: str
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Spec:
    """`choices` has the values of each field; `ranges` the fields that only a search can vary."""

    choices: Mapping[str, tuple[Any, ...]]
    ranges: Mapping[str, Range]

    @property
    def fields(self) -> tuple[str, ...]:
        """Returns the names of all fields that vary, those with choices first."""
        return (*self.choices, *self.ranges)

    def grid(self) -> list[Point]:
        """Returns every combination of the choices, the last field varying fastest."""
        return [dict(zip(self.choices, values, strict=True)) for values in itertools.product(*self.choices.values())]


def parse(text: str) -> Spec:
    """Returns the spec of "field=value,value;field=log:1e-3..1e-1", or of the dict SWEEP of a Python file.

    Values are Python literals, anything else a string. Raises ValueError for text that is neither.
    """
    items = _from_file(path_of(text.strip(), "--sweep")) if text.strip().endswith(".py") else _from_text(text)
    if not items:
        raise ValueError(f"--sweep varies nothing. For example: {EXAMPLE}")
    choices: dict[str, tuple[Any, ...]] = {}
    ranges: dict[str, Range] = {}
    for field, values in items.items():
        field = field.removeprefix("config.")
        if isinstance(values, str) and (kind := re.match(r"(\w+):(?=[^,]*\.\.)", values)):
            ranges[field] = _range(field, kind[1], values[kind.end() :])
            continue
        options = _literals(values) if isinstance(values, str) else tuple(values)
        if repeated := [v for i, v in enumerate(options) if v in options[:i]]:
            raise ValueError(f"--sweep: {field!r} has the value {repeated[0]!r} twice.")
        choices[field] = options
    return Spec(choices, ranges)


def _from_text(text: str) -> dict[str, str]:
    items: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in re.split(r"[;\n]", text))):
        field, equals, values = (p.strip() for p in part.partition("="))
        if not equals or not field or not values:
            raise ValueError(f"--sweep: {part!r} is not field=value,value. For example: {EXAMPLE}")
        if field in items:
            raise ValueError(f"--sweep names {field!r} twice.")
        items[field] = values
    return items


def _from_file(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"--sweep: there is no file {str(path)!r}.")
    module = execute(path, "the file of a --sweep")
    if not isinstance(getattr(module, "SWEEP", None), Mapping):
        raise ValueError(f'{path} defines no dict SWEEP, such as SWEEP = {{"seed": (0, 1, 2)}}.')
    for field, values in module.SWEEP.items():
        if not isinstance(values, (str, list, tuple)) or not values:
            raise ValueError(f"{path}: SWEEP[{field!r}] is a list of values or a text such as 'log:1e-3..1e-1'.")
    return dict(module.SWEEP)


def _literals(text: str) -> tuple[Any, ...]:
    """Returns the values of "1,2.5,(3,4),name": commas inside brackets or quotes do not separate."""
    parts, depth, quote = [""], 0, ""
    for c in text:
        quote = "" if c == quote else c if c in "'\"" and not quote else quote
        depth += (c in "([{") - (c in ")]}")
        if c == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += c
    if not all(part.strip() for part in parts):
        raise ValueError(f"--sweep: a value is missing in {text!r}.")
    return tuple(map(_literal, parts))


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return text.strip()


def _range(field: str, kind: str, text: str) -> Range:
    if kind not in KINDS:
        raise ValueError(f"--sweep: {field!r} has a range of kind {kind!r}. {near(kind, KINDS)}")
    low, _, high = text.partition("..")
    try:
        interval = Range(kind, float(low), float(high))
    except ValueError as e:
        raise ValueError(f"--sweep: {field}={kind}:{text} is not {kind}:LOW..HIGH, two numbers.") from e
    if not (math.isfinite(interval.low) and interval.low < interval.high < math.inf) or (
        kind == "log" and interval.low <= 0
    ):
        raise ValueError(f"--sweep: {field}={kind}:{text}: LOW is below HIGH, and above 0 on a logarithmic scale.")
    return interval


def apply(config: ConfigDict, point: Mapping[str, Any]) -> ConfigDict:
    """Returns a copy of the config with the values of the point.

    Raises ValueError for a field that is not there, with the near names, and for a value of another type.
    """
    config = config.copy_and_resolve_references()
    for field, value in point.items():
        *parents, last = field.split(".")
        if may_be_new(config, [*parents, last]):  # an argument that the config leaves to its default
            add_field(config, [*parents, last], value)
            continue
        check_field(config, [*parents, last])
        owner = config
        for name in parents:
            owner = owner[name]
        if isinstance(owner[last], float) and isinstance(value, int):
            value = float(value)
        try:
            owner[last] = value
        except TypeError as e:
            raise ValueError(f"--sweep: {field}={value!r}: {e}") from e
    return config
