"""Names that a config gives: near ones for an error, and functions of the user's own modules."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable


def unknown(kind: str, name: object, known: Iterable[str]) -> ValueError:
    """The error for a name that does not exist: what is near, and what there is."""
    known = list(known)
    near = difflib.get_close_matches(str(name), known, n=2)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return ValueError(f"There is no {kind} {name!r}.{hint} There are {', '.join(known)} and module:function.")


def user_function(name: str) -> Callable:
    """The object "my.module:function". ValueError says which half does not exist."""
    path, function = name.split(":", 1)
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name and (path == error.name or path.startswith(f"{error.name}.")):
            raise ValueError(f"{name!r}: there is no module {error.name!r}") from error
        raise  # the module is there, but needs another one
    if not hasattr(module, function):
        near = difflib.get_close_matches(function, dir(module), n=3)
        raise ValueError(f"{name!r}: module {path!r} has no {function!r}; it has {near or sorted(dir(module))}")
    return getattr(module, function)
