"""The arrays of a network in one .safetensors file, with model.json in its metadata, from which it is built."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from kd_jax.export.deployed import raw_inputs
from kd_jax.export.network import Run
from kd_jax.models.adapters import as_model
from kd_jax.models.described import rebuild
from kd_jax.train.student import Student

FILE, RUNTIME = "model.safetensors", "jax"
INFO = "kd_jax"  # the entry of the metadata that holds model.json


def write(student: Student, folder: Path) -> Path:
    """Writes params, stats and the fixed inputs under their paths joined by dots."""
    trees = {"params": student.params, "stats": student.stats, "fixed": student.fixed}
    flat = traverse_util.flatten_dict(jax.tree.map(np.asarray, trees), sep=".")
    arrays = {name: np.ascontiguousarray(value) for name, value in flat.items() if hasattr(value, "dtype")}
    path = folder / FILE
    save_file(arrays, path, metadata={INFO: json.dumps({**student.info, "answers": student.entry})})
    return path


def load(path: Path, model: Any = None) -> Student:
    """Returns the student of a file; `model` is the module of one that only its author's code builds.

    Raises ValueError for a file that is damaged, or that kd_jax did not write.
    """
    try:
        with safe_open(path, "np") as file:
            text = (file.metadata() or {}).get(INFO)
            arrays = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as e:
        raise ValueError(f"{path} is no safetensors file, or is damaged ({e}).") from e
    if text is None:
        raise ValueError(f"{path} was not written by kd_jax.export: its metadata have no {INFO!r}.")
    info: dict[str, Any] = json.loads(text)
    trees: Mapping[str, Any] = traverse_util.unflatten_dict(arrays, sep=".")
    if model is None and info["architecture"]["name"] is None:
        raise ValueError(f"{path}: {info['architecture']['why']}. Give it: load(path, model=...).")
    network = as_model(rebuild(info["architecture"]) if model is None else model)
    parts = (jax.device_put(trees.get(kind, {})) for kind in ("params", "stats", "fixed"))
    return Student(info, network, *parts, entry=info["answers"])


def read(path: Path, student: Student) -> Run:
    """Returns what answers to raw examples by the network in the file; that of a given module needs `student`."""
    student = load(path, None if student.info["architecture"]["name"] else student.model)
    names = [i.name for i in raw_inputs(student)]

    def answer(*arrays: np.ndarray) -> list[np.ndarray]:
        batch = dict(zip(names, arrays, strict=True))
        return jax.tree.leaves(student.logits(batch))

    return answer


def how_to_load(path: Path) -> str:
    return f"kd_jax.export.safetensors.load(pathlib.Path({path.name!r}))"
