"""data.name="topk": tokens with the likeliest next tokens of a teacher, from the files of DistillKit or MaxText.

A batch has `tokens`, `segments`, and at each label `top_ids` int32 and `top_log_probs` float32 [B, L, k], for terms
such as losses.response_vocabulary.topk_kd_loss; from_answers reads the same file as a teacher.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import SupportsIndex

import numpy as np

from kd_jax.data import splits
from kd_jax.data.source import DataNotFound, Source, Splits, subset
from kd_jax.data.text import topk_files
from kd_jax.data.text.tokenizing import Codec, make_codec, rows_source


def load(fields: SimpleNamespace) -> Splits:
    """Loads the rows of data.directory; shares of them are held out as validation and test, drawn by split_seed.

    `data.tokenizer` is the tokenizer.json of the teacher, which decodes tokens for a report; without it they are shown
    as numbers. Raises DataNotFound where there is no such file, ValueError where a split is left empty.
    """
    path = Path(fields.directory)
    if not fields.directory or not path.exists() or not topk_files.is_topk(path):
        raise DataNotFound(
            f"data.name='topk' reads DistillKit's folder or MaxText's .array_record in data.directory="
            f"{fields.directory!r}, where there is none."
        )
    rows = topk_files.read(path)
    codec = _codec(fields.tokenizer, rows.vocabulary)
    if codec.size < rows.vocabulary:
        raise ValueError(f"{path} has {rows.vocabulary} tokens, and data.tokenizer {codec.size}: is it the teacher's?")
    more = {"segments": rows.segments, "top_ids": rows.ids, "top_log_probs": rows.log_probs}
    whole = rows_source(path.stem, "train", codec, rows.tokens, rows.labels, more)
    return _divided(whole, fields)


def _codec(tokenizer: str, vocabulary: int) -> Codec:
    if tokenizer.endswith(".json"):
        return make_codec(tokenizer, (), 0)

    def numbers(tokens: Iterable[SupportsIndex]) -> str:
        return " ".join(str(int(t)) for t in tokens)

    return Codec(vocabulary, 0, 0, -1, lambda texts: [], numbers, {}, "")


def _divided(whole: Source, fields: SimpleNamespace) -> Splits:
    counts = [round(share * len(whole)) for share in (fields.test, fields.validation)]
    splits.check_counts("rows", len(whole), counts, fields)
    test, validation, train = np.split(splits.shuffled(len(whole), fields.split_seed), np.cumsum(counts))
    held = subset(whole, np.sort(validation), "validation") if len(validation) else None
    return Splits(subset(whole, np.sort(train)), held, subset(whole, np.sort(test), "test"))
