"""Watching a run: metrics on their way from the device to files and progress, the nan check, SIGTERM."""

from __future__ import annotations

import math
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

from kd_jax import parallel
from kd_jax.metrics import Accumulator, JsonlWriter, TensorBoardWriter, first_non_finite
from kd_jax.progress import Progress


class NonFiniteLoss(FloatingPointError):
    """A term or a gradient became nan or infinite; the last good checkpoint is kept."""


class Stopped(SystemExit):
    """SIGTERM stopped the run after a save; the same command resumes it. As a SystemExit it ends a script with 0."""


class Signals:
    """SIGTERM becomes a flag that the loop reads between two steps; several processes agree on the step to stop at."""

    def __init__(self) -> None:
        self.asked = False

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.asked = True

    def __enter__(self) -> Signals:
        try:
            self._before = signal.signal(signal.SIGTERM, self._note)
        except ValueError:  # not in the main thread: a notebook's worker keeps its own handling
            self._before = None
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def stop_at(self, step: int) -> bool:
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self.asked


def _sums_last(item: tuple[str, Any]) -> int:
    """A nan in one term makes the loss and the gradient nan too: the term is to blame."""
    return (
        ("loss", "gradient_norm").index(name) + 1
        if (name := item[0].rpartition("/")[2]) in ("loss", "gradient_norm")
        else 0
    )


def _mean(value: float | list[float]) -> float:
    """Of the members that are finite."""
    if not isinstance(value, list):
        return value
    finite = [v for v in value if math.isfinite(v)]
    return sum(finite) / len(finite) if finite else math.nan


class Log:
    """Metrics on their way from the device to the files; they are fetched while the next step runs."""

    def __init__(self, directory: Path, record: dict[str, Any], step: int | None, every: int, progress: Progress):
        lead = parallel.is_lead()
        self.writers = [
            JsonlWriter(directory / "metrics.jsonl", step, lead),
            TensorBoardWriter(directory / "tensorboard", step, lead),
        ]
        self.record, self.every, self.progress = record, every, progress
        self.sums = Accumulator.from_state(record["accumulator"])
        self.pending: list[tuple[int, dict]] = []

    def add(self, step: int, metrics: dict) -> None:
        self.pending.append((step, metrics))
        if (step - 1) % self.every == 0:
            self.flush(step - 1)

    def flush(self, until: int) -> None:
        ready = [p for p in self.pending if p[0] <= until]
        self.pending = [p for p in self.pending if p[0] > until]
        ready = [(step, values) for (step, _), values in zip(ready, jax.device_get([m for _, m in ready]), strict=True)]
        bad = first_non_finite((step, dict(sorted(values.items(), key=_sums_last))) for step, values in ready)
        if bad:
            raise NonFiniteLoss(
                f"{bad[1]!r} became nan or infinite at step {bad[0]}. "
                "The checkpoints in the run's folder are from before. "
                "Common causes: the learning rate, a weight in config.terms, a temperature near 0."
            )
        for step, metrics in ready:
            self.sums.add(metrics)
            if step % self.every == 0:
                values = self.sums.result()
                self.write(step, {"kind": "train", **values})
                self.progress.update(step, {name: _mean(value) for name, value in values.items()})
                self.sums.reset()
        self.record["accumulator"] = self.sums.state()

    def write(self, step: int, values: dict[str, Any]) -> None:
        for writer in self.writers:
            writer.write(step, values)

    def close(self) -> None:
        for writer in self.writers:
            writer.close()
