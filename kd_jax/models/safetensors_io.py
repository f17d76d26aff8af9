"""Hugging Face folders (config.json and safetensors) as trees of parameters, and back, by one table of names.

A table is a tuple of Rules. It is read in both directions, so what was distilled here is written under the names that
`transformers` loads. Tensors stay in their files until they are asked for; no PyTorch is needed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from kd_jax.resolve import near
from kd_jax.types import PyTree

WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"


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
    """The tensors of a folder by name; one is read from its file when it is looked up."""

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
        self._files = [_opened(folder / name) for name in files]
        self._where = {name: file for file in self._files for name in file.keys()}

    def __getitem__(self, name: str) -> np.ndarray:
        return self._where[name].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def first(self, name: str, rows: int) -> np.ndarray:
        """Returns the first rows of a tensor, without reading the others."""
        return self._where[name].get_slice(name)[:rows]

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of a tensor, without reading it."""
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


def read_params(
    folder: Path,
    rules: Sequence[Rule],
    shapes: PyTree,
    *,
    prefix: str = "",
    ignore: Sequence[str] = (),
    fresh: Sequence[str] = (),
    old: Mapping[str, str] | None = None,
    longer: Sequence[str] = (),
) -> dict[str, Any]:
    """Reads the parameters of a folder as a nested dict of NumPy arrays of the shapes and types in `shapes`.

    `shapes` is what jax.eval_shape(model.init, ...) gives for "params". `prefix` ("bert.") begins names of the table
    and is missing in checkpoints of a bare body. `ignore` are regular expressions of tensors that the file may hold
    and the model does not use; `fresh` of paths here that the file may lack: they stay out of the result. `old` maps
    regular expressions to what stands for them in the table, for names of old files ("gamma" for "weight"). Of the
    paths here that match `longer`, tables of embeddings, a file may have further rows: the first are read.
    ValueError lists all names that are missing, all that are unexpected and all shapes that do not fit.
    """
    tensors = Tensors(folder)
    names = {_renamed(name, old or {}).removeprefix(prefix): name for name in tensors}
    params, problems, used = {}, [], set()
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
        if _matches(path, longer) and not transpose:
            shape = _first_rows(shape, needed)
        if shape != needed:
            problems.append(f"wrong shape: {name!r} has {shape}, {path!r} needs {needed}")
            continue
        value = tensors.first(name, shape[0]) if _matches(path, longer) else tensors[name]
        params[path] = _laid_out(value, transpose).astype(leaf.dtype)
    problems += [f"unexpected: {name!r}" for name in tensors if name not in used and not _matches(name, ignore)]
    if problems:
        raise ValueError(f"{folder} does not fit the model:\n  " + "\n  ".join(problems))
    return traverse_util.unflatten_dict(params, sep="/")


def write_folder(
    folder: Path, params: PyTree, rules: Sequence[Rule], config: Mapping[str, Any], *, strip: str = ""
) -> None:
    """Writes config.json and model.safetensors under the names of `transformers`, without the prefix `strip`.

    ValueError for parameters without a rule.
    """
    tensors = {}
    for path, value in traverse_util.flatten_dict(params, sep="/").items():
        theirs, transpose = _outside(path, rules)
        value = np.asarray(value)
        tensors[theirs.removeprefix(strip)] = _laid_out(value, transpose)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(dict(config), indent=2, sort_keys=True) + "\n")


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


def _renamed(name: str, changes: Mapping[str, str]) -> str:
    """The name with every regular expression of `changes` replaced by its text, one after the other."""
    for pattern, text in changes.items():
        name = re.sub(pattern, text, name)
    return name


def _first_rows(shape: tuple[int, ...], needed: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the rows that are needed of a tensor: the first of one that has more."""
    return (needed[0], *shape[1:]) if shape and shape[0] > needed[0] else shape


def _laid_out(value: np.ndarray, transpose: bool) -> np.ndarray:
    return np.ascontiguousarray(value.swapaxes(-1, -2) if transpose else value)


def _swapped(shape: Sequence[int]) -> tuple[int, ...]:
    return (*shape[:-2], *shape[:-3:-1]) if len(shape) > 1 else tuple(shape)
