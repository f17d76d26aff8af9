"""Recordings of a watch as windows of an activity, float32 [windows, 100, 1, 6]: 2 s of 3 accelerations and 3 rates.

The splits hold different people. Windows do not overlap.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kd_jax.data import arrays
from kd_jax.data.folders import in_package
from kd_jax.data.load import DEFAULTS
from kd_jax.data.source import Splits
from kd_jax.types import Array

LENGTH = 100  # samples of a window, at 50 Hz
TEST, VALIDATION = 3, 2  # people; the other five are train's
_ADVICE = (
    "The recordings lie in the wheel of seglearn: pip install --no-deps seglearn. Or data.directory names the file "
    "watch_dataset.npy."
)
# What the file is made of; anything else in a pickle is code that it would run.
_SAFE = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): lambda text, encoding: text.encode(encoding),
}


class _Arrays(pickle.Unpickler):
    """Reads arrays, lists and dicts, and refuses whatever else a pickle names."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return np.empty(0).__reduce__()[0]
        if (module, name) not in _SAFE:
            raise ValueError(f"it names {module}.{name}, which is no part of an array")
        return _SAFE[module, name]


def watch(config: Mapping[str, Any]) -> Splits:
    """Loads the exercises of 10 people with a watch (D. Burns et al., "Shoulder Physiotherapy Exercise Recognition",
    2018, arXiv 1802.01489): 140 recordings of 7 exercises.

    3 people are test, 2 validation, 5 train, which ones `split_seed` draws. Fields: subject, side (0 left, 1 right).
    DataNotFound where the file is not on this machine, ValueError where it is of another form.
    """
    fields = {**DEFAULTS, **config}
    recorded = read(in_package("watch", fields["directory"], "seglearn", "data/watch_dataset.npy", "file", _ADVICE))
    people = np.random.default_rng(fields["split_seed"]).permutation(np.unique(recorded["subject"]))
    parts = {
        "test": people[:TEST],
        "validation": people[TEST : TEST + VALIDATION],
        "train": people[TEST + VALIDATION :],
    }
    windows = {split: _windows(recorded, chosen) for split, chosen in parts.items()}
    rows = windows["train"][0].reshape(-1, windows["train"][0].shape[-1]).astype(np.float64)
    mean, std = tuple(rows.mean(0)), tuple(rows.std(0))

    def make(split: str) -> Any:
        x, y, more = windows[split]
        names = tuple(map(str, recorded["y_labels"]))
        return arrays.in_memory("watch", split, x, y, class_names=names, mean=mean, std=std, fields=more)

    return Splits(make("train"), make("validation"), make("test"))


def read(path: Path) -> dict[str, Any]:
    """Returns the recordings {X: list of [samples, 6], y, subject, side, y_labels}; no code in the file is run."""
    with path.open("rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            header(file)
            recorded = _Arrays(file, encoding="latin1").load().item()
            missing = {"X", "y", "subject", "side", "y_labels"} - set(recorded)
        except (ValueError, AttributeError, EOFError, pickle.UnpicklingError, TypeError) as e:
            raise ValueError(f"watch: {path} is not the file of seglearn: {e}") from e
    if missing:
        raise ValueError(f"watch: {path} is not the file of seglearn: it lacks {', '.join(sorted(missing))}")
    return recorded


def _windows(recorded: Mapping[str, Any], people: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Returns (windows, classes, fields) of these people; the rest of a recording that fills no window is left out."""
    x, rows = [], []
    for number, signal in enumerate(recorded["X"]):
        if recorded["subject"][number] in people:
            count = len(signal) // LENGTH
            x.append(np.asarray(signal[: count * LENGTH], np.float32).reshape(count, LENGTH, 1, -1))
            rows += [number] * count
    more = {name: np.asarray(recorded[name])[rows].astype(np.int32) for name in ("subject", "side")}
    return np.concatenate(x), np.asarray(recorded["y"])[rows].astype(np.int32), more


def accelerations(batch: Mapping[str, Array], train: bool) -> dict[str, Array]:
    """Returns {"acceleration": [batch, length, 1, 3]} of the prepared windows: for config.prepare."""
    del train
    return {"acceleration": batch["image"][..., :3]}
