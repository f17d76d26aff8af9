"""The sparse projection of a student's tokens on a teacher's: which tokens of the teacher spell what one spells.

Sreenivas et al., "X-Token", 2026, arXiv 2605.21699: every token's text is encoded by the other tokenizer, its i-th
token there weighs 0.9 * 0.1^i, from both sides, and rows are normalised. The losses are in losses/cross_tokenizer.py.
"""

from __future__ import annotations

import collections
from typing import Any

import numpy as np

from kd_jax.data.source import Splits
from kd_jax.data.text import folder_tokenizer
from kd_jax.data.text.folder_tokenizer import FolderTokenizer
from kd_jax.ranges import Count

DECAY, MOST = 0.1, 4  # of the weights; tokens of the other side that one is spelled by
UNREADABLE = "\N{REPLACEMENT CHARACTER}"


def projection(splits: Splits, student: str, teacher: str, k: Count[int] = 8) -> dict[str, Any]:
    """Returns {"projection_ids": int32, "projection_weights": float32}, [student tokens, k] each, for config.extra.

    `student` and `teacher` are folders with tokenizers. The `k` largest weights of a row are there, 0 where there are
    fewer. The tokens that end a text are each other's.
    """
    del splits
    ours, theirs = folder_tokenizer.read(student), folder_tokenizer.read(teacher)
    return dict(zip(("projection_ids", "projection_weights"), weights(ours, theirs, k), strict=True))


def weights(student: FolderTokenizer, teacher: FolderTokenizer, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ids int32 and weights float32 [student tokens, k] of the projection."""
    rows: dict[int, dict[int, float]] = collections.defaultdict(lambda: collections.defaultdict(float))
    for ours, spelled in spellings(student, teacher).items():
        for theirs, weight in spelled:
            rows[ours][theirs] += weight
    for theirs, spelled in spellings(teacher, student).items():
        for ours, weight in spelled:
            rows[ours][theirs] += weight
    for special in student.stops:
        rows[special] = {teacher.stops[0]: 1.0}
    ids, values = np.zeros((student.size, k), np.int32), np.zeros((student.size, k), np.float32)
    for ours, row in rows.items():
        best = sorted(row.items(), key=lambda x: (-x[1], x[0]))[:k]
        ids[ours, : len(best)], values[ours, : len(best)] = zip(*best, strict=True)
    return ids, values / np.maximum(values.sum(1, keepdims=True), np.finfo(np.float32).tiny)


def spellings(one: FolderTokenizer, other: FolderTokenizer) -> dict[int, list[tuple[int, float]]]:
    """Returns {token of one: [(token of the other, weight)]}; special tokens are left out.

    Parts of characters, which have no text, are spelled by the token of the other side that is called like them.
    """
    special = {i for i, token in one.tokenizer.get_added_tokens_decoder().items() if token.special}
    vocabulary, named = one.tokenizer.get_vocab(), other.tokenizer.get_vocab()
    ids = sorted(set(vocabulary.values()) - special)
    # After another token, since some decoders cut the blank that begins a text.
    (before,) = one.encode(["a"])[0][:1]
    cut = len(one.decode([before]))
    texts = [one.decode([before, i])[cut:] for i in ids]
    names = {i: name for name, i in vocabulary.items()}
    readable = [(i, text) for i, text in zip(ids, texts, strict=True) if text and UNREADABLE not in text]
    parts = {i: spelled for (i, _), spelled in zip(readable, other.encode([t for _, t in readable]), strict=True)}
    parts |= {i: [named[names[i]]] for i in ids if i not in parts and names[i] in named}
    return {i: list(zip(spelled[:MOST], _decaying(len(spelled[:MOST])), strict=True)) for i, spelled in parts.items()}


def _decaying(count: int) -> list[float]:
    values = DECAY ** np.arange(count)
    return (values / values.sum()).tolist()
