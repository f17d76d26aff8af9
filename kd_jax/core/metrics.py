"""What is measured, and where it is written: (sum, count) pairs, per-example metrics, calibration, writers.

A mean of means is wrong as soon as batches differ in size, so everything travels as (sum, count) until it is shown.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Pair = tuple[Any, Any]


@dataclasses.dataclass
class Accumulator:
    """Adds up (sum, count) pairs in float64; `result` is sum / count.

    A pair may hold vectors (per class, per bin): they are added entry by entry. The state is exact through JSON, so
    that a run resumed in the middle of a log interval reports what an unbroken run reports.
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
        """{name: sum / count}: a float, or a list of floats for vectors; nan where nothing was counted."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return {name: np.divide(*map(np.asarray, pair)).tolist() for name, pair in self.totals.items()}

    def state(self) -> dict[str, list[Any]]:
        """{name: [sum, count]}, ready for JSON."""
        return {name: list(pair) for name, pair in self.totals.items()}

    @classmethod
    def from_state(cls, state: Mapping[str, list[Any]]) -> Accumulator:
        return cls({name: list(pair) for name, pair in state.items()})

    def reset(self) -> None:
        self.totals = {}


def first_non_finite(history: Iterable[tuple[int, Mapping[str, Pair]]]) -> tuple[int, str] | None:
    """The first (step, name) whose sum or count is nan or infinite, in the order given; None if all are finite.

    Of a pair of vectors (a number for each of several runs) only if every entry is: the other runs go on.
    """
    for step, metrics in history:
        for name, pair in metrics.items():
            if not all(np.isfinite(np.asarray(value, np.float64)).any() for value in pair):
                return step, name
    return None


# Per-example metrics. Logits are [..., classes], labels int [...], the result float32 [...]. An example without a
# label (-1) gives 0 and has to be left out with a mask, as everywhere.


def accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """1 where argmax(logits) == label, else 0. Ties go to the lowest class."""
    return (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)


def top5(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """1 where the label is among the five largest logits, else 0; with fewer than five classes, always 1.

    By position and not by counting larger logits, which calls a network that outputs constants (or nan) perfect.
    """
    _, best = jax.lax.top_k(logits, min(5, logits.shape[-1]))
    return jnp.any(best == labels[..., None], axis=-1).astype(jnp.float32)


def nll(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """-log softmax(logits)[label], in nats."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    picked = jnp.take_along_axis(log_p, jnp.maximum(labels, 0)[..., None], axis=-1)[..., 0]
    return jnp.where(labels >= 0, -picked, 0.0)


def agreement(logits: jax.Array, reference_logits: jax.Array) -> jax.Array:
    """1 where both networks predict the same class, right or wrong, else 0.

    "Top-1 agreement" of Stanton, Izmailov, Kirichenko, Alemi, Wilson, Does Knowledge Distillation Really Work?, 2021,
    arXiv 2106.05945.
    """
    return (jnp.argmax(logits, axis=-1) == jnp.argmax(reference_logits, axis=-1)).astype(jnp.float32)


def kl(logits: jax.Array, reference_logits: jax.Array) -> jax.Array:
    """KL(reference || network) = sum_c q_c (log q_c - log p_c) at temperature 1, in nats."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    log_q = jax.nn.log_softmax(reference_logits.astype(jnp.float32), axis=-1)
    # exp(-inf) * (-inf - x) is nan where a class is excluded in the reference; its share of the sum is 0.
    terms = jnp.where(log_q > -jnp.inf, jnp.exp(log_q) * (log_q - log_p), 0.0)
    return jnp.sum(terms, axis=-1)


def calibration_bins(
    logits: jax.Array, labels: jax.Array, mask: jax.Array | None = None, bins: int = 15
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(sum of confidences, sum of hits, count) in each of `bins` equal bins ((m-1)/bins, m/bins]; each float32 [bins].

    Confidence is max softmax(logits). logits [batch, classes], labels [batch], mask bool [batch]; examples that are
    masked out or have no label (-1) count nowhere. Results of parts of a data set add up to those of the whole.
    Binning of Guo, Pleiss, Sun, Weinberger, On Calibration of Modern Neural Networks, 2017, arXiv 1706.04599.
    """
    confidence = jnp.max(jax.nn.softmax(logits.astype(jnp.float32), axis=-1), axis=-1)
    index = jnp.clip(jnp.ceil(confidence * bins).astype(jnp.int32) - 1, 0, bins - 1)
    counted = labels >= 0 if mask is None else mask & (labels >= 0)
    member = (index[:, None] == jnp.arange(bins)[None, :]) & counted[:, None]
    # where and sum instead of a product with the one-hot matrix: matrix products may run in bfloat16.
    return (
        jnp.sum(jnp.where(member, confidence[:, None], 0.0), axis=0),
        jnp.sum(jnp.where(member, accuracy(logits, labels)[:, None], 0.0), axis=0),
        jnp.sum(member.astype(jnp.float32), axis=0),
    )


def expected_calibration_error(confidence_sum: Any, correct_sum: Any, count: Any) -> float:
    """ECE = sum_m |confidence_sum_m - correct_sum_m| / sum_m count_m, on the host; nan if nothing was counted.

    The arguments are [bins] sums of calibration_bins. Guo et al. 2017, arXiv 1706.04599, equation 3.
    """
    total = float(np.sum(np.asarray(count, np.float64)))
    gap = np.abs(np.asarray(confidence_sum, np.float64) - np.asarray(correct_sum, np.float64))
    return float(gap.sum() / total) if total else math.nan


def _plain(value: Any) -> Any:
    """The value as JSON can hold it; nan and infinity become null, since they are not JSON."""
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

    `resume_step=None` starts an empty file. With a step, records after it are dropped (they will be written again),
    as is a last line that was cut off. A resumed run therefore ends with the same bytes as an unbroken one, as long as
    the values hold no wall-clock time. `enabled=False` (all processes but the first) does nothing.
    Raises ValueError if another line than the last is no record.
    """

    def __init__(self, path: str | os.PathLike[str], resume_step: int | None = None, enabled: bool = True) -> None:
        self.path = Path(path)
        self._file = None
        if not enabled:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = b"" if resume_step is None else _records_until(self.path, resume_step)
        # A new file and a rename: a crash in between leaves the old records or the new ones, never half of them.
        fresh = self.path.with_name(self.path.name + ".tmp")
        with open(fresh, "wb") as file:
            file.write(kept)
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
        record = json.dumps({"step": int(step), **_plain(values)}, sort_keys=True, allow_nan=False)
        self._file.write(record.encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _records_until(path: Path, last_step: int) -> bytes:
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    kept = []
    for number, line in enumerate(lines, start=1):
        try:
            step = int(json.loads(line)["step"]) if line.endswith(b"\n") else None
        except (ValueError, KeyError, TypeError) as error:
            if number < len(lines):
                raise ValueError(f"{path}, line {number}: expected a JSON object with a step, got {line!r}") from error
            step = None
        if step is not None and step <= last_step:
            kept.append(line)
    return b"".join(kept)


class TensorBoardWriter:
    """Writes scalars as TensorBoard event files (tensorboardX; no TensorFlow). Arrays and None are left out.

    Event files cannot be cut, so a resumed run tells TensorBoard to hide what was written after `resume_step`; with
    None it hides everything that the directory held. `enabled=False` does nothing.
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
            if value is not None and not isinstance(value, str) and np.ndim(value) == 0:
                self._writer.add_scalar(name, float(value), int(step))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
