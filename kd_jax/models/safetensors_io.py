"""Hugging Face folders (config.json and safetensors) as trees of parameters, and back, by one table of names.

A table is a tuple of Rules. It is read in both directions, so what was distilled here is written under the names that
`transformers` loads. Tensors stay in their files until they are asked for; no PyTorch is needed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from kd_jax.models import mxfp4
from kd_jax.resolve import near
from kd_jax.types import PyTree

WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
SHARD = 5 * 10**9  # bytes of a file of weights at most


class Rule(NamedTuple):
    """One kind of tensor: its name there, its path here, and whether the last two axes change places.

    "{}" stands for a number (of a layer) and is the same on both sides:
    Rule("encoder.layer.{}.output.dense.weight", "layer{}/mlp2/kernel", transpose=True). PyTorch's nn.Linear keeps
    [out, in], nn.Dense [in, out].
    """

    theirs: str
    ours: str
    transpose: bool = False


def dense(theirs: str, ours: str, bias: bool = True) -> tuple[Rule, ...]:
    """Returns the rules of an nn.Linear that is an nn.Dense here."""
    kernel = Rule(f"{theirs}.weight", f"{ours}/kernel", True)
    return (kernel, Rule(f"{theirs}.bias", f"{ours}/bias")) if bias else (kernel,)


def norm(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Returns the rules of an nn.LayerNorm of either side."""
    return Rule(f"{theirs}.weight", f"{ours}/scale"), Rule(f"{theirs}.bias", f"{ours}/bias")


class Tensors(Mapping[str, np.ndarray]):
    """The tensors of a folder by name; one is read from its file when it is looked up.

    Blocks and scales of MXFP4 (models/mxfp4.py) are the one tensor that they are of.
    """

    def __init__(self, folder: Path) -> None:
        index, single = folder / INDEX, folder / WEIGHTS
        if index.exists():
            files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        elif single.exists():
            files = [WEIGHTS]
        else:
            files = ", ".join(sorted(p.name for p in folder.iterdir())) or "nothing"
            raise ValueError(f"{folder} has neither {WEIGHTS} nor {INDEX}; it has {files}.")
        if missing := [name for name in files if not (folder / name).exists()]:
            raise ValueError(f"{index} names files that are not there: {', '.join(missing)}.")
        opened = {folder / name: _opened(folder / name) for name in files}
        self.files = {path: list(file.keys()) for path, file in opened.items()}  # names by file
        self._where = {name: file for file in opened.values() for name in file.keys()}
        self._packed, self._names = mxfp4.packed_of(self._where)

    def __getitem__(self, name: str) -> np.ndarray:
        if name in self._packed:
            return mxfp4.unpacked(self[name + mxfp4.BLOCKS], self[name + mxfp4.SCALES])
        return self._where[name].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def first(self, name: str, rows: int) -> np.ndarray:
        """Returns the first rows of a tensor, without reading the others."""
        return self._where[name].get_slice(name)[:rows]

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of a tensor, without reading it."""
        if name in self._packed:
            return mxfp4.shape_of(self.shape(name + mxfp4.BLOCKS))
        return tuple(self._where[name].get_slice(name).get_shape())


def read_config(folder: Path) -> dict[str, Any]:
    """Reads config.json of a folder; ValueError where there is none."""
    path = folder / CONFIG
    if not path.exists():
        raise ValueError(f"{folder} has no {CONFIG}: it is no Hugging Face model.")
    try:
        return json.loads(path.read_text())
    except ValueError as e:
        raise ValueError(f"{path} is not readable: {e}") from e


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, "np")
    except SafetensorError as e:
        raise ValueError(f"{path} is not readable: it is cut off or of another kind ({e})") from e


class Later(NamedTuple):
    """A parameter that is written, of this shape and type; `made` gives it when its file is."""

    shape: tuple[int, ...]
    dtype: Any
    made: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class Taken(NamedTuple):
    """A tensor of a folder that is a parameter here: its name, whether it is transposed, first rows (0: all)."""

    name: str
    transpose: bool
    rows: int

    def of(self, tensors: Tensors) -> np.ndarray:
        """Returns its value, laid out as it is here."""
        value = tensors.first(self.name, self.rows) if self.rows else tensors[self.name]
        return laid_out(value, self.transpose)


def read_params(folder: Path, rules: Sequence[Rule], shapes: PyTree, **options: Any) -> dict[str, Any]:
    """Returns the parameters of a folder, NumPy arrays of the types of `shapes`; `options` and errors of `matched`."""
    tensors = Tensors(folder)
    flat: dict[str, Any] = traverse_util.flatten_dict(shapes, sep="/")
    params = {
        path: taken.of(tensors).astype(flat[path].dtype)
        for path, taken in matched(tensors, folder, rules, shapes, **options).items()
    }
    return traverse_util.unflatten_dict(params, sep="/")


def matched(
    tensors: Tensors,
    folder: Path,
    rules: Sequence[Rule],
    shapes: PyTree,
    *,
    prefix: str = "",
    ignore: Sequence[str] = (),
    fresh: Sequence[str] = (),
    old: Mapping[str, str] | None = None,
    longer: Sequence[str] = (),
) -> dict[str, Taken]:
    """Returns {path of a parameter here: the tensor that it is}, whose names and shapes fit; nothing is read.

    `shapes` is what the network has. `prefix` is what files of the bare body lack. `ignore` are regular expressions of
    names that files may have and the model does not use; `fresh` of paths here that the file may lack: they stay out of
    the result. `old` maps regular expressions to what stands for them in the table, for names of old files ("gamma" for
    "weight"). Of the paths here that match `longer`, tables of embeddings, a file may have further rows: the first are
    taken. ValueError lists all names that are missing, all that are unexpected and all shapes that do not fit.
    """
    names = {renamed(name, old or {}).removeprefix(prefix): name for name in tensors}
    result, problems, used = {}, [], set()
    leaves: dict[str, Any] = traverse_util.flatten_dict(shapes, sep="/")
    for path, leaf in leaves.items():
        theirs, transpose = _outside(path, rules)
        name = names.get(theirs.removeprefix(prefix))
        if name is None:
            hint = near(theirs, tensors, limit=4)
            problems += [] if _matches(path, fresh) else [f"missing: {theirs!r} (here {path!r}). {hint}"]
            continue
        used.add(name)
        shape = tensors.shape(name)
        needed = _swapped(leaf.shape) if transpose else tuple(leaf.shape)
        table = _matches(path, longer) and not transpose
        if table:
            shape = _first_rows(shape, needed)
        if shape != needed:
            problems.append(f"wrong shape: {name!r} has {shape}, {path!r} needs {needed}")
            continue
        result[path] = Taken(name, transpose, shape[0] if table else 0)
    problems += [f"unexpected: {name!r}" for name in tensors if name not in used and not _matches(name, ignore)]
    if problems:
        raise ValueError(f"{folder} does not fit the model:\n  " + "\n  ".join(problems))
    return result


def write_folder(
    folder: Path,
    params: PyTree,
    rules: Sequence[Rule],
    config: Mapping[str, Any],
    *,
    strip: str = "",
    max_shard_size: int = SHARD,
) -> None:
    """Writes config.json and the weights under the names of `transformers`, without the prefix `strip`.

    Weights of more than `max_shard_size` bytes are several files, none of them larger (but for one that a single
    tensor is), with an index. What is a `Later` is on the host while its file is written, and no longer. ValueError for
    parameters without a rule.
    """
    leaves: dict[str, Any] = traverse_util.flatten_dict(params, sep="/")
    named = {_outside(path, rules)[0].removeprefix(strip): path for path in leaves}
    shards = _filled({name: leaves[path].nbytes for name, path in named.items()}, max_shard_size)
    folder.mkdir(parents=True, exist_ok=True)
    where = {}
    for i, names in enumerate(shards):
        file = WEIGHTS if len(shards) == 1 else f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        values = {n: laid_out(_value(leaves[named[n]]), _outside(named[n], rules)[1]) for n in names}
        save_file(values, folder / file, metadata={"format": "pt"})
        del values  # before those of the next file are made
        where |= dict.fromkeys(names, file)
    (folder / INDEX).unlink(missing_ok=True)  # of weights that were here before
    if len(shards) > 1:
        total = sum(value.nbytes for value in leaves.values())
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    (folder / CONFIG).write_text(json.dumps(dict(config), indent=2, sort_keys=True) + "\n")


def _value(leaf: Any) -> np.ndarray:
    return leaf.made() if isinstance(leaf, Later) else np.asarray(leaf)


def _filled(sizes: Mapping[str, int], most: int) -> list[list[str]]:
    """Names in files of `most` bytes, one after the other; at least one file."""
    files, size = [[]], 0
    for name, count in sizes.items():
        if files[-1] and size + count > most:
            files.append([])
            size = 0
        files[-1].append(name)
        size += count
    return files


def theirs_of(path: str, rules: Sequence[Rule]) -> str:
    """Returns the name outside of the parameter at `path`; ValueError where the table has none."""
    return _outside(path, rules)[0]


def _outside(path: str, rules: Sequence[Rule]) -> tuple[str, bool]:
    """(the name outside of the parameter at `path`, whether it is transposed)."""
    for rule in rules:
        match = re.fullmatch(re.escape(rule.ours).replace(r"\{\}", r"(\d+)"), path)
        if match:
            return rule.theirs.format(*match.groups()), rule.transpose
    raise ValueError(f"The table has no rule for the parameter {path!r}. {near(path, [r.ours for r in rules])}")


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def renamed(name: str, changes: Mapping[str, str]) -> str:
    """Returns the name with every regular expression of `changes` replaced by its text, one after the other."""
    for pattern, text in changes.items():
        name = re.sub(pattern, text, name)
    return name


def _first_rows(shape: tuple[int, ...], needed: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the rows that are needed of a tensor: the first of one that has more."""
    return (needed[0], *shape[1:]) if shape and shape[0] > needed[0] else shape


def laid_out(value: np.ndarray, transpose: bool) -> np.ndarray:
    """Returns a tensor as the other side has it: its last two axes changed, or as it is."""
    return np.ascontiguousarray(value.swapaxes(-1, -2) if transpose else value)


def _swapped(shape: Sequence[int]) -> tuple[int, ...]:
    return (*shape[:-2], *shape[:-3:-1]) if len(shape) > 1 else tuple(shape)
