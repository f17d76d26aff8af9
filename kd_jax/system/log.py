"""Watching a run: metrics on their way from the device to files and progress, the nan check, SIGTERM."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import jax
from jax.experimental import multihost_utils

from kd_jax.system import parallel
from kd_jax.system.progress import Progress
from kd_jax.system.writers import Accumulator, JsonlWriter, TensorBoardWriter, first_non_finite

T = TypeVar("T")


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
        self._before = None
        if jax.process_count() > 1:
            return self  # JAX's own handler stays, which tells the other processes
        try:
            self._before = signal.signal(signal.SIGTERM, self._note)
        except ValueError:  # not in the main thread: a notebook's worker keeps its own handling
            pass
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def stop_at(self, step: int) -> bool:
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self.asked


class Profile:
    """A jax.profiler trace of the steps first .. last in `directory`, for TensorBoard, XProf or Perfetto; 0, 0: none.

    Whole dispatches are traced: the one that holds `first` to the one that holds `last`.
    """

    def __init__(self, directory: Path, first: int, last: int) -> None:
        self.directory, self.first, self.last, self.running = directory, first, last, False

    def __enter__(self) -> Profile:
        return self

    def __exit__(self, *_: object) -> None:
        if self.running:
            jax.profiler.stop_trace()

    def before(self, first: int, count: int) -> None:
        """Before the steps first .. first + count - 1."""
        if not self.running and 1 <= self.first <= first + count - 1 and first <= self.last:
            jax.profiler.start_trace(self.directory)
            self.running = True

    def after(self, step: int, results: Any) -> None:
        if self.running and step >= self.last:
            jax.block_until_ready(results)
            jax.profiler.stop_trace()
            self.running = False


class DataWait:
    """Seconds in which the devices had nothing to do, since the next batch was not there."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock, self.seconds, self.since = clock, 0.0, clock()

    def around(self, batches: Iterable[T], idle: Callable[[], bool]) -> Iterator[T]:
        """The batches. The time that one takes to come counts where the devices are `idle` when it has come."""
        batches = iter(batches)
        while True:
            asked = self.clock()
            try:
                batch = next(batches)
            except StopIteration:
                return
            if idle():
                self.seconds += self.clock() - asked
            yield batch

    def share(self) -> float:
        """Of the time since the last call."""
        now = self.clock()
        share = self.seconds / max(now - self.since, 1e-9)
        self.seconds, self.since = 0.0, now
        return min(share, 1.0)


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


def _single(last: int, steps: int, metrics: dict) -> list[tuple[int, dict]]:
    """The metrics of a dispatch step by step."""
    if steps == 1:
        return [(last, metrics)]
    return [(last - steps + 1 + i, jax.tree.map(lambda x, i=i: x[i], metrics)) for i in range(steps)]


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
        self.pending: list[tuple[int, int, dict]] = []
        self.flushed, self.data_wait = step or 0, DataWait()

    def add(self, step: int, metrics: dict, steps: int = 1) -> None:
        """Metrics of the `steps` steps that end with `step`, on an axis of their own where there are several."""
        self.pending.append((step, steps, metrics))
        if (step - steps) // self.every > self.flushed // self.every:
            self.flush(step - steps)

    def flush(self, until: int) -> None:
        """Fetches, checks and writes the steps up to `until`, the last one of a dispatch."""
        ready = [p for p in self.pending if p[0] <= until]
        self.pending = [p for p in self.pending if p[0] > until]
        self.flushed = max(until, self.flushed)
        ready = [
            p
            for given, values in zip(ready, jax.device_get([m for *_, m in ready]), strict=True)
            for p in _single(*given[:2], values)
        ]
        bad = first_non_finite((step, dict(sorted(values.items(), key=_sums_last))) for step, values in ready)
        if bad:
            raise NonFiniteLoss(
                f"{bad[1]!r} became nan or infinite at step {bad[0]}. "
                "The checkpoints in the run's folder are from before. "
                "Common causes: the learning rate, a weight in config.terms, a temperature near 0."
            )
        waiting = None
        for step, metrics in ready:
            self.sums.add(metrics)
            if step % self.every == 0:
                values = self.sums.result()
                self.write(step, {"kind": "train", **values})
                shown = {name: _mean(value) for name, value in values.items()}
                waiting = self.data_wait.share() if waiting is None else waiting
                self.progress.update(step, shown, waiting)
                self.sums.reset()
        self.record["accumulator"] = self.sums.state()

    def write(self, step: int, values: dict[str, Any]) -> None:
        for writer in self.writers:
            writer.write(step, values)

    def close(self) -> None:
        for writer in self.writers:
            writer.close()
