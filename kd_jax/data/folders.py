"""The folders in which data are looked for, and the one message that says what is missing."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

from kd_jax.data.source import DataNotFound
from kd_jax.files import path_of


def places(directory: str, system: Sequence[str] = ()) -> list[Path]:
    """Returns `directory` if it is not "", else $KD_JAX_DATA, ~/tensorflow_datasets, ~/.cache/kd_jax and `system`."""
    if directory:
        return [path_of(directory, "data.directory")]
    chosen = [os.environ["KD_JAX_DATA"]] if os.environ.get("KD_JAX_DATA") else []
    tfds = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return [Path(place).expanduser() for place in (*chosen, tfds, "~/.cache/kd_jax", *system)]


def in_package(name: str, directory: str, package: str, inside: str, kind: str, advice: str) -> Path:
    """Returns what `directory` names, or `inside` of an installed package where it is ""; nothing is imported.

    `kind` is "folder" or "file". DataNotFound, with `advice` how to get the data set `name`, where it is not there.
    """
    if directory:
        path = path_of(directory, "data.directory")
        if not (path.is_dir() if kind == "folder" else path.is_file()):
            raise DataNotFound(f"{name}: there is no {kind} {path}. {advice}")
        return path
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise DataNotFound(f"{name}: it is not on this machine. {advice}")
    return Path(spec.submodule_search_locations[0]) / inside


def not_found(name: str, looked: Sequence[Path | str], fetch: Sequence[str]) -> DataNotFound:
    """Returns the error for data that are in none of the places `looked`; `fetch` are ways to get them."""
    lines = [f"The data set {name!r} is not on this machine. Looked in:"]
    lines += [f"  {place}" for place in looked]
    lines += ["To get it:", *(f"  {line}" for line in fetch)]
    lines += ["or point data.directory (or $KD_JAX_DATA) at it.", "Without any download runs: --config=FILE.py:digits"]
    return DataNotFound("\n".join(lines))
