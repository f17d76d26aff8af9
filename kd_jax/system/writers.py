"""(sum, count) pairs on their way to files: added up exactly, appended to JSONL, shown by TensorBoard.

A mean of means is wrong as soon as batches differ in size, so every metric stays a (sum, count) until it is shown.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Pair = tuple[Any, Any]


@dataclasses.dataclass
class Accumulator:
    """Adds up (sum, count) pairs in float64; `result` is sum / count.

    Pairs of vectors (per class, per bin) are added entry by entry. JSON stores the state exactly, so a run resumed in
    the middle of a log interval reports what an unbroken run reports.
    """

    totals: dict[str, list[Any]] = dataclasses.field(default_factory=dict)

    def add(self, metrics: Mapping[str, Pair]) -> None:
        """Adds {name: (sum, count)}, each a scalar or an array of one shape. Raises ValueError if a shape changes."""
        for name, (total, count) in metrics.items():
            new = [np.asarray(total, np.float64), np.asarray(count, np.float64)]
            old = [np.asarray(value) for value in self.totals.get(name, (np.zeros_like(new[0]),) * 2)]
            shapes = {value.shape for value in (*new, *old)}
            if len(shapes) != 1:
                raise ValueError(
                    f"metric {name!r}: sum {new[0].shape} and count {new[1].shape}, expected {old[0].shape} for both"
                )
            self.totals[name] = [(a + b).tolist() for a, b in zip(old, new, strict=True)]

    def result(self) -> dict[str, Any]:
        """Returns {name: sum / count}: a float, or a list of floats for vectors; nan where nothing was counted."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return {name: np.divide(*map(np.asarray, pair)).tolist() for name, pair in self.totals.items()}

    def state(self) -> dict[str, list[Any]]:
        """Returns {name: [sum, count]}, ready for JSON."""
        return {name: list(pair) for name, pair in self.totals.items()}

    @classmethod
    def from_state(cls, state: Mapping[str, list[Any]]) -> Accumulator:
        return cls({name: list(pair) for name, pair in state.items()})

    def reset(self) -> None:
        self.totals = {}


def first_non_finite(history: Iterable[tuple[int, Mapping[str, Pair]]]) -> tuple[int, str] | None:
    """Returns the first (step, name) in this order whose sum or count is nan or infinite; None if all are finite.

    A pair of vectors (an entry for each of several runs) counts only if every entry is: the other runs go on.
    """
    for step, metrics in history:
        for name, pair in metrics.items():
            if not all(np.isfinite(np.asarray(value, np.float64)).any() for value in pair):
                return step, name
    return None


def _plain(value: Any) -> Any:
    """Returns the value as JSON can hold it; nan and infinity become null, since they are not JSON."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return _plain(np.asarray(value).tolist())


class JsonlWriter:
    """Appends one JSON object a line: {"step": step, **values}, keys sorted, floats in full precision.

    `resume_step=None` starts an empty file. With a step, records after it are dropped (they will be written again), and
    so is a last line that was cut off. A resumed run therefore ends with the same bytes as an unbroken one, as long as
    the values hold no wall-clock time. `enabled=False` (all processes but the first) does nothing.
    Raises ValueError if a line before the last is no record.
    """

    def __init__(self, path: str | os.PathLike[str], resume_step: int | None = None, enabled: bool = True) -> None:
        self.path = Path(path)
        self._file = None
        if not enabled:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        records = b"" if resume_step is None else _records_until(self.path, resume_step)
        # A new file and a rename: a crash in between leaves the old records or the new ones, never half of them.
        fresh = self.path.with_name(self.path.name + ".tmp")
        with open(fresh, "wb") as file:
            file.write(records)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, self.path)
        self._file = open(self.path, "ab")

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes one record and hands it to the operating system. Raises ValueError if `values` has its own "step"."""
        if self._file is None:
            return
        if "step" in values:
            raise ValueError(f'"step" is written by the writer; the values are named {sorted(values)}')
        record = json.dumps({"step": step, **_plain(values)}, sort_keys=True, allow_nan=False)
        self._file.write(record.encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _records_until(path: Path, last_step: int) -> bytes:
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            step = int(json.loads(line)["step"]) if line.endswith(b"\n") else None
        except (ValueError, KeyError, TypeError) as error:
            if number < len(lines):
                raise ValueError(f"{path}, line {number}: expected a JSON object with a step, got {line!r}") from error
            step = None
        if step is not None and step <= last_step:
            records.append(line)
    return b"".join(records)


class TensorBoardWriter:
    """Writes scalars as TensorBoard event files (tensorboardX, no TensorFlow) and leaves out arrays, None and nan.

    Event files cannot be cut, so a resumed run tells TensorBoard to hide all that was written after `resume_step`; with
    None it hides all that the directory held. `enabled=False` does nothing.
    """

    def __init__(self, directory: str | os.PathLike[str], resume_step: int | None = None, enabled: bool = True) -> None:
        self._writer = None
        if enabled:
            from tensorboardX import SummaryWriter  # here, since only one process needs it

            purge = 0 if resume_step is None else resume_step + 1
            # File names hold whole seconds; without the suffix a quick restart would overwrite the first file.
            self._writer = SummaryWriter(str(directory), purge_step=purge, filename_suffix=f".{purge:012d}")

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        if self._writer is None:
            return
        for name, value in sorted(values.items()):
            if value is not None and not isinstance(value, str) and np.ndim(value) == 0 and not np.isnan(value):
                self._writer.add_scalar(name, float(value), step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
