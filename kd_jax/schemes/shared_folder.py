"""Exchange of weights between separate runs through a folder that all of them can read and write."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from kd_jax.types import PyTree

POLL_SECONDS = 0.05
REMEDY = "Remove it: its peer writes it again when it reaches that step. If it is past that step, start all peers anew."


def publish(folder: Path, step: int, index: int, tree: PyTree) -> str:
    """Writes the arrays of `tree` for the other peers, whole or not at all, and returns their checksum.

    Raises ValueError where the file exists with other arrays: a run that resumes repeats itself exactly.
    """
    arrays = _named(jax.device_get(_placed(tree, jax.tree.map(_whole, tree))))
    checksum, path = _checksum(arrays), _path(folder, step, index)
    if path.exists():
        if _read(path)[1] != checksum:
            raise ValueError(
                f"{path} holds other weights than this run has at step {step}. Was the folder used by another run, or "
                f"by this one on other devices? Choose an empty folder."
            )
        return checksum
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(f".{os.getpid()}.tmp")
        with open(scratch, "wb") as f:
            np.savez(f, checksum=np.array(checksum), **arrays)
            f.flush()
            os.fsync(f.fileno())
        os.replace(scratch, path)
    return checksum


def collect(folder: Path, step: int, index: int, like: PyTree, timeout: float) -> tuple[PyTree, str]:
    """Returns the tree that peer `index` published at this step, placed as `like` is, and its checksum.

    Raises TimeoutError when the file does not exist after `timeout` seconds, ValueError when it is damaged or holds
    other shapes.
    """
    path, deadline = _path(folder, step, index), time.monotonic() + timeout
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"Peer {index} has not written {path} within {timeout:g} s. Does it run, with the same folder, steps, "
                f"every and burn_in? Start it and this peer again: both resume."
            )
        time.sleep(POLL_SECONDS)
    arrays, checksum = _read(path)
    wanted = _named(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), like))
    here, there = ({n: x.shape for n, x in each.items()} for each in (wanted, arrays))
    if wrong := sorted(n for n in {**wanted, **arrays} if here.get(n) != there.get(n)):
        raise ValueError(f"{path} holds another network: {len(wrong)} arrays differ, the first is {wrong[0]}.")
    # NumPy writes bfloat16 as bytes without a type.
    typed = [arrays[n].view(x.dtype) if arrays[n].dtype.kind == "V" else arrays[n] for n, x in wanted.items()]
    tree = jax.tree.unflatten(jax.tree.structure(like), typed)
    return _placed(tree, jax.tree.map(lambda x: x.sharding, like)), checksum


def _whole(x: jax.Array) -> Any:
    """Returns the sharding under which every device has all of x."""
    return NamedSharding(x.sharding.mesh, PartitionSpec()) if isinstance(x.sharding, NamedSharding) else x.sharding


def _same(tree: PyTree) -> PyTree:
    return tree


def _placed(tree: PyTree, shardings: PyTree) -> PyTree:
    """Places a tree by jit, which also moves arrays between the processes of a run; device_put does not."""
    return jax.jit(_same, out_shardings=shardings)(tree)


def _path(folder: Path, step: int, index: int) -> Path:
    return folder / f"step{step:08d}_peer{index}.npz"


def _named(tree: PyTree) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _checksum(arrays: Mapping[str, np.ndarray]) -> str:
    sha = hashlib.sha256()
    for name in sorted(arrays):
        sha.update(f"{name} {arrays[name].shape};".encode())
        sha.update(np.ascontiguousarray(arrays[name]).tobytes())
    return sha.hexdigest()


def _read(path: Path) -> tuple[dict[str, np.ndarray], str]:
    """Returns the arrays and their checksum. Raises ValueError when the file is damaged."""
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files if name != "checksum"}
            checksum = str(file["checksum"])
    except Exception as e:  # zipfile, zlib and NumPy raise many kinds
        raise ValueError(f"{path} is damaged: {type(e).__name__}: {e}. {REMEDY}") from e
    if checksum != _checksum(arrays):
        raise ValueError(f"{path} is damaged: its checksum is wrong. {REMEDY}")
    return arrays, checksum
