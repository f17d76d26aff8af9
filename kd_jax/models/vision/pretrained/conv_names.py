"""Convolutional networks of PyTorch as parameters of Linen modules and back, by a table of names.

A table maps the path of a module here ("stage1/block0/conv1/norm") to its name there ("layer1.0.bn1"), or that of one
array. There, a Linear is [out, in] and a convolution [out, in, height, width].
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from kd_jax.models.adapters import LinenModel
from kd_jax.resolve import near
from kd_jax.types import PyTree

Arrays = Mapping[str, np.ndarray]
Table = Mapping[str, str]
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
SIZE = 64  # of the image that shows the shapes of a network's parameters, which do not depend on it
COUNTER = "num_batches_tracked"  # of PyTorch's BatchNorm, read by nobody


def read(
    arrays: Arrays, table: Table, module: nn.Module, stem: str, ignore: Sequence[str] = ()
) -> tuple[PyTree, PyTree]:
    """Returns (params, stats) of `module` from arrays there; `stem` is the first convolution there.

    `ignore` are patterns of names that the module does not use. ValueError lists what is missing, unexpected or of
    another shape.
    """
    channels = shape_of(arrays, f"{stem}.weight")[1] if f"{stem}.weight" in arrays else 3
    image = jax.ShapeDtypeStruct((1, SIZE, SIZE, channels), jnp.float32)
    wanted, averages = jax.eval_shape(LinenModel(module).init, jax.random.key(0), image)
    flat: dict[str, Any] = traverse_util.flatten_dict({"params": wanted, **averages}, sep="/")
    variables = gathered(
        arrays,
        flat,
        lambda path: _name(path, table),
        lambda value, path, _: inside(value, path),
        (rf"{COUNTER}$", *ignore),
    )
    tree = traverse_util.unflatten_dict(variables, sep="/")
    return tree.pop("params"), tree


def gathered(
    arrays: Arrays,
    wanted: Mapping[str, Any],
    name_of: Callable[[str], str],
    turned: Callable[[np.ndarray, str, tuple[int, ...]], np.ndarray],
    ignore: Sequence[str],
) -> dict[str, np.ndarray]:
    """Returns {path: array} for the shapes `wanted` by path; `name_of(path)` is its name there.

    `turned(array, path, shape)` has its axes in our order. `ignore` are patterns of names that nobody uses. ValueError
    lists what is missing, unexpected or of another shape.
    """
    values, used, problems = {}, set(), []
    for path, leaf in wanted.items():
        name = name_of(path)
        if name not in arrays:
            problems.append(f"missing: {name!r} (here {path!r}). {near(name, arrays, limit=4)}")
            continue
        used.add(name)
        value = turned(np.asarray(arrays[name]), path, leaf.shape)
        if value.shape != leaf.shape:
            problems.append(f"wrong shape: {name!r} has {tuple(arrays[name].shape)}, here {path!r} is {leaf.shape}")
        values[path] = value.astype(leaf.dtype)
    unexpected = [n for n in arrays if n not in used and not any(re.search(p, n) for p in ignore)]
    problems += [f"unexpected: {name!r}" for name in unexpected]
    if problems:
        raise ValueError("the checkpoint does not fit the network:\n  " + "\n  ".join(problems))
    return values


def write(params: PyTree, stats: PyTree, table: Table) -> dict[str, np.ndarray]:
    """Returns parameters and averages under the names and in the shapes of `table`; the inverse of `read`."""
    flat = traverse_util.flatten_dict({"params": params, **stats}, sep="/")
    arrays = {_name(path, table): outside(value, path) for path, value in flat.items()}
    counted = [name.removesuffix("running_var") for name in arrays if name.endswith("running_var")]
    return arrays | {f"{name}{COUNTER}": np.asarray(0, np.int64) for name in counted}


def classes_of(config: Mapping[str, Any]) -> int:
    """Returns how many classes a config.json has: those of num_labels, of the labels of a classifier, or 0."""
    if "num_labels" in config:
        return int(config["num_labels"])
    if "ForImageClassification" not in (config.get("architectures") or [""])[0]:
        return 0
    return len(config.get("id2label") or ("LABEL_0", "LABEL_1"))  # transformers writes no names of two


def shape_of(arrays: Arrays, name: str) -> tuple[int, ...]:
    """Returns the shape of an array, without reading it where the file can tell."""
    shape = getattr(arrays, "shape", None)
    return tuple(shape(name)) if callable(shape) else tuple(arrays[name].shape)


def count(arrays: Arrays, pattern: str) -> int:
    """Returns how many numbers in a row, from 0, stand for "{}" in names that begin with `pattern`."""
    start, end = map(re.escape, pattern.split("{}"))
    numbers = {int(m[1]) for name in arrays if (m := re.match(rf"{start}(\d+){end}", name))}
    return next((i for i in range(len(numbers)) if i not in numbers), len(numbers))


def _name(path: str, table: Table) -> str:
    """The name there of the array at a path of the variables here."""
    inside = path.partition("/")[2]
    if inside in table:
        return table[inside]
    module, _, leaf = inside.rpartition("/")
    if module not in table:
        raise ValueError(f"{inside!r} has no name in this family. {near(module, table)}")
    return f"{table[module]}.{LEAVES[leaf]}"


def inside(value: np.ndarray, path: str) -> np.ndarray:
    """Returns an array of theirs in our order of axes: that of a kernel, by the path of ours."""
    if path.endswith("/kernel"):
        return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
    return value


def outside(value: np.ndarray, path: str) -> np.ndarray:
    """Returns an array of ours in their order of axes; the inverse of `inside`."""
    value = np.asarray(value)
    if path.endswith("/kernel"):
        value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
    return np.ascontiguousarray(value)
