"""Batches on the host for sets that are read one example at a time, through Grain.

This module imports no JAX: worker processes import it too.
"""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable, Iterator

import numpy as np
from absl import flags

from kd_jax.data.source import Source, has_label

Rows = Callable[[int], tuple[np.ndarray, np.ndarray]]

THREADS = min(16, os.cpu_count() or 1)  # each makes a batch of its own


def host_batches(
    source: Source, rows: Rows, local: np.ndarray, *, seed: int | None, start: int, count: int, workers: int
) -> Iterator[dict[str, np.ndarray]]:
    """Returns an iterator over the rows `local` of the batches of `count` steps from `start`.

    `seed=None` is evaluation, without random crops. Every example is a function of its position, so resume is exact.
    `workers` processes read; 0 reads in threads of this one, ValueError for a negative number.
    """
    import grain  # a third of a second, which sets in memory need not wait for

    if workers < 0:
        raise ValueError(f"workers={workers} is negative")
    size = len(local)
    read = functools.partial(_read, source, rows, local, seed)
    data = grain.MapDataset.range(start * size, (start + count) * size).map(read).batch(size)
    threads = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=THREADS)
    data = data.to_iter_dataset(threads)
    if workers:
        if not flags.FLAGS.is_parsed():  # Grain's workers read absl flags; in a notebook or a test nobody parses them
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        data = data.mp_prefetch(options, worker_init_fn=_leave_ctrl_c)
    return iter(data)


def _leave_ctrl_c(worker: int, workers: int) -> None:
    """A terminal sends Ctrl-C to workers too; the process that they read for saves first, and then ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _read(source: Source, rows: Rows, local: np.ndarray, seed: int | None, position: int) -> dict[str, np.ndarray]:
    step, row = divmod(position, len(local))
    index, view = (numbers[local[row]] for numbers in _rows_of_step(rows, step))
    example = source.example(int(index)) if seed is None else source.example(int(index), int(view), seed)
    labelled = has_label(np.asarray(example["label"])[None], source.per_place)[0]
    return {**example, "labelled": labelled, "index": index, "view": view}


@functools.lru_cache(maxsize=32)
def _rows_of_step(rows: Rows, step: int) -> tuple[np.ndarray, np.ndarray]:
    return rows(step)
