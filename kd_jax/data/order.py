"""The order of examples as a pure function of (seed, step): there is nothing to checkpoint, and resume is exact.

The position p = step * batch_size + row counts through an endless stream of n examples: p // n is the epoch (an
example's `view`), p % n the place in that epoch's permutation, which is drawn from (seed, stream, epoch) alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

LABELLED, OTHER = 1, 2  # streams of their own, so that neither moves when the other one grows


@functools.lru_cache(maxsize=4)
def permutation(n: int, seed: int, epoch: int, stream: int = 0) -> np.ndarray:
    """Returns the order int32 [n] of an epoch, from a cache of four: two epochs of two streams can meet in a batch."""
    order = np.random.default_rng((seed, stream, epoch)).permutation(n).astype(np.int32)
    order.setflags(write=False)
    return order


def stream_rows(n: int, start: int, count: int, seed: int, stream: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns (index, view), both int32 [count], of the positions start .. start + count - 1."""
    if n < 1:
        raise ValueError("there are no examples to draw from")
    index, view = np.empty(count, np.int32), np.empty(count, np.int32)
    done = 0
    while done < count:
        epoch, offset = divmod(start + done, n)
        size = min(n - offset, count - done)
        index[done : done + size] = permutation(n, seed, epoch, stream)[offset : offset + size]
        view[done : done + size] = epoch
        done += size
    return index, view


def batch_indices(n: int, batch_size: int, seed: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (index, view), both int32 [batch_size], of the batch of this step."""
    return stream_rows(n, step * batch_size, batch_size, seed)


def repeated_indices(n: int, batch_size: int, seed: int, repeats: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (index, view), both int32 [batch_size], of a batch that has every example `repeats` times in a row.

    Each time is a view of its own, so that its pictures differ: Hoffer, Ben-Nun, Hubara, Giladi, Hoefler, Soudry,
    "Augment your batch", 2019, arXiv 1901.09335. An example begun at the end of a batch goes on in the next.
    """
    position = step * batch_size + np.arange(batch_size, dtype=np.int64)
    first = position[0] // repeats
    index, epoch = stream_rows(n, int(first), int(position[-1] // repeats - first) + 1, seed)
    place = position // repeats - first
    return index[place], (epoch[place] * repeats + position % repeats).astype(np.int32)


def labelled_rows(batch_size: int, share: float) -> int:
    """Returns how many rows of a mixed batch have a label: share * batch_size, rounded half up.

    Raises ValueError for a share outside [0, 1], and for one that leaves either kind without rows by rounding.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"labelled_share is in [0, 1], got {share}")
    rows = int(share * batch_size + 0.5)
    if (rows == 0 and share > 0) or (rows == batch_size and share < 1):
        raise ValueError(f"labelled_share={share} of a batch of {batch_size} rounds to {rows} rows")
    return rows


def mixed_indices(
    labelled_ids: np.ndarray, other_ids: np.ndarray, batch_size: int, labelled_share: float, seed: int, step: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (index, view), both int32 [batch_size]: labelled rows first, then the others.

    Each kind is an endless stream with epochs of its own, so a `view` counts how often that example came before.
    """
    first = labelled_rows(batch_size, labelled_share)
    streams = []
    for ids, count, stream in ((labelled_ids, first, LABELLED), (other_ids, batch_size - first, OTHER)):
        if count:
            place, view = stream_rows(len(ids), step * count, count, seed, stream)
            streams.append((np.asarray(ids)[place].astype(np.int32), view))
    index, view = zip(*streams, strict=True)
    return np.concatenate(index), np.concatenate(view)


def repeated(rows: Callable[[int], tuple[np.ndarray, np.ndarray]], views: int, step: int) -> tuple:
    """Returns rows(step) with views modulo `views`: each example has that many pictures, which come again."""
    index, view = rows(step)
    return index, view % views


def views_needed(n: int, batch_size: int, steps: int) -> int:
    """Returns how many views of its examples a stream of n has shown after `steps` steps."""
    return -(-steps * batch_size // n) if n else 0
