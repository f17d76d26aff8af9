"""Where data may lie, and the one message that tells what is missing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from kd_jax.data.source import DataNotFound


def places(directory: str, system: Sequence[str] = ()) -> list[Path]:
    """`directory` alone if it is given, else $KD_JAX_DATA, ~/tensorflow_datasets, ~/.cache/kd_jax, `system`."""
    if directory:
        return [Path(directory).expanduser()]
    own = [os.environ["KD_JAX_DATA"]] if os.environ.get("KD_JAX_DATA") else []
    tfds = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return [Path(place).expanduser() for place in (*own, tfds, "~/.cache/kd_jax", *system)]


def not_found(name: str, looked: Sequence[Path | str], fetch: Sequence[str]) -> DataNotFound:
    """The error for data that are nowhere: what, where it was looked for, and what gets them."""
    lines = [f"The data set {name!r} is not on this machine. Looked in:"]
    lines += [f"  {place}" for place in looked]
    lines += ["To get it:", *(f"  {line}" for line in fetch)]
    lines += ["or point data.directory (or $KD_JAX_DATA) at it.", "Without any download runs: --config=FILE.py:digits"]
    return DataNotFound("\n".join(lines))
