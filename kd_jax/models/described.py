"""A network as JSON and back: import paths and the arguments of what made it. Nothing is pickled.

    {"name": "package.module:Factory", "kwargs": {...}}     a call: a module or dataclass with its fields, or a factory
    {"ref": "package.module:function"}                      a function or class
    {"partial": {...}, "args": [...], "kwargs": {...}}      functools.partial
    {"tuple": [...]}, {"dict": {...}}, {"dtype": "int8"}, {"array": [...], "dtype": "float32"}

Numbers, texts, booleans, None and lists are themselves. A call with "model": true is made a Model by `as_model`.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from kd_jax.models.adapters import LinenModel, as_model
from kd_jax.resolve import made, resolve

PUBLIC = ("jax.nn", "jax.numpy", "jax.lax")  # where what lies in jax._src has a name that stays
MOST = 1000  # values of an array that stand in a description
Origin = tuple[Any, Mapping[str, Any]]  # (a model, the description of the factory that made it)


class NotDescribable(ValueError):
    """A value cannot be built again from an import path and arguments; the message says which and why."""


def describe(value: Any, origins: Iterable[Origin] = ()) -> Any:
    """Returns the JSON from which `rebuild` makes an equal value.

    A model that is one of `origins` is described by its factory. Fields that have their default are left out, and so
    are initialisers (fields ending in "_init") that are no importable function: what is loaded has its parameters.
    Raises NotDescribable for a lambda, a class inside a function, an object that is no dataclass.
    """
    origins = list(origins)
    for model, origin in origins:
        if value is model:
            return dict(origin)
    if isinstance(value, (bool, int, float, str)) or value is None:
        return value
    inside = functools.partial(describe, origins=origins)
    if type(value) in (list, tuple) or isinstance(value, (Mapping, ConfigDict, functools.partial)):
        return _container(value, inside)
    if isinstance(value, np.dtype):
        return {"dtype": value.name}
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        return _array(value)
    if isinstance(value, LinenModel):
        return {**inside(value.module), "model": True}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"name": path_of(type(value)), "kwargs": _fields(value, inside)}
    return {"ref": path_of(value)}


def _container(value: Any, inside: Callable[[Any], Any]) -> Any:
    """The description of a list, a tuple, a mapping, or of a function with arguments."""
    if isinstance(value, (Mapping, ConfigDict)):
        return {"dict": {_key(k): inside(v) for k, v in value.items()}}
    if isinstance(value, functools.partial):
        arguments = {k: inside(v) for k, v in value.keywords.items()}
        return {"partial": inside(value.func), "args": [inside(v) for v in value.args], "kwargs": arguments}
    items = [inside(item) for item in value]
    return {"tuple": items} if isinstance(value, tuple) else items


def factory(fn: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the description of the network that `fn(**kwargs)` makes; raises NotDescribable as `describe` does."""
    return {"name": path_of(fn), "kwargs": {k: describe(v) for k, v in kwargs.items()}, "model": True}


def path_of(value: Any) -> str:
    """Returns "package.module:name" of a function or class; raises NotDescribable where no import gives this object."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not module or not name:
        raise NotDescribable(f"a {type(value).__name__} is neither a dataclass nor a function or class with a name")
    if "<" in name:
        raise NotDescribable(f"{name} is made inside a function, where no import finds it")
    for place in (*PUBLIC, module) if module.startswith("jax._src") else (module,):
        target: Any = sys.modules.get(place)
        for part in name.split("."):
            target = getattr(target, part, None)
        if target is value:
            return f"{place}:{name}"
    raise NotDescribable(f"{module}:{name} is another object")


def rebuild(description: Any) -> Any:
    """Returns the value that was described.

    Names are imported, so a description is code, as a config is. Raises ValueError for a name that cannot be imported
    or called so, and for functions of Python's own library: no network is made by them.
    """
    if isinstance(description, list):
        return [rebuild(item) for item in description]
    if not isinstance(description, Mapping):
        return description
    if "partial" not in description and "name" not in description:
        return _rebuild_value(description)
    arguments = {k: rebuild(v) for k, v in description.get("kwargs", {}).items()}
    if "partial" in description:
        positional = [rebuild(v) for v in description["args"]]
        return functools.partial(rebuild(description["partial"]), *positional, **arguments)
    value = made(description["name"], _named(description["name"]), **arguments)
    return as_model(value) if description.get("model") else value


def _rebuild_value(description: Mapping[str, Any]) -> Any:
    """Returns a tuple, a dict, an array, its type, or what a name stands for."""
    if "tuple" in description:
        return tuple(rebuild(item) for item in description["tuple"])
    if "dict" in description:
        return {k: rebuild(v) for k, v in description["dict"].items()}
    if "array" in description:
        return np.array(description["array"], description["dtype"]).reshape(description["shape"])
    if "dtype" in description:
        return jnp.dtype(description["dtype"])
    if "ref" in description:
        return _named(description["ref"])
    raise ValueError(f"{str(description)[:80]} describes nothing: expected a name, a ref or a partial")


def _named(name: str) -> Any:
    if not isinstance(name, str) or ":" not in name:
        raise ValueError(f"{name!r} is no name of the form package.module:name")
    if name.partition(":")[0].partition(".")[0] in {*sys.stdlib_module_names, "builtins"} - {"__main__"}:
        raise ValueError(f"{name!r} is of Python's own library, and no part of a network")
    return resolve(name)


def _key(key: Any) -> str:
    if not isinstance(key, str):
        raise NotDescribable(f"the key {key!r} of a dict is no text")
    return key


def _array(value: Any) -> dict[str, Any]:
    if np.size(value) > MOST:
        raise NotDescribable(f"an array of {np.size(value)} values is no setting: make it a parameter or an input")
    array = np.asarray(value)
    return {"array": array.reshape(-1).tolist(), "dtype": array.dtype.name, "shape": list(array.shape)}


def _fields(value: Any, inside: Any) -> dict[str, Any]:
    """The fields of a dataclass that are not at their default."""
    described = {}
    for field in dataclasses.fields(value):
        content = getattr(value, field.name)
        linen = isinstance(value, nn.Module) and field.name in ("parent", "name")
        if not field.init or content is field.default or (linen and (field.name == "parent" or content is None)):
            continue
        try:
            described[field.name] = inside(content)
        except NotDescribable as e:
            if field.name.endswith("_init") and field.default is not dataclasses.MISSING:
                continue
            raise NotDescribable(f"{type(value).__name__}.{field.name}: {e}") from e
    return described
