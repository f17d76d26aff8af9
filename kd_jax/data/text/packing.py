"""Which rows of tokens lie in which row of a batch, and the arrays of such a row.

tokens       int32 [L]  all tokens of a row but the last
label        int32 [L]  the token that follows where it is learned, else -1
segments     int32 [L]  the number of the row in it, 0 = padding
label_bytes  int32 [L]  how many bytes of the text the label adds, -1 where it spells none
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kd_jax.data.text.rows import Row

TRUNCATIONS = ("right", "left", "drop")
Piece = tuple[int, int, int]  # row of the data, first token, end


class Cut(NamedTuple):
    """The pieces of rows that are read, and what became of the others: how many were cut, and left out."""

    pieces: list[Piece]
    cut: int
    dropped: int


def cut(lengths: np.ndarray, room: int, truncation: str) -> Cut:
    """Cuts rows to `room` tokens: "right" and "left" name the side that is lost, "drop" leaves longer rows out."""
    long = lengths > room
    if truncation == "drop":
        return Cut([(int(i), 0, int(lengths[i])) for i in np.flatnonzero(~long)], 0, int(long.sum()))
    begins = np.where(long & (truncation == "left"), lengths - room, 0)
    ends = np.minimum(begins + room, lengths)
    return Cut([(i, int(a), int(b)) for i, (a, b) in enumerate(zip(begins, ends, strict=True))], int(long.sum()), 0)


def in_pieces(lengths: np.ndarray, room: int) -> list[Piece]:
    """Cuts running texts into pieces that share a token with the next: every token but the first is learned."""
    step = room - 1
    return [
        (row, begin, min(begin + room, int(length)))
        for row, length in enumerate(lengths)
        for begin in range(0, max(int(length) - 1, 1), step)
    ]


def packed(sizes: Sequence[int], length: int) -> list[list[int]]:
    """Returns groups of numbers whose sizes add up to at most `length`: best fit, the largest first.

    Ding et al., "Fewer Truncations Improve Language Modeling", 2024, arXiv 2404.10830. A group lists its numbers in
    order, and groups are in the order of their first.
    """
    groups: list[list[int]] = []
    free: dict[int, list[int]] = {}  # room -> groups that have it
    rooms: list[int] = []  # the keys of `free`, sorted
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        at = bisect.bisect_left(rooms, sizes[i])
        if at < len(rooms):
            room = rooms[at]
            group = free[room].pop()
            if not free[room]:
                del free[room], rooms[at]
        else:
            room, group = length, len(groups)
            groups.append([])
        groups[group].append(i)
        left = room - sizes[i]
        if left not in free:
            bisect.insort(rooms, left)
            free[left] = []
        free[left].append(group)
    return sorted(sorted(group) for group in groups)


def arranged(
    row: Callable[[int], Row], pieces: Sequence[Piece], length: int, pad: int, shift: bool
) -> Mapping[str, Any]:
    """Returns the arrays of a row that holds these pieces; without `shift` (a prompt alone) all tokens, no label."""
    tokens, label = np.full(length, pad, np.int32), np.full(length, -1, np.int32)
    segments, spelled, at = np.zeros(length, np.int32), np.full(length, -1, np.int32), 0
    for number, (index, begin, end) in enumerate(pieces, start=1):
        ids, learned, count = (x[begin:end] for x in row(index))
        size = len(ids) - shift
        there = slice(at, at + size)
        tokens[there], segments[there] = ids[:size], number
        if shift:
            label[there], spelled[there] = np.where(learned[1:], ids[1:], -1), count[1:]
        at += size
    return {"tokens": tokens, "label": label, "segments": segments, "label_bytes": spelled}
