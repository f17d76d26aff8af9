"""A network as one file that ships: integers of 8, 4 or 2 bits in bytes, everything else as it is, and what it is.

The file is a safetensors file of three arrays of bytes, since a name and a shape for each of a small network's arrays
weigh more than its integers:

    info      zlib of a JSON: "model" (the model.json of its export), "format", "rounded": what is, "texts": a tokenizer
    codes     the integers, kernel by kernel in the order of the tree, 8 / bits of them in a byte
    values    all other arrays, and the steps of the rounded ones, in that order, each as its type has it

Order, shapes and types follow from the network that "model" describes. `kd_jax.load` reads it.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from kd_jax.compress.rounding import Rounded
from kd_jax.models.quantised import FLOAT, bits_of, pack, unpack
from kd_jax.types import Model, PyTree

FORMAT = 1
SUFFIX = ".safetensors"


def write_packed(
    path: Path,
    info: Mapping[str, Any],
    model: Model,
    params: PyTree,
    stats: PyTree,
    texts: Mapping[str, str] | None = None,
) -> int:
    """Writes the network whose model.json is `info`; returns the bytes of the file, all of it.

    `texts` {name: content} are the further files of its export, such as a tokenizer: they are part of those bytes.
    A Rounded network is stored as its integers and rebuilt without rounding the weights again: the same numbers.
    """
    rounded = _rounding(model)
    described = {k: v for k, v in info.items() if k != "sha256"}
    head: dict[str, Any] = {"format": FORMAT, "model": described, "rounded": None, "texts": dict(texts or {})}
    codes, values = [], []
    if rounded is not None:
        head["rounded"] = {"bits": rounded.bits, "pattern": rounded.pattern, "keep": rounded.keep}
        for name, array in pack(params, rounded.bits, rounded.pattern, rounded.keep).items():
            (codes if name.endswith(":codes") else values).append(array)
    else:
        values = [np.asarray(x) for x in jax.tree.leaves(params)]
    values += [np.asarray(x) for x in jax.tree.leaves(stats)]
    text = zlib.compress(json.dumps(head, separators=(",", ":")).encode(), 9)
    arrays = {"info": np.frombuffer(text, np.uint8), "codes": _joined(codes), "values": _joined(values)}
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + ".tmp")
    save_file(arrays, scratch)
    scratch.replace(path)
    return path.stat().st_size


def read_head(path: Path) -> dict[str, Any]:
    """Returns {"format", "model", "rounded", "texts"} of a packed file; ValueError in one line for what is none."""
    try:
        with safe_open(path, "np") as file:
            head = json.loads(zlib.decompress(file.get_tensor("info").tobytes()))
    except (SafetensorError, zlib.error, ValueError, OSError) as e:
        raise ValueError(f"{path} is no packed network of kd_jax, or is damaged ({e}).") from e
    if head.get("format") != FORMAT:
        raise ValueError(f"{path} has the format {head.get('format')!r}, and this version of kd_jax reads {FORMAT}.")
    return head


def read_arrays(path: Path, head: Mapping[str, Any], params: PyTree, stats: PyTree) -> tuple[PyTree, PyTree]:
    """Returns (params, stats) of a packed file, of the shapes in `params` and `stats`; ValueError if it ends early."""
    with safe_open(path, "np") as file:
        codes, values = (_Bytes(path, file.get_tensor(name)) for name in ("codes", "values"))
    rounded = head["rounded"]
    if rounded is None:
        made = jax.tree.map(lambda x: values.take(x.shape, x.dtype), params)
    else:
        made = _unpacked(params, rounded, codes, values)
    stats = jax.tree.map(lambda x: values.take(x.shape, x.dtype), stats)
    codes.end()
    values.end()
    return made, stats


def unrounded(model: Model) -> Model:
    """Returns the model for parameters that are rounded already: the weights are taken as they are."""
    if not isinstance(model, Rounded):
        return model
    if model.activations >= FLOAT:
        return model.model
    return Rounded(model.model, FLOAT, model.activations, model.pattern, model.keep)


def _rounding(model: Model) -> Rounded | None:
    return model if isinstance(model, Rounded) and model.bits < FLOAT else None


def _unpacked(params: PyTree, rounded: Mapping[str, Any], codes: _Bytes, values: _Bytes) -> PyTree:
    options = (rounded["bits"], rounded["pattern"], rounded["keep"])
    packed: dict[str, np.ndarray] = {}
    for path, leaf in jax.tree.leaves_with_path(params):
        name, bits = jax.tree_util.keystr(path, simple=True, separator="/"), bits_of(path, *options)
        if bits is None:
            packed[name] = values.take(leaf.shape, leaf.dtype)
            continue
        packed[f"{name}:codes"] = codes.take((-(-math.prod(leaf.shape) * int(bits) // 8),), np.uint8)
        packed[f"{name}:step"] = values.take((leaf.shape[-1],), np.float32)
    return unpack(packed, params, *options)


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    parts = [np.frombuffer(np.ascontiguousarray(x).tobytes(), np.uint8) for x in arrays]
    return np.concatenate(parts) if parts else np.zeros(0, np.uint8)


class _Bytes:
    """Bytes that are taken from the front."""

    def __init__(self, path: Path, content: np.ndarray) -> None:
        self.path, self.content, self.at = path, content.tobytes(), 0

    def take(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        count = math.prod(shape) * np.dtype(dtype).itemsize
        piece, self.at = self.content[self.at : self.at + count], self.at + count
        if len(piece) < count:
            raise ValueError(f"{self.path} ends before its network does: it is damaged, or of another version.")
        return np.frombuffer(piece, dtype).reshape(shape).copy()

    def end(self) -> None:
        if self.at != len(self.content):
            raise ValueError(f"{self.path} has {len(self.content) - self.at} bytes that its network does not read.")
