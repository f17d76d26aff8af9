"""Paths into a step: "student.logits", "teacher.features:stage2@1", "batch.label". Parsed here and nowhere else."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from kd_jax.resolve import near
from kd_jax.types import Outputs

Context = Mapping[str, Any]
STORES = ("batch", "extra", "params", "stats", "memory", "step")  # every other head is the name of a call
_CONNECTOR = "/connector"


@dataclasses.dataclass(frozen=True)
class Path:
    """Where a value of a step is.

    kind        written as                         the value
    "batch"     batch.<owner>[.<rest>]             an entry of the prepared batch
    "extra"     extra.<owner>[.<rest>]             an entry of TrainState.extra
    "memory"    memory[.<owner>.<rest>]            what the term that reads it keeps from step to step
    "params"    params.<owner>[.<rest>]            the parameters of a role ("stats" likewise)
    "step"      step                               the number of the step
    "outputs"   <owner>                            all that a call returned
    "logits"    <owner>.logits[.<rest>]            its main output; `rest` leads into a dict or tuple
    "features"  <owner>.features:<tap>             an intermediate value of it
    "unknown"   <owner>.<rest>                     nothing: `lookup` says what there is

    `at` = i, written "@i" at the end, is part i along axis 1 of the value.
    """

    kind: str
    owner: str = ""
    rest: tuple[str, ...] = ()
    tap: str = ""
    at: int | None = None

    @staticmethod
    @functools.cache
    def parse(text: str) -> Path:
        """Returns the Path that is written so; every text is one, if only of kind "unknown"."""
        whole, sign, number = text.rpartition("@")
        if sign and number.isdigit():
            return dataclasses.replace(Path.parse(whole), at=int(number))
        head, *rest = text.split(".")
        if head in STORES:
            return Path(head, rest[0] if rest else "", tuple(rest[1:]))
        if not rest:
            return Path("outputs", head)
        if rest[0] == "logits":
            return Path("logits", head, tuple(rest[1:]))
        word, _, tap = text[len(head) + 1 :].partition(":")
        if word == "features" and tap:
            return Path("features", head, tap=tap)
        return Path("unknown", head, tuple(rest))

    def __str__(self) -> str:
        head = [self.kind] if self.kind in STORES else []
        kind = {"logits": ["logits"], "features": [f"features:{self.tap}"]}.get(self.kind, [])
        words = [*head, *filter(None, [self.owner]), *kind, *self.rest]
        return ".".join(words) + ("" if self.at is None else f"@{self.at}")

    @property
    def call(self) -> str:
        """Returns the call whose output the path leads to, "" where it leads to something else."""
        return "" if self.kind in STORES else self.owner

    @property
    def connected(self) -> str:
        """Returns the term whose connector's output the path leads to, "" where it leads to something else."""
        return self.call.removesuffix(_CONNECTOR) if self.call.endswith(_CONNECTOR) else ""

    def within(self, name: str) -> Path:
        """Returns the path to the same entry of the batch inside its entry `name`; other paths as they are."""
        return dataclasses.replace(self, owner=name, rest=(self.owner, *self.rest)) if self.kind == "batch" else self


def connector_of(term: str) -> str:
    """Returns the name of the role, and of the call, of a term's connector."""
    return term + _CONNECTOR


def calls_in(paths: Iterable[str]) -> set[str]:
    """Returns the calls whose outputs the paths lead to."""
    return {call for path in paths if (call := Path.parse(path).call)}


def taps_in(call: str, paths: Iterable[str]) -> tuple[str, ...]:
    """Returns the taps of the network called `call` among the paths."""
    return tuple(sorted({p.tap for p in map(Path.parse, paths) if p.kind == "features" and p.owner == call}))


def roles_read(paths: Iterable[str]) -> tuple[str, ...]:
    """Returns the roles of which the paths take parameters ("params.base"), in order."""
    return tuple(dict.fromkeys(p.owner for p in map(Path.parse, paths) if p.kind == "params"))


def variables_of(role: str, paths: Iterable[str]) -> list[str]:
    """Returns those of the paths that lead to the parameters or the stats of a role."""
    return [str(p) for p in map(Path.parse, paths) if p.kind in ("params", "stats") and p.owner == role]


def entry_paths(entry: str) -> tuple[str, ...]:
    """Returns the paths of an entry of Scheme.evaluate: "a+b.logits@0" -> ("a.logits", "b.logits@0")."""
    parts = map(Path.parse, entry.split("+"))
    return tuple(str(dataclasses.replace(p, kind="logits") if p.kind == "outputs" else p) for p in parts)


def lookup(context: Context, path: str) -> Any:
    """Returns the value at `path`. Raises ValueError that lists what exists otherwise."""
    where = Path.parse(path)
    head = where.call or where.kind
    if head not in context:
        raise ValueError(f"Path {path!r}: no {head!r} in this step. {near(head, context)}")
    value = context[head]
    if where.call and where.kind != "outputs":
        value = _output(value, where, path)
    for name in where.rest if where.call else [*filter(None, [where.owner]), *where.rest]:
        value = _inside(value, name, path)
    return value if where.at is None else _part(value, where, where.at, path)


def _output(outputs: Outputs, where: Path, path: str) -> Any:
    if where.kind == "logits":
        return outputs.logits
    if where.kind == "unknown":
        raise ValueError(
            f"Path {path!r}: a network has '{where.owner}.logits' and '{where.owner}.features:<tap>', not "
            f"{'.'.join(where.rest)!r}; '@0' at the end is the first of several along axis 1."
        )
    if where.tap not in outputs.features:
        raise ValueError(f"Path {path!r}: no tap {where.tap!r}. {near(where.tap, outputs.features)}")
    return outputs.features[where.tap]


def _inside(value: Any, name: str, path: str) -> Any:
    """Entry `name` of a mapping, or, where it is a number, of a tuple."""
    if isinstance(value, Sequence) and name.isdigit() and int(name) < len(value):
        return value[int(name)]
    if not isinstance(value, Mapping) or name not in value:
        exists = value if isinstance(value, Mapping) else ()
        raise ValueError(f"Path {path!r}: no {name!r} there. {near(name, exists)}")
    return value[name]


def _part(value: Any, where: Path, at: int, path: str) -> Any:
    shape, whole = jnp.shape(value), str(dataclasses.replace(where, at=None))
    if len(shape) < 2 or at >= shape[1]:
        raise ValueError(f"Path {path!r}: {whole!r} has shape {shape}, and @i is one of the {shape[1:2]} along axis 1.")
    if isinstance(value, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct((shape[0], *shape[2:]), value.dtype)
    return value[:, at]
