"""Files of weights read tensor by tensor straight to where a network's parameters lie on a mesh, and written likewise.

A tensor is on the host while it is being placed and no longer: what the host needs is a few times the largest tensor,
whatever the size of the network and of its files. Files are read, not mapped, so that their pages are no memory of the
process either.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax import traverse_util

from kd_jax.models import mxfp4
from kd_jax.models.safetensors_io import Later, Taken, laid_out
from kd_jax.types import Array, PyTree

# The formats of numbers that safetensors files name.
FORMATS = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
OWN = "file"  # the dtype that keeps that of each tensor


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a network that is read from files is to lie.

    `shardings` takes the shapes of its parameters and returns a Sharding for each. `dtype`: "" is the network's,
    "file" that of each tensor in its file, else a name that all are stored in ("bfloat16"). `shapes_only` reads
    nothing and returns zeros, for those who trace (jax.eval_shape).
    """

    shardings: Callable[[PyTree], PyTree] | None = None
    dtype: str = ""
    shapes_only: bool = False


def placed(drawn: Mapping[str, Array], shapes: PyTree, reading: Reading) -> dict[str, Array]:
    """Returns {path: array} of what no file has, in the type and at the place that `reading` says."""
    places: dict[str, Any] = traverse_util.flatten_dict((reading.shardings or _on_one_device)(shapes), sep="/")
    kind = None if reading.dtype in ("", OWN) else jnp.dtype(reading.dtype)
    return {path: jax.device_put(x.astype(kind or x.dtype), places[path]) for path, x in drawn.items()}


class Piece(NamedTuple):
    """Where a part of a tensor goes: a parameter, the place in its first axes, and which of the last axis it takes.

    It takes every `step`-th number from `first` to `last`.
    """

    path: str
    index: tuple[int, ...] = ()
    first: int = 0
    last: int | None = None
    step: int = 1


def read(
    files: Mapping[Path, Sequence[str]],
    taken: Mapping[str, Taken],
    pieces: Callable[[str], Sequence[Piece]],
    shapes: PyTree,
    reading: Reading,
) -> PyTree:
    """Returns parameters on their devices.

    `files` are the names of tensors by file, `taken` {path as files have it: a tensor}, `pieces` where one of those
    goes, `shapes` what the network has (all of which must be reached). Every file is opened once.
    """
    flat: dict[str, Any] = traverse_util.flatten_dict(shapes, sep="/")
    places: dict[str, Any] = traverse_util.flatten_dict((reading.shardings or _on_one_device)(shapes), sep="/")
    paths: dict[str, list[str]] = {}
    for path, one in taken.items():
        paths.setdefault(one.name, []).append(path)
    params: dict[str, Array] = {}

    def put(path: str, value: np.ndarray) -> None:
        for piece in pieces(path):
            leaf, part = flat[piece.path], value[..., piece.first : piece.last : piece.step]
            dtype = part.dtype if reading.dtype == OWN else jnp.dtype(reading.dtype or leaf.dtype)
            part = np.ascontiguousarray(part, dtype)
            params[piece.path] = _placed(params.get(piece.path), part, piece.index, leaf.shape, places[piece.path])

    where = {name: file for file, names in files.items() for name in names}
    for file, names in files.items():
        rows = {name: max(taken[path].rows for path in paths[name]) for name in names if name in paths}
        packed = {name: 0 for name in names if name not in paths and name.removesuffix(mxfp4.BLOCKS) in paths}
        for name, value in _tensors(file, rows | packed):
            if name in packed:
                name = name.removesuffix(mxfp4.BLOCKS)
                scales = name + mxfp4.SCALES
                value = mxfp4.unpacked(value, dict(_tensors(where[scales], {scales: 0}))[scales])
            for path in paths[name]:
                put(path, laid_out(value, taken[path].transpose))
            del value  # before the next one is read
    return traverse_util.unflatten_dict(params, sep="/")


def later(
    shapes: PyTree, params: PyTree, pieces: Callable[[str], Sequence[Piece]], dtype: Any = None
) -> dict[str, Later]:
    """Returns {path as files have it: what is written there}, gathered from `params` when its file is written.

    `shapes` are those of the files' layout, `pieces` as for `read`; `dtype` None: that of each parameter.
    """
    flat: dict[str, Any] = traverse_util.flatten_dict(params, sep="/")
    wanted: dict[str, Any] = traverse_util.flatten_dict(shapes, sep="/")

    def gathered(path: str, leaf: Any, kind: Any) -> np.ndarray:
        where = pieces(path)
        parts = [np.asarray(flat[piece.path][piece.index]) for piece in where]
        if len(parts) == 1:
            return parts[0].astype(kind, copy=False)
        whole = np.empty(leaf.shape, kind)
        for piece, part in zip(where, parts, strict=True):
            whole[..., piece.first : piece.last : piece.step] = part
        return whole

    kinds = {path: jnp.dtype(dtype or leaf.dtype) for path, leaf in wanted.items()}
    return {
        path: Later(tuple(leaf.shape), kinds[path], functools.partial(gathered, path, leaf, kinds[path]))
        for path, leaf in wanted.items()
    }


def _tensors(file: Path, wanted: Mapping[str, int]) -> Iterator[tuple[str, np.ndarray]]:
    """Tensors of a file, one at a time; `wanted` {name: how many of the first rows are, 0 for all}."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header, start = json.loads(stream.read(length)), 8 + length
        for name in sorted(wanted, key=lambda name: header[name]["data_offsets"][0]):
            entry = header[name]
            shape, dtype = entry["shape"], np.dtype(FORMATS[entry["dtype"]])
            shape = [wanted[name], *shape[1:]] if wanted[name] else shape
            stream.seek(start + entry["data_offsets"][0])
            yield name, np.fromfile(stream, dtype, int(np.prod(shape))).reshape(shape)


def _placed(whole: Array | None, part: np.ndarray, index: tuple[int, ...], shape: Sequence[int], place: Any) -> Array:
    """`part` at its devices, or `whole` with it at `index` of the first axes."""
    if not index:
        made = jax.make_array_from_callback(part.shape, place, lambda i: part[i])
        return made.block_until_ready()  # else its host memory lives on
    if whole is None:
        whole = _zeros(tuple(shape), part.dtype, place)
    return _with(place)(whole, part, index).block_until_ready()


def _zeros(shape: tuple[int, ...], dtype: Any, place: Any) -> Array:
    return jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=place)()


@functools.cache
def _with(place: Any) -> Callable[[Array, np.ndarray, tuple[int, ...]], Array]:
    """A program that writes a part into an array in place."""
    return jax.jit(lambda whole, part, index: whole.at[index].set(part), donate_argnums=0, out_shardings=place)


def _on_one_device(shapes: PyTree) -> PyTree:
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda _: place, shapes)
