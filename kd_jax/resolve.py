"""From a name in a config to the object: "losses.response.kd_loss" (inside kd_jax) or "their_pkg.module:function"."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import pkgutil
import re
import site
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from kd_jax.ranges import check_numbers, ranges_of

_INSTALLED = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
LIBRARIES = (*_INSTALLED, site.getusersitepackages(), str(Path(__file__).parent))
ARGUMENTS = re.compile(r"unexpected keyword argument|required (positional|keyword-only) argument|multiple values for")


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
    return names + _submodules(module)


def _submodules(module: ModuleType) -> list[str]:
    return [m.name for m in pkgutil.iter_modules(getattr(module, "__path__", []))]


def place_of(error: BaseException) -> str:
    """Returns "FILE, line N" of the last line of a user's code that an error went through, "" where it is not theirs.

    Theirs is what is neither installed nor of this package nor the script that started the process.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    started = str(Path(sys.argv[0]).resolve())
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = str(Path(frame.filename).resolve())
        if not frame.filename.startswith("<") and path != started and not path.startswith(LIBRARIES):
            return f"{frame.filename}, line {frame.lineno}"
    return ""


def run_by_user(what: str, work: Callable[[], Any]) -> Any:
    """Returns work(), which runs a user's code: a file, an import. Raises ValueError for an error that it raises.

    It begins with `what` and has the line of the user's code.
    """
    try:
        return work()
    except (ValueError, OSError):  # of the package, as a rule, which says what is wrong itself
        raise
    except Exception as e:
        place, text = place_of(e), e.msg if isinstance(e, SyntaxError) else str(e)
        where = f" ({place})" if place else ""
        raise ValueError(f"{what}: {type(e).__name__}: {text}{where}") from e


def pattern_of(text: str, field: str) -> re.Pattern[str]:
    """Returns the compiled regular expression; raises ValueError, with the name of the field, for what is none."""
    try:
        return re.compile(text)
    except (re.error, TypeError) as e:
        raise ValueError(f"{field}={text!r} is no regular expression: {e}.") from e


def _where(package: str) -> str:
    """What to do about a package that Python does not find."""
    if Path(f"{package}.py").is_file() or Path(package).is_dir():
        return "It lies in this folder, which is not on the path: put PYTHONPATH=. before the command."
    return "Is it installed and on the path?"


def _module(name: str, full: str) -> ModuleType:
    """Imports `name`; if a part of the path does not exist, says which and what stands in its place."""

    def imported() -> ModuleType:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as e:
            if e.name is None or not (name == e.name or name.startswith(e.name + ".")):
                raise  # the module exists and fails on an import of its own
            parent, _, missing = e.name.rpartition(".")
            near_by = parent and near(missing, _public(importlib.import_module(parent)))
            package, _, rest = full.rpartition(".")
            if ":" not in full and importlib.util.find_spec(full.partition(".")[0]):
                near_by = f"One of a module of your own has a colon: '{package}:{rest}'."
            raise ValueError(f"{full!r}: no module {e.name!r}. {near_by or _where(e.name.partition('.')[0])}") from None

    return run_by_user(f"{full!r} cannot be imported", imported)


def resolve(name: str) -> Any:
    """Returns the object called `name`. Raises ValueError with the near names if there is none."""
    if not isinstance(name, str):
        return name
    if ":" in name:
        module_name, _, attribute = name.partition(":")
        if "/" in module_name or module_name.endswith(".py"):
            raise ValueError(
                f"{name!r} names a file. A module is named as in an import, '{Path(module_name).stem}:{attribute}', "
                "with its folder on the path (PYTHONPATH)."
            )
    else:
        module_name, _, attribute = name.rpartition(".")
        module_name = f"kd_jax.{module_name}" if module_name else "kd_jax"
    obj: Any = _module(module_name, name)
    for part in attribute.split("."):
        if not hasattr(obj, part) and isinstance(obj, ModuleType) and part in _submodules(obj):
            obj = _module(f"{obj.__name__}.{part}", name)
            continue
        if not hasattr(obj, part):
            raise ValueError(f"{name!r}: {getattr(obj, '__name__', obj)!r} has no {part!r}. {near(part, _public(obj))}")
        obj = getattr(obj, part)
    if isinstance(obj, ModuleType):
        inside = [n for n in (attribute.rpartition(".")[2], "build", "task") if hasattr(obj, n)] or _public(obj)
        raise ValueError(f"{name!r} is a module: name what is in it, such as '{name}.{inside[0]}'.")
    return obj


def call(name: str, *args: Any, **kwargs: Any) -> Any:
    """Returns resolve(name)(*args, **kwargs).

    Raises ValueError for an argument that the function, or what it passes its **options to, does not take, with those
    it takes, and for one that is missing.
    """
    return made(name, resolve(name), *args, **kwargs)


def made(name: str, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Returns fn(*args, **kwargs), whose arguments a user chose; raises ValueError as `call` does."""
    check_kwargs(name, fn, kwargs, positional=len(args))
    try:
        return fn(*args, **kwargs)
    except TypeError as e:
        if not ARGUMENTS.search(str(e)):
            raise
        raise ValueError(f"{name!r} was called with {', '.join(kwargs) or 'no arguments'}: {e}") from e


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
