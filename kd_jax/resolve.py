"""From a name in a config to the object: "losses.response.kd_loss" (inside kd_jax) or "their_pkg.module:function"."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from kd_jax.ranges import check_numbers, ranges_of


def near(name: str, names: Iterable[str], limit: int = 12) -> str:
    """Returns the tail of an error message: the `names` that were probably meant, or the first few if none is close."""
    names = sorted(set(names))
    close = difflib.get_close_matches(name, names, n=4, cutoff=0.5)
    if close:
        more = f" (There are {len(names)} names in all.)" if len(names) > len(close) else ""
        return f"Did you mean {' or '.join(repr(n) for n in close)}?{more}"
    shown = ", ".join(names[:limit]) + (f", ... ({len(names)} in all)" if len(names) > limit else "")
    return f"There is: {shown}." if names else "There is nothing to choose from."


def _public(module: ModuleType) -> list[str]:
    names = [n for n, v in vars(module).items() if not n.startswith("_") and callable(v)]
    return names + [m.name for m in pkgutil.iter_modules(getattr(module, "__path__", []))]


def _module(name: str, full: str) -> ModuleType:
    """Imports `name`; if a part of the path does not exist, says which and what stands in its place."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as e:
        if e.name is None or not (name == e.name or name.startswith(e.name + ".")):
            raise  # the module exists and fails on an import of its own
        parent, _, missing = e.name.rpartition(".")
        hint = near(missing, _public(importlib.import_module(parent))) if parent else "Is it installed and on the path?"
        raise ValueError(f"{full!r}: no module {e.name!r}. {hint}") from None


def resolve(name: str) -> Any:
    """Returns the object called `name`. Raises ValueError with the near names if there is none."""
    if not isinstance(name, str):
        return name
    if ":" in name:
        module_name, _, attribute = name.partition(":")
    else:
        module_name, _, attribute = name.rpartition(".")
        module_name = f"kd_jax.{module_name}" if module_name else "kd_jax"
    obj: Any = _module(module_name, name)
    for part in attribute.split("."):
        if not hasattr(obj, part):
            raise ValueError(f"{name!r}: {getattr(obj, '__name__', obj)!r} has no {part!r}. {near(part, _public(obj))}")
        obj = getattr(obj, part)
    return obj


def call(name: str, *args: Any, **kwargs: Any) -> Any:
    """Returns resolve(name)(*args, **kwargs).

    Raises ValueError for an argument that the function does not take, with those it takes.
    """
    fn = resolve(name)
    check_kwargs(name, fn, kwargs, positional=len(args))
    return fn(*args, **kwargs)


def check_kwargs(name: str, fn: Any, kwargs: Iterable[str], positional: int = 0, field: str = "") -> None:
    """Raises ValueError if `fn` does not take one of the keyword arguments, or not its number.

    `kwargs` are names, or a mapping to values: numbers must lie in the ranges that `fn` declares (kd_jax/ranges.py).
    `field` is the path of the mapping in the config.
    """
    if hasattr(kwargs, "items"):
        check_numbers(field, kwargs, ranges_of(fn), of=name)
    try:
        parameters = inspect.signature(fn).parameters
    except (TypeError, ValueError):  # some builtins tell nothing of themselves
        return
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    names = [n for n, p in parameters.items() if p.kind is not p.VAR_POSITIONAL]
    for key in kwargs:
        if key not in names:
            raise ValueError(f"{name!r} takes no argument {key!r}. {near(key, names[positional:])}")
