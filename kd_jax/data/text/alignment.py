"""Two tokenizations of one text: the groups of the student's and the teacher's tokens that spell the same bytes.

A group is all tokens, of either side, between two byte positions at which both tokenizers end a token. All is NumPy on
the host; losses/response_alignment.py takes the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Alignment(NamedTuple):
    """The groups of a batch of texts.

    student_groups int32 [batch, student length], teacher_groups int32 [batch, teacher length]: the number of a token's
    group, from 0 in the order of the text, -1 for none (special tokens, padding, text that only one side has). valid
    bool [batch, groups]: whether the group exists, groups = the shorter of the two lengths.
    """

    student_groups: np.ndarray
    teacher_groups: np.ndarray
    valid: np.ndarray


def byte_offsets(text: str, offsets: Sequence[tuple[int, int]]) -> np.ndarray:
    """Converts the (start, end) of tokens in characters (of `tokenizers`) to [tokens, 2] in UTF-8 bytes of the text.

    Byte-level tokens that share a character all get the bytes of that character; no group ends between them.
    Raises ValueError for offsets outside the text.
    """
    characters = np.asarray(offsets, np.int64).reshape(-1, 2)
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    if characters.size and (characters.min() < 0 or characters.max() > len(codes)):
        raise ValueError(f"Offsets up to {characters.max()} do not lie in a text of {len(codes)} characters.")
    width = 1 + (codes > 0x7F).astype(np.int64) + (codes > 0x7FF) + (codes > 0xFFFF)
    return np.concatenate([[0], np.cumsum(width)])[characters]


def align(student_offsets: Sequence[np.ndarray], teacher_offsets: Sequence[np.ndarray]) -> Alignment:
    """Groups the tokens of the same texts; each entry of either side has the byte offsets [length, 2] of a text.

    Tokens of no bytes (start = end: special tokens, padding) are in no group, and neither are tokens after the last
    common boundary (of a text that was cut at different places). Shorter texts are padded with -1. Raises ValueError if
    the numbers of texts differ.
    """
    if len(student_offsets) != len(teacher_offsets):
        raise ValueError(f"{len(student_offsets)} texts of the student, {len(teacher_offsets)} of the teacher.")
    lengths = [max((len(x) for x in side), default=0) for side in (student_offsets, teacher_offsets)]
    groups = [np.full((len(student_offsets), length), -1, np.int32) for length in lengths]
    valid = np.zeros((len(student_offsets), min(lengths)), bool)
    for row, sides in enumerate(zip(student_offsets, teacher_offsets, strict=True)):
        sides = [np.asarray(x, np.int64).reshape(-1, 2) for x in sides]
        spells = [x[:, 1] > x[:, 0] for x in sides]
        ends, others = (_boundaries(x[s]) for x, s in zip(sides, spells, strict=True))
        common = np.intersect1d(ends, others)
        valid[row, : len(common)] = True
        for side, offsets, real in zip(groups, sides, spells, strict=True):
            number = np.searchsorted(common, offsets[:, 1])
            side[row, : len(offsets)] = np.where(real & (number < len(common)), number, -1)
    return Alignment(groups[0], groups[1], valid)


def _boundaries(offsets: np.ndarray) -> np.ndarray:
    """Returns the ends of tokens before which no later token starts."""
    later = np.append(np.minimum.accumulate(offsets[::-1, 0])[::-1][1:], np.iinfo(np.int64).max)[: len(offsets)]
    return offsets[later >= offsets[:, 1], 1]


def shared_tokens(
    student: Mapping[str, int],
    teacher: Mapping[str, int],
    student_spelling: Callable[[str], str] = str,
    teacher_spelling: Callable[[str], str] = str,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns student ids and teacher ids, int32 [n], of the tokens in both vocabularies, sorted by student id.

    A vocabulary maps tokens to ids (`Tokenizer.get_vocab()`). The spellings map tokens of different conventions (a
    leading "Ġ", "▁" or "##") to one; of two tokens of a side with one spelling, the lower id counts.
    """
    by_spelling = {teacher_spelling(token): i for token, i in sorted(teacher.items(), key=lambda x: -x[1])}
    mine = {student_spelling(token): i for token, i in sorted(student.items(), key=lambda x: -x[1])}
    pairs = sorted((i, by_spelling[token]) for token, i in mine.items() if token in by_spelling)
    ids = np.asarray(pairs, np.int32).reshape(-1, 2)
    return ids[:, 0], ids[:, 1]
