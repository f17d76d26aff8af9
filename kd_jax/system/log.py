"""The metrics of a run on their way from the device to files and progress, the nan check, traces."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax

from kd_jax.system import parallel
from kd_jax.system.progress import Progress
from kd_jax.system.trackers import Tracker
from kd_jax.system.writers import Accumulator, JsonlWriter, TensorBoardWriter, first_non_finite

T = TypeVar("T")


COMMON_CAUSES = (
    "Common causes: the learning rate, a weight in config.terms, a temperature near 0, a class that the student "
    "excludes (logit -inf) and the teacher does not."
)


class NonFiniteLoss(FloatingPointError):
    """A term or a gradient (`what`) became nan or infinite at `step`; the last good checkpoint stays."""

    def __init__(self, what: str, step: int, cause: str = COMMON_CAUSES) -> None:
        super().__init__(
            f"{what} became nan or infinite at step {step}. "
            f"The checkpoints in the run's folder are from before. {cause}"
        )
        self.what, self.step = what, step


class Profile:
    """Writes a jax.profiler trace of the steps first .. last, for TensorBoard, XProf or Perfetto; 0, 0 writes none.

    It covers whole dispatches: from the one with step `first` to the one with step `last`.
    """

    def __init__(self, directory: Path, first: int, last: int) -> None:
        self.directory, self.first, self.last, self.running = directory, first, last, False

    def __enter__(self) -> Profile:
        return self

    def __exit__(self, *_: object) -> None:
        if self.running:
            jax.profiler.stop_trace()

    def before(self, first: int, count: int) -> None:
        """Starts the trace where one of the steps first .. first + count - 1, which come next, is to be traced."""
        if not self.running and 1 <= self.first <= first + count - 1 and first <= self.last:
            jax.profiler.start_trace(self.directory)
            self.running = True

    def after(self, step: int, results: Any) -> None:
        """Ends the trace where `step`, the last of a dispatch, ends it; `results` are any outputs of the dispatch."""
        if self.running and step >= self.last:
            jax.block_until_ready(results)
            jax.profiler.stop_trace()
            self.running = False


class DataWait:
    """Measures the seconds in which the devices were idle because the next batch was not there."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock, self.seconds, self.since = clock, 0.0, clock()

    def around(self, batches: Iterable[T], idle: Callable[[], bool]) -> Iterator[T]:
        """Yields the batches. The wait for a batch counts if the devices are `idle()` when it arrives."""
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
        """Returns the counted seconds / the seconds since the last call, at most 1."""
        now = self.clock()
        share = self.seconds / max(now - self.since, 1e-9)
        self.seconds, self.since = 0.0, now
        return min(share, 1.0)


def _sums_last(item: tuple[str, Any]) -> int:
    """Sorts metrics so that a term comes before loss and gradient norm, which become nan because of it."""
    return (
        ("loss", "gradient_norm").index(name) + 1
        if (name := item[0].rpartition("/")[2]) in ("loss", "gradient_norm")
        else 0
    )


def _mean(value: float | list[float]) -> float:
    """Computes the mean of the finite entries of a list (one for each of several runs); a float is its own."""
    if not isinstance(value, list):
        return value
    finite = [v for v in value if math.isfinite(v)]
    return sum(finite) / len(finite) if finite else math.nan


def _single(last: int, steps: int, metrics: dict) -> list[tuple[int, dict]]:
    """Splits the metrics of a dispatch into [(step, metrics)]."""
    if steps == 1:
        return [(last, metrics)]
    return [(last - steps + 1 + i, jax.tree.map(lambda x, i=i: x[i], metrics)) for i in range(steps)]


class Log:
    """Collects metrics on the device, fetches them while the next step runs, and writes them to files and progress."""

    def __init__(
        self,
        directory: Path,
        record: dict[str, Any],
        step: int | None,
        every: int,
        progress: Progress,
        tracker: str = "",
    ) -> None:
        lead = parallel.is_lead()
        self.writers = [
            JsonlWriter(directory / "metrics.jsonl", step, lead),
            TensorBoardWriter(directory / "tensorboard", step, lead),
            Tracker(tracker, directory, step, lead),
        ]
        self.record, self.every, self.progress = record, every, progress
        self.sums = Accumulator.from_state(record["accumulator"])
        self.pending: list[tuple[int, int, dict]] = []
        self.flushed, self.data_wait = step or 0, DataWait()

    def add(self, step: int, metrics: dict, steps: int = 1) -> None:
        """Adds the metrics of the `steps` steps that end with `step`, stacked along axis 0 if there are several."""
        self.pending.append((step, steps, metrics))
        if (step - steps) // self.every > self.flushed // self.every:
            self.flush(step - steps)

    def flush(self, until: int) -> None:
        """Fetches, checks and writes the steps up to `until`, the last one of a dispatch.

        Raises NonFiniteLoss that names step and metric.
        """
        ready = [p for p in self.pending if p[0] <= until]
        self.pending = [p for p in self.pending if p[0] > until]
        self.flushed = max(until, self.flushed)
        ready = [
            single
            for (last, steps, _), values in zip(ready, jax.device_get([m for *_, m in ready]), strict=True)
            for single in _single(last, steps, values)
        ]
        bad = first_non_finite((step, dict(sorted(values.items(), key=_sums_last))) for step, values in ready)
        if bad:
            raise NonFiniteLoss(repr(bad[1]), bad[0])
        self._report(ready)
        self.record["accumulator"] = self.sums.state()

    def _report(self, ready: list[tuple[int, dict]]) -> None:
        """Adds the metrics up, and writes and shows their means at the end of each log interval."""
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

    def write(self, step: int, values: dict[str, Any]) -> None:
        for writer in self.writers:
            writer.write(step, values)

    def close(self) -> None:
        for writer in self.writers:
            writer.close()
