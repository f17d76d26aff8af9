"""What Python knows of functions and classes: their files, what they were compiled to, and which globals they read."""

from __future__ import annotations

import dis
import functools
import importlib.util
import inspect
import site
import sys
import sysconfig
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kd_jax.system import identity

GENERATED = "<string>"  # where @dataclass says that its methods are
_PATHS = ("stdlib", "platstdlib", "purelib", "platlib")
_INSTALLED = (
    *(sysconfig.get_path(name) for name in _PATHS),
    *(*site.getsitepackages(), site.getusersitepackages(), str(Path(__file__).parents[1])),
)


@functools.cache
def is_installed(file: str) -> bool:
    """Returns whether a file is of Python, of an installed package or of this one, and not the user's own."""
    return file.startswith("<frozen") or any(file.startswith(folder + "/") for folder in _INSTALLED)


def of_code(code: types.CodeType) -> str:
    """Returns the digest of compiled code, without the names of files and the numbers of lines in it."""
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    compiled = repr((counts, names, code.co_code, code.co_exceptiontable))
    return identity.of_texts([compiled, *map(_constant, code.co_consts)])


def _constant(value: Any) -> str:
    if isinstance(value, types.CodeType):
        return of_code(value)
    if isinstance(value, (tuple, frozenset)):
        items = [_constant(v) for v in value]
        return f"{type(value).__name__} {sorted(items) if isinstance(value, frozenset) else items}"
    return repr(value)


def globals_read(code: types.CodeType) -> Iterator[tuple[str, ...]]:
    """Yields the globals that code reads, each with the attributes that it reads of them: ("np", "random", "rand")."""
    steps = list(dis.get_instructions(code))
    for i, step in enumerate(steps):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            chain = [step.argval]
            for further in steps[i + 1 :]:
                if further.opname not in ("LOAD_ATTR", "LOAD_METHOD"):
                    break
                chain.append(further.argval)
            yield tuple(chain)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from globals_read(constant)


def modules_imported(code: types.CodeType, package: str) -> Iterator[str]:
    """Yields the modules that code imports while it runs."""
    steps = list(dis.get_instructions(code))
    for i, step in enumerate(steps):
        if step.opname == "IMPORT_NAME":
            level = steps[i - 2].argval
            yield importlib.util.resolve_name("." * level + step.argval, package) if level else step.argval
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from modules_imported(constant, package)


def content_of(cell: Any) -> Any:
    """Returns what a variable of a closure holds, None where it is not yet set."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def slots_of(kind: type) -> tuple[str, ...]:
    """Returns the names of the attributes that a class keeps in slots."""
    slots = vars(kind).get("__slots__", ())
    return tuple(n for n in ((slots,) if isinstance(slots, str) else slots) if not n.startswith("__"))


@functools.lru_cache(4096)
def file_of(kind: type) -> str:
    """Returns the file of a class, by the user's methods in it or else its module; "" where that is a notebook."""
    methods = (inspect.unwrap(m) for m in vars(kind).values() if isinstance(m, types.FunctionType))
    files = [m.__code__.co_filename for m in methods if isinstance(m, types.FunctionType)]
    written = [file for file in files if file != GENERATED and not is_installed(file)]
    if written:
        return written[0]
    module = sys.modules.get(kind.__module__)
    builtin = kind.__module__ in sys.builtin_module_names
    return getattr(module, "__file__", None) or ("<frozen>" if builtin else "")


def name_of_file(file: str) -> str:
    """Returns what people call a file; cells of a notebook have another one in every process."""
    return Path(file).name if file.endswith(".py") and "/ipykernel_" not in file else "the notebook"


def is_written(member: Any) -> bool:
    """Returns whether a method was written by a person, and not made by @dataclass."""
    if not callable(member):
        return False
    return getattr(getattr(inspect.unwrap(member), "__code__", None), "co_filename", "") != GENERATED
