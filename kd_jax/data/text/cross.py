"""Conversations for a student and a teacher of different tokenizers: both read the same texts, each its own tokens.

data.name="data.text.cross.load" has the fields of conversations.py, and data.teacher_tokenizer, the teacher's folder.
Beside the student's entries a batch has, int32 [B, L] each, teacher_tokens, teacher_segments, teacher_label,
teacher_label_bytes, the groups of labels that spell the same bytes, student_groups and teacher_groups (-1: none), and
group_valid bool [B, L + 1]: which groups there are. It has one place more than a row, so that a mask of groups is never
taken for one of tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from kd_jax.data.source import Source, Splits
from kd_jax.data.text import conversations
from kd_jax.data.text.alignment import Alignment, align
from kd_jax.data.text.packing import arranged, cut
from kd_jax.data.text.rows import Row
from kd_jax.data.text.tokenised import Tokenised

OF_TEACHER = {"tokens": "teacher_tokens", "segments": "teacher_segments", "label": "teacher_label"}
OF_TEACHER |= {"label_bytes": "teacher_label_bytes"}


def load(config: Mapping[str, Any]) -> Splits:
    """Loads the splits; the records are dealt out as by conversations.load.

    A row is one conversation, or one answer where a template changes earlier turns later on; both tokenizers' rows are
    cut at data.length. Rows in which the two templates show different answers have no groups, and it is said how many.
    Raises ValueError for packed rows, for prompts alone, and where no row has a group.
    """
    fields = SimpleNamespace(**config)
    if fields.packing != "padded":
        raise ValueError(
            f"data.packing={fields.packing!r}: texts of two tokenizers do not end together: set data.packing='padded'."
        )
    if not fields.teacher_tokenizer:
        raise ValueError("data.teacher_tokenizer is '': the folder of the teacher, with its tokenizer, is expected.")
    whole = conversations.opened(fields)
    other = SimpleNamespace(**{**config, "tokenizer": fields.teacher_tokenizer, "template": ""})
    theirs = conversations.opened(other)
    if any(not same_rows(a.rows, b.rows) for a, b in zip(whole.read, theirs.read, strict=True)):
        whole, theirs = (conversations.opened(x, apart=True) for x in (fields, other))
    if whole.read[0].rows.kind == "prompt":
        raise ValueError("Prompts alone have no answers that the tokens of two networks could be grouped by.")
    made = {}
    for split, part in whole.parts.items():
        if len(part.chosen):
            made[split] = _source(f"{whole.name}/{split}", split, part, theirs.parts[split].rows, whole, theirs, fields)
    return Splits(made["train"], made.get("validation"), made["test"])


def same_rows(a: Tokenised, b: Tokenised) -> bool:
    """Tells whether two tokenizers made the same rows of the same records."""
    return np.array_equal(a.records, b.records)


def offsets(row: Row) -> tuple[np.ndarray, int]:
    """Returns the bytes [begin, end) of what is said that each token spells, int64 [tokens, 2], and their sum.

    Tokens that spell none have begin = end; those that share a character have all of it.
    """
    added = np.maximum(np.asarray(row.bytes, np.int64), 0)
    ends = np.cumsum(added)
    begins = ends - added
    # A later part of a character spells what the token with its first byte spells.
    first = np.maximum.accumulate(np.where(added > 0, np.arange(len(added)), 0))
    part = (np.asarray(row.bytes) == 0) & (ends > 0)
    begins = np.where(part, begins[first], begins)
    return np.stack([begins, np.where(np.asarray(row.bytes) >= 0, ends, begins)], 1), int(ends[-1]) if len(ends) else 0


def _source(name: str, split: str, part: Any, theirs: Tokenised, ours: Any, other: Any, fields: Any) -> Source:
    length, room = fields.length, fields.length + 1
    chosen, sides, tokenizers = part.chosen, (part.rows, theirs), (ours.tokenizer, other.tokenizer)
    cuts = [cut(side.lengths[chosen], room, "" if fields.truncation == "drop" else fields.truncation) for side in sides]
    fits = np.ones(len(chosen), bool)
    if fields.truncation == "drop":
        fits = np.all([side.lengths[chosen] <= room for side in sides], axis=0)
    pieces, spans, unlike = ([], []), ([], []), 0
    for i in np.flatnonzero(fits):
        spellings = [offsets(side.row(int(chosen[i]))) for side in sides]
        same = spellings[0][1] == spellings[1][1]
        unlike += not same
        for side, (spelled, _) in enumerate(spellings):
            _, begin, end = cuts[side].pieces[i]
            pieces[side].append((int(chosen[i]), begin, end))
            spans[side].append(spelled[begin + 1 : end] if same else np.zeros((0, 2), np.int64))
    if not len(pieces[0]):
        raise ValueError(f"{name}: no row is left of {len(chosen)}; data.length={length}, data.truncation='drop'.")
    groups = align(*spans)
    _tell(name, len(chosen), int((~fits).sum()), [c.cut for c in cuts], unlike, tokenizers)
    if not groups.valid.any():
        raise ValueError(f"{name}: no token of the student's answers spells the same bytes as some of the teacher's.")
    rows = [
        [arranged(side.row, [piece], length, tokenizer.pad, True) for piece in some]
        for side, some, tokenizer in zip(sides, pieces, tokenizers, strict=True)
    ]
    source = conversations.in_memory(ours.name, split, rows[0], ours.tokenizer, length)
    return dataclasses.replace(source, fields={**source.fields, **_entries(rows[1], groups, length)})


def _entries(rows: Sequence[Mapping[str, Any]], groups: Alignment, length: int) -> dict[str, np.ndarray]:
    """What a batch has beside the student's entries, of the teacher's rows and the groups."""
    arrays = {theirs: np.stack([row[mine] for row in rows]) for mine, theirs in OF_TEACHER.items()}
    for side, values in (("student", groups.student_groups), ("teacher", groups.teacher_groups)):
        arrays[f"{side}_groups"] = np.pad(values, ((0, 0), (0, length - values.shape[1])), constant_values=-1)
    arrays["group_valid"] = np.pad(groups.valid, ((0, 0), (0, length + 1 - groups.valid.shape[1])))
    return arrays


def _tell(name: str, rows: int, dropped: int, cuts: list[int], unlike: int, tokenizers: Any) -> None:
    if dropped or any(cuts):
        print(
            f"{name}: of {rows} rows {dropped} were left out, and {cuts[0]} of the student's and {cuts[1]} of the "
            "teacher's were cut at data.length."
        )
    if unlike:
        print(
            f"{name}: in {unlike} of {rows} rows the templates of {tokenizers[0].folder} and {tokenizers[1].folder} "
            "show different answers: the teacher says nothing of them."
        )
