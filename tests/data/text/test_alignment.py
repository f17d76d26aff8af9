"""Byte offsets and groups: by hand, and for two tokenizers that learn their merges here."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from kd_jax.data.text.alignment import align, byte_offsets, shared_tokens

TEXTS = [
    "In the beginning God created the heaven and the earth.",
    "And the earth was without form, and void; and darkness was upon the face of the deep.",
    "Žluťoučký kůň pěl ďábelské ódy 🐎, naïve café",
]


def bpe(size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(TEXTS * 3, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet))
    return tokenizer


def spans(groups, offsets, number):
    """(start, end) of the bytes of a group."""
    of_group = [o for g, o in zip(groups, offsets, strict=True) if g == number]
    return of_group[0][0], of_group[-1][1]


def test_by_hand():
    # the|re| is and there| |is; (0, 0) is a start token; the teacher was cut before "is"
    student = [np.array([[0, 0], [0, 3], [3, 5], [5, 8]]), np.array([[0, 1]])]
    teacher = [np.array([[0, 5], [5, 6], [6, 8]]), np.array([[0, 2], [2, 3]])]
    student_groups, teacher_groups, valid = align(student, teacher)
    assert student_groups.tolist() == [[-1, 0, 0, 1], [-1, -1, -1, -1]]
    assert teacher_groups.tolist() == [[0, 1, 1], [-1, -1, -1]]
    assert valid.tolist() == [[True, True, False], [False, False, False]]
    with pytest.raises(ValueError, match="2 texts of the student, 1 of the teacher"):
        align(student, teacher[:1])


def test_bytes_of_characters():
    assert byte_offsets("aé€🐎b", [(0, 1), (1, 3), (3, 4), (4, 5)]).tolist() == [[0, 1], [1, 6], [6, 10], [10, 11]]
    with pytest.raises(ValueError, match="up to 4.*3 characters"):
        byte_offsets("abc", [(0, 4)])
    # Two byte tokens of one character, the second with the next character: no boundary after the first
    halves = [np.array([[0, 2], [0, 3]])]
    assert align(halves, [np.array([[0, 2], [2, 3]])])[0].tolist() == [[0, 0]]


def test_groups_of_two_tokenizers_spell_the_same_bytes():
    student, teacher = bpe(270), bpe(330)
    encoded = [[t.encode(text) for text in TEXTS] for t in (student, teacher)]
    offsets = [[byte_offsets(text, e.offsets) for text, e in zip(TEXTS, side, strict=True)] for side in encoded]
    student_groups, teacher_groups, valid = align(*offsets)
    assert student_groups.shape[1] > teacher_groups.shape[1] == valid.shape[1]  # more merges, fewer tokens
    for row, text in enumerate(TEXTS):
        number = valid[row].sum()
        mine, theirs = student_groups[row, : len(offsets[0][row])], teacher_groups[row, : len(offsets[1][row])]
        assert mine.min() == 0 and mine.max() == theirs.max() == number - 1  # nothing is left over
        both = [(spans(mine, offsets[0][row], g), spans(theirs, offsets[1][row], g)) for g in range(number)]
        assert all(a == b for a, b in both)
        assert both[-1][0][1] == len(text.encode()) and [a[0] for a, _ in both[1:]] == [a[1] for a, _ in both[:-1]]
        assert number > len(text.split())  # words are never joined by these tokenizers
    ids, others = shared_tokens(student.get_vocab(), teacher.get_vocab())
    assert len(ids) >= 256 and all(
        student.id_to_token(a) == teacher.id_to_token(b) for a, b in zip(ids, others, strict=True)
    )
    assert len(ids) == len(set(student.get_vocab()) & set(teacher.get_vocab()))


def test_spellings_bring_tokens_of_two_conventions_together():
    student, teacher = {"Ġthe": 0, "the": 3, "x": 1}, {"▁the": 7, "the": 5, "y": 2}
    ids, others = shared_tokens(student, teacher, lambda t: t.replace("Ġ", " "), lambda t: t.replace("▁", " "))
    assert ids.tolist() == [0, 3] and others.tolist() == [7, 5]
    assert shared_tokens({"a": 0}, {"b": 0})[0].shape == (0,)
