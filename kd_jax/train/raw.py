"""Raw examples as a user has them: cut into batches, and refused in one line where they are not those of the data."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from kd_jax.core.paths import Path

_TAKEN = {"f": "fiub", "b": "iub"}  # kinds of arrays that floats and truth values are made of


def joined(info: Mapping[str, Any]) -> str:
    """Returns what one example looks like: "image uint8 [8, 8, 1]"."""
    raw = {info["preparation"]["entry"]: info["input"], **info["fields"]}
    return ", ".join(f"{name} {spec['dtype']} {spec['shape']}" for name, spec in raw.items())


def entries_read(info: Mapping[str, Any]) -> set[str]:
    """Returns the entries of a prepared batch that the network reads."""
    return {path.owner for path in map(Path.parse, info["inputs"]) if path.kind == "batch"}


def parted(raw: Any, info: Mapping[str, Any], most: int) -> Iterator[Any]:
    """Cuts raw examples into parts of at most `most`: an array, a dict of arrays, or a list of texts each.

    A single example becomes a part of one. An iterator is read as far as a part needs.
    """
    if isinstance(raw, str):
        yield [raw]
    elif isinstance(raw, Mapping):
        yield from _cut({name: np.asarray(value) for name, value in raw.items()}, most)
    elif hasattr(raw, "ndim") and hasattr(raw, "dtype"):
        array = np.asarray(raw)
        array = array[None] if array.ndim == len(info["input"]["shape"]) else array
        for start in range(0, len(array) if array.ndim else 1, most):
            yield array[start : start + most] if array.ndim else array
    elif hasattr(raw, "__iter__"):
        examples = iter(raw)
        while part := list(itertools.islice(examples, most)):
            yield part if isinstance(part[0], str) else _stacked(part, info)
    else:
        raise ValueError(f"A {type(raw).__name__} is no example: this network reads {joined(info)}.")


def _cut(arrays: Mapping[str, np.ndarray], most: int) -> Iterator[dict[str, np.ndarray]]:
    for start in range(0, max((len(x) for x in arrays.values() if x.ndim), default=0), most):
        yield {name: x[start : start + most] for name, x in arrays.items()}


def _stacked(part: list[Any], info: Mapping[str, Any]) -> np.ndarray:
    try:
        return np.stack([np.asarray(one) for one in part])
    except ValueError as e:
        raise ValueError(f"The examples of a list have one shape each: {e}. This network reads {joined(info)}.") from e


def check_raw(part: Any, info: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns {entry: array [n, ...]} of the shapes and types of the data; ValueError for others."""
    entry = info["preparation"]["entry"]
    values = dict(part) if isinstance(part, Mapping) else {entry: part}
    wanted = {entry: info["input"], **info["fields"]}
    if left := sorted({*values} - {*wanted}):
        raise ValueError(f"This network reads no {', '.join(left)}: its examples are {joined(info)}.")
    needed = entries_read(info)
    if needed - {*wanted}:  # a view of the main entry, or what config.prepare makes of it
        needed.add(entry)
    if missing := [name for name in wanted if name in needed and name not in values]:
        raise ValueError(f"Give {', '.join(missing)} too, as a dict of arrays: the examples are {joined(info)}.")
    checked = {name: _as_stored(name, np.asarray(value), wanted[name]) for name, value in values.items()}
    for name in needed & {*checked}:
        _check_seen(name, checked[name], wanted[name].get("range"))
    if len({len(x) for x in checked.values()}) > 1:
        raise ValueError(f"The entries differ in length: { {k: len(x) for k, x in checked.items()} }.")
    return checked


def _check_seen(name: str, value: np.ndarray, numbers: Any) -> None:
    """Raises ValueError for numbers that a network learned nothing of: it would answer with those of another."""
    if numbers and value.size and not (numbers[0] <= value.min() and value.max() <= numbers[1]):
        raise ValueError(
            f"Training saw {name} {numbers[0]} to {numbers[1]}, and these lie between {value.min()} and {value.max()}: "
            "the network learned nothing of others."
        )


def _as_stored(name: str, value: np.ndarray, spec: Mapping[str, Any]) -> np.ndarray:
    """The array in the type of the data, where its values are surely the same."""
    shape, dtype = tuple(spec["shape"]), np.dtype(spec["dtype"])
    if value.shape[1:] != shape and (*value.shape[1:], 1) == shape:  # grey images without their channel
        value = value[..., None]
    expected = f"{name} [n, {', '.join(map(str, shape))}] {dtype}".replace("[n, ]", "[n]")
    if value.shape[1:] != shape or not value.ndim:
        raise ValueError(f"Expected {expected}, as in training; these have shape {list(value.shape)}.")
    _check_type(expected, value, dtype, rank=len(shape))
    value = value.astype(dtype)
    if dtype.kind == "f" and not np.isfinite(value).all():
        raise ValueError(f"Expected {expected}; some values are not finite (NaN or infinity).")
    return value


def _check_type(expected: str, value: np.ndarray, dtype: np.dtype, rank: int) -> None:
    """Raises ValueError where the values may change, or mean something else, in the type of the data."""
    if value.dtype == dtype:
        return
    if dtype == np.uint8 and value.dtype.kind == "f":
        raise ValueError(
            f"Expected {expected}, 0 to 255, as in training; these are {value.dtype} from {value.min():g} to "
            f"{value.max():g}: undo your scaling (predict prepares them itself) and give integers."
        )
    if dtype.kind in "iu" and value.dtype.kind in "iub":
        limits = np.iinfo(dtype)
        if value.size and not (limits.min <= value.min() and value.max() <= limits.max):
            raise ValueError(f"Expected {expected}; these lie between {value.min()} and {value.max()}.")
    elif dtype.kind == "f" and rank == 3 and value.dtype.kind in "iub":
        raise ValueError(
            f"Expected {expected}, floats as in training; these are {value.dtype}: scale them alike first."
        )
    elif value.dtype.kind not in _TAKEN.get(dtype.kind, ""):
        raise ValueError(f"Expected {expected}, as in training; these are {value.dtype}.")
