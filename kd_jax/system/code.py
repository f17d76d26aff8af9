"""What a user's code computes, as digests: of its functions and classes, and of the values that they read.

A function counts by what Python compiled it to, so comments, blank lines and its place in a file do not; with it count
its closure, its defaults, the globals that it reads, and so on for those. Code of this package and of installed ones
counts by its name: their versions are noted beside. There are no addresses and no orders of a hash in it, so that the
same script has the same digests in another process.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib.util
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.core import FrozenDict
from ml_collections import ConfigDict

from kd_jax.data.source import Source
from kd_jax.system import identity
from kd_jax.system.compiled import (
    content_of,
    file_of,
    globals_read,
    is_installed,
    is_written,
    modules_imported,
    name_of_file,
    of_code,
    slots_of,
)

PLAIN = (types.NoneType, bool, int, float, complex, str, bytes, types.EllipsisType, np.dtype)
WRAPPERS = (property, staticmethod, classmethod, functools.cached_property)


class Code:
    """Gathers the digests of the user's code that values lead to: `parts`, by what a person calls each.

    `unseen` names the values that code reads and of which only the type is compared.
    """

    def __init__(self) -> None:
        self._parts: dict[str, set[str]] = {}
        self.unseen: list[str] = []
        self._where = ""  # what of the user's is looked at; "" = a way through this package, where values do not count
        self._active: dict[int, int] = {}
        self._known: dict[tuple[int, bool], tuple[Any, str]] = {}
        self._waiting: list[Callable[[], None]] = []
        self._classes: set[type] = set()

    def parts(self) -> dict[str, str]:
        return {name: identity.of_texts(sorted(self._parts[name])) for name in sorted(self._parts)}

    def follow(self, value: Any) -> None:
        """Looks for the user's functions and classes in an object of this package."""
        self._text(value)
        self._work()

    def value(self, what: str, value: Any) -> str:
        """Returns the digest of an object of the user's, which people know as `what`."""
        self._where = what
        made = identity.of_texts([self._text(value)])
        self._where = ""
        self._work()
        return made

    def _work(self) -> None:
        while self._waiting:
            self._waiting.pop(0)()

    def _note(self, what: str, value: Any) -> None:
        self._where = what
        self._parts.setdefault(what, set()).add(identity.of_texts([self._text(value)]))
        self._where = ""

    def _text(self, value: Any) -> str:
        """A text that two values share if they are the same to a program."""
        if isinstance(value, PLAIN) and not isinstance(value, enum.Enum):
            return f"{type(value).__name__} {value!r}"
        if id(value) in self._active:
            return f"again {len(self._active) - self._active[id(value)]}"
        key = id(value), bool(self._where)
        if key not in self._known:
            self._active[id(value)] = len(self._active)
            text = next(describe for fits, describe in self._kinds if fits(value))(value)
            del self._active[id(value)]
            self._known[key] = value, text
        return self._known[key][1]

    def _texts(self, values: Any) -> str:
        return f"[{', '.join(map(self._text, values))}]"

    def _array(self, value: Any) -> str:
        if not self._where or isinstance(value, jax.core.Tracer) or getattr(value, "is_deleted", bool)():
            return "array"
        return f"array {identity.of_array(value)}"

    def _mapping(self, value: Mapping[Any, Any]) -> str:
        return f"{type(value).__name__} {sorted(f'{self._text(k)}: {self._text(v)}' for k, v in value.items())}"

    def _sequence(self, value: Any) -> str:
        return f"{type(value).__name__} {self._texts(value)}"

    def _set(self, value: Any) -> str:
        return f"set {sorted(map(self._text, value))}"

    def _enum(self, value: enum.Enum) -> str:
        return f"{self._text(type(value))}.{value.name} {self._text(value.value)}"

    def _partial(self, value: functools.partial) -> str:
        return f"partial {self._texts((value.func, value.args, value.keywords))}"

    def _method(self, value: types.MethodType) -> str:
        return f"method {self._texts((value.__self__, value.__func__))}"

    def _wrapper(self, value: Any) -> str:
        inner = (getattr(value, name, None) for name in ("fget", "fset", "__func__", "func"))
        return f"{type(value).__name__} {self._texts(inner)}"

    def _source(self, value: Source) -> str:
        functions = self._texts((value.fetch, value.decode))
        return f"data {sorted(identity.of_source(value).items())} {functions}" if self._where else f"data {functions}"

    def _module(self, value: types.ModuleType) -> str:
        file = getattr(value, "__file__", None)
        if file and not is_installed(file):  # passed on as a whole: all of it may be read
            self._file(Path(file))
        return f"module {value.__name__}"

    def _file(self, path: Path) -> None:
        if path.is_file():
            self._parts.setdefault(f"source of {path.name}", set()).add(identity.of_files(path))

    def _function(self, value: types.FunctionType) -> str:
        code = value.__code__
        cells = {name: content_of(cell) for name, cell in zip(code.co_freevars, value.__closure__ or (), strict=True)}
        if is_installed(code.co_filename):
            return f"{code.co_filename.rpartition('/')[2]}:{code.co_qualname} {self._texts(cells.values())}"
        file = name_of_file(code.co_filename)
        label, compiled = f"{code.co_qualname} in {file}", of_code(code)
        self._parts.setdefault(f"source of {label}", set()).add(compiled)
        self._waiting.append(lambda: self._read(value, cells, label, file))
        which = compiled if "<" in label else ""  # lambdas, and functions in functions, may share a name
        held = (*cells.values(), value.__defaults__, value.__kwdefaults__)
        return f"function {label} {which} {self._texts(held)}"

    def _read(self, function: types.FunctionType, cells: Mapping[str, Any], label: str, file: str) -> None:
        """Notes what the user's function reads: its closure, its defaults, globals, and modules that it imports."""
        for name, content in cells.items():
            self._note(f"the variable {name} of {label}", content)
        if function.__defaults__ or function.__kwdefaults__:
            self._note(f"the defaults of {label}", (function.__defaults__, function.__kwdefaults__))
        for name, *attributes in sorted(set(globals_read(function.__code__))):
            if name in function.__globals__:
                path, value = _in_modules(name, function.__globals__[name], attributes)
                self._note(f"the global {path} of {file}", value)
        for module in modules_imported(function.__code__, function.__globals__.get("__package__") or ""):
            try:
                spec = importlib.util.find_spec(module)
            except (ImportError, ValueError, AttributeError):
                continue  # it may be there when it is imported; a module that is not has no code
            if spec is not None and spec.origin and not is_installed(spec.origin):
                self._file(Path(spec.origin))

    def _class(self, value: type) -> str:
        file = file_of(value)
        if is_installed(file):  # one that a package makes of the user's, as nn.remat does, counts by that
            bases = [base for base in value.__mro__[1:] if not is_installed(file_of(base))]
            return f"class {value.__module__}:{value.__qualname__} {self._texts(bases)}"
        label = f"{value.__qualname__} in {name_of_file(file)}"
        if value not in self._classes:
            self._classes.add(value)
            self._waiting.append(lambda: self._members(value, label))
        return f"class {label}"

    def _members(self, value: type, label: str) -> None:
        """Notes the methods and the other attributes of the user's class, its fields' defaults, and its bases."""
        members = {n: m for n, m in vars(value).items() if not n.startswith("__") or is_written(m)}
        if dataclasses.is_dataclass(value):
            members |= {f.name: (f.default, f.default_factory) for f in dataclasses.fields(value)}
        self._where = "" if issubclass(value, enum.Enum) else label
        texts = [f"{name} {self._quietly(members[name])}" for name in sorted(members)]
        self._where = ""
        texts += map(self._text, value.__bases__)
        self._parts.setdefault(f"the attributes of {label}", set()).add(identity.of_texts(texts))

    def _quietly(self, value: Any) -> str:
        """The text of what is not said to be unseen: classes have attributes of their makers' that say nothing."""
        before = len(self.unseen)
        text = self._text(value)
        del self.unseen[before:]
        return text

    def _fields(self, value: Any) -> str:
        names = {f.name for f in dataclasses.fields(value)}
        if not is_installed(file_of(type(value))):
            names |= {n for n in _attributes_of(value) if not n.startswith("_")}
        return f"{self._text(type(value))} {[f'{n} {self._text(getattr(value, n, None))}' for n in sorted(names)]}"

    def _attributes(self, value: Any) -> str:
        held = _attributes_of(value)
        texts = {n: self._quietly(v) if n.startswith("_") else self._text(v) for n, v in held.items()}
        return f"{self._text(type(value))} {sorted(texts.items())}"

    def _callable(self, value: Any) -> str:
        """An installed package's callable: a jitted function, a compiled one, a model, ..."""
        if not any(hasattr(value, name) for name in ("__wrapped__", "__name__", "__qualname__")):
            return self._other(value)  # an object with a state, such as a module of PyTorch
        kinds = (types.FunctionType, types.MethodType, functools.partial, bool, int, float, str)
        held = {n: v for n, v in getattr(value, "__dict__", {}).items() if not n.startswith("__") or n == "__wrapped__"}
        shown = [f"{n} {self._text(held[n])}" for n in sorted(held) if isinstance(held[n], kinds) or callable(held[n])]
        return f"{type(value).__qualname__} {getattr(value, '__qualname__', '')} {shown}"

    def _other(self, value: Any) -> str:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        if self._where and (state := _state_of(value)) is not None:
            return f"a {kind} {self._text(state)}"
        if self._where and (line := f"{self._where} ({kind})") not in self.unseen:
            self.unseen.append(line)
        return f"a {kind}"

    @functools.cached_property
    def _kinds(self) -> tuple[tuple[Callable[[Any], bool], Callable[[Any], str]], ...]:
        """(test, how a value that passes it is described), the first that fits counts."""
        return (
            (_is(types.ModuleType), self._module),
            (_is(type), self._class),
            (_is(types.FunctionType), self._function),
            (_is(types.MethodType), self._method),
            (_is(functools.partial), self._partial),
            (_is(*WRAPPERS), self._wrapper),
            (_is(np.ndarray, np.generic, jax.Array), self._array),
            (_is(enum.Enum), self._enum),
            (_is(dict, types.MappingProxyType, FrozenDict, ConfigDict), self._mapping),
            (_is(tuple, list), self._sequence),
            (_is(set, frozenset), self._set),
            (_is(Source), self._source),
            (dataclasses.is_dataclass, self._fields),
            (_own, self._attributes),
            (callable, self._callable),
            (lambda value: True, self._other),
        )


def _is(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds)


def _own(value: Any) -> bool:
    """Whether an object's attributes are looked at: those of the user's classes, and of trees that JAX takes apart."""
    if not hasattr(value, "__dict__") and not any(map(slots_of, type(value).__mro__)):
        return False
    return not is_installed(file_of(type(value))) or not jax.tree_util.all_leaves([value])


def _state_of(value: Any) -> Any:
    """What an installed package's object is copied by (a fitted forest, a tensor); None where it cannot be."""
    try:
        if callable(detach := getattr(value, "detach", None)):  # a tensor of PyTorch
            return np.asarray(detach().cpu())
        reduced = value.__reduce_ex__(2)
    except Exception:  # locks, files, devices, and whatever packages raise for what they do not copy
        return None
    return reduced if isinstance(reduced, str) else tuple(x for x in reduced[:3])


def _attributes_of(value: Any) -> dict[str, Any]:
    """What an object holds, but for what it has computed and keeps."""
    bases = type(value).__mro__
    cached = {n for base in bases for n, m in vars(base).items() if isinstance(m, functools.cached_property)}
    held = {n: v for n, v in getattr(value, "__dict__", {}).items() if n not in cached}
    return held | {n: getattr(value, n) for base in bases for n in slots_of(base) if hasattr(value, n)}


def _in_modules(name: str, value: Any, attributes: list[str]) -> tuple[str, Any]:
    """What is read of the user's modules by `name.attribute...`, and its path: one function, not the whole module."""
    while attributes and isinstance(value, types.ModuleType) and hasattr(value, attributes[0]):
        if is_installed(getattr(value, "__file__", None) or "<frozen"):
            break
        name, value = f"{name}.{attributes[0]}", getattr(value, attributes.pop(0))
    return name, value
