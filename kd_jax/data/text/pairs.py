"""Prompts with responses as text: JSONL files, reasoning traces, and the token probabilities that an API returns.

One JSON object a line. The response is learned, the prompt is not (its labels are -1):

    {"prompt": "12+30=", "answer": "42"}                                 an answer
    {"prompt": "12+30=", "rationale": "2+0=2, 1+3=4", "answer": "42"}    with its derivation
    {"prompt": "Say hi", "tokens": ["Hi", "!"], "top_logprobs": [{"Hi": -0.1, "Hello": -2.4}, {"!": -0.2, ".": -1.8}]}

The last kind is all that distillation needs of a model behind an API: the tokens that it wrote, and the
log-probabilities of its likeliest tokens at each. Token texts are looked up in the tokenizer of the student, which
should be that of the API's model; an alternative that is no single token there counts to the rest. Bytes inside a
character all have one text: ids, as "token_id:53", tell them apart. The tokens must spell the "answer", where it is
there too. After the last token the end is learned, as certain, unless the API lists it as a token with alternatives;
with "finish_reason": "length" there is none. The user has to check whether the terms of a service allow training on its
outputs, and under which licence the result may be used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from kd_jax.data import splits
from kd_jax.data.source import DataNotFound, Source, Splits
from kd_jax.data.text.api import NEVER, answers, flaw
from kd_jax.data.text.tokenizing import Codec, make_codec, rows_source
from kd_jax.files import read_utf8
from kd_jax.resolve import near

RATIONALES = ("none", "first", "task")
ARITHMETIC = "arithmetic"
LABEL, EXPLAIN = "[answer] ", "[explain] "  # task prefixes of rationale="task"


def load(fields: SimpleNamespace) -> Splits:
    """Loads data.name="pairs": data.directory is a JSONL file or "arithmetic", sums of two-digit numbers.

    data.rationale: "none" learns the answer; "first" the rationale, then the answer (chain of thought); "task" learns
    both as two tasks, marked by a prefix of the prompt: Hsieh et al., "Distilling Step-by-Step!", 2023, arXiv
    2305.02301. In validation and test "task" asks for answers only. Raises ValueError where a line has no rationale
    that is to be learned, and where no pairs are left to train on.
    """
    if fields.rationale not in RATIONALES:
        raise ValueError(f"data.rationale={fields.rationale!r}. {near(fields.rationale, RATIONALES)}")
    where = fields.directory or ARITHMETIC
    records = sums() if where == ARITHMETIC else read_jsonl(Path(where).expanduser())
    order = splits.shuffled(len(records), fields.split_seed)
    counts = [round(share * len(records)) for share in (fields.test, fields.validation)]
    splits.check_counts("pairs", len(records), counts, fields)
    test, validation, train = np.split(order, np.cumsum(counts))
    # The alphabet is that of all kinds of responses, so that networks trained on different ones share it.
    texts = [LABEL + EXPLAIN, *(" ".join(_strings(record)) for record in records)]
    codec = make_codec(fields.tokenizer, texts, fields.vocabulary)
    sources = {}
    for split, rows in (("train", train), ("validation", validation), ("test", test)):
        if len(rows):
            chosen = [records[i] for i in rows]
            mode = "answers" if fields.rationale == "task" and split != "train" else fields.rationale
            sources[split] = source_of(Path(where).stem, split, chosen, codec, fields.length, mode)
    return Splits(sources["train"], sources.get("validation"), sources["test"])


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Reads the records of a file; ValueError that names the line of one that is none of the kinds above."""
    if not path.is_file():
        raise DataNotFound(f"data.name='pairs' reads the JSONL file data.directory={str(path)!r}, which is not there.")
    records = []
    for number, line in enumerate(read_utf8(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            records.append(_record(line))
        except (ValueError, KeyError, TypeError) as error:
            what = f"no JSON, {error}" if isinstance(error, json.JSONDecodeError) else str(error)
            what = what if isinstance(error, ValueError) else repr(error)
            raise ValueError(
                f"{path}, line {number}: {what}; see kd_jax/data/text/pairs.py for what a line holds."
            ) from error
    return records


def _record(line: str) -> dict[str, Any]:
    """The record of a line; ValueError that says what is wrong with it."""
    record = json.loads(line)
    if not isinstance(record, dict):
        raise ValueError("one object a line, {...}, as JSONL has them")
    api = "tokens" in record
    if missing := {"prompt", *(() if api else ("answer",))} - set(record):
        raise ValueError(f"no {' or '.join(sorted(missing, reverse=True))} among {', '.join(record)}")
    texts = [record["prompt"], record.get("answer", ""), record.get("rationale", "")]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("prompt and answer are texts")
    if wrong := flaw(record) if api else "":
        raise ValueError(wrong)
    return record


def sums(digits: int = 2) -> list[dict[str, str]]:
    """Returns all sums of two numbers below 10 ** digits, as "27+58=", "7+8=15. 2+5+1=8.", "85".

    The rationale adds the digits from the right, with the carry.
    """
    records = []
    for a in range(10**digits):
        for b in range(10**digits):
            steps, carry = [], 0
            for place in range(digits):
                x, y = (n // 10**place % 10 for n in (a, b))
                total = x + y + carry
                steps.append(f"{x}+{y}{f'+{carry}' if carry else ''}={total}.")
                carry = total // 10
            records.append({"prompt": f"{a}+{b}=", "rationale": " ".join(steps), "answer": str(a + b)})
    return records


def _strings(record: Mapping[str, Any]) -> list[str]:
    return [record["prompt"], record.get("rationale", ""), record.get("answer", ""), *record.get("tokens", ())]


def _tasks(record: Mapping[str, Any], mode: str) -> list[tuple[str, str]]:
    """Returns the pairs (prompt, response) of one record."""
    prompt, answer = record["prompt"], record["answer"]
    if mode == "none":
        return [(prompt, answer)]
    if mode == "answers":
        return [(LABEL + prompt, answer)]
    if not record.get("rationale"):
        raise ValueError(f"data.rationale={mode!r}, but the prompt {prompt!r} comes without a rationale.")
    if mode == "first":
        return [(prompt, f"{record['rationale']} {answer}")]
    return [(LABEL + prompt, answer), (EXPLAIN + prompt, record["rationale"])]


def source_of(
    name: str, split: str, records: Sequence[Mapping[str, Any]], codec: Codec, length: int, mode: str
) -> Source:
    """Makes one split; ValueError for a pair that is longer than `length`.

    The fields are segments and, if the records have top_logprobs, those of the token that each label names: `top_ids`
    int32 and `top_log_probs` float32 [n, length, k].
    """
    rows, top = _rows(name, records, codec, mode)
    longest = max(len(prompt) + len(response) for prompt, response, _ in rows) - 1
    if longest > length:
        raise ValueError(f"{name}/{split}: the longest pair has {longest} tokens, data.length is {length}.")
    tokens, labels = np.full((len(rows), length), codec.pad, np.int32), np.full((len(rows), length), -1, np.int32)
    segments = np.zeros_like(tokens)
    fields: dict[str, np.ndarray] = {"segments": segments}
    if top:
        fields["top_ids"] = np.broadcast_to(np.arange(top, dtype=np.int32), (len(rows), length, top)).copy()
        fields["top_log_probs"] = np.full((len(rows), length, top), NEVER, np.float32)
    for i, (prompt, response, tops) in enumerate(rows):
        whole, begin = [*prompt, *response], len(prompt) - 1
        tokens[i, : len(whole) - 1], segments[i, : len(whole) - 1] = whole[:-1], 1
        labels[i, begin : len(whole) - 1] = response
        if tops is not None:
            count = len(tops[0])
            fields["top_ids"][i, begin : begin + count], fields["top_log_probs"][i, begin : begin + count] = tops
    return rows_source(name, split, codec, tokens, labels, fields)


def _rows(name: str, records: Sequence[Mapping[str, Any]], codec: Codec, mode: str) -> tuple[list[tuple], int]:
    """Returns [(prompt, response, top ids and log-probabilities or None)] as token ids, and the number k of the top.

    k is 0 where the records have no top_logprobs. Raises ValueError where only some have them.
    """
    api = [record for record in records if "tokens" in record]
    if api and len(api) < len(records):
        raise ValueError(f"{name}: {len(api)} of {len(records)} lines have tokens and top_logprobs: all or none.")
    if api and mode != "none":
        raise ValueError(f"data.rationale is 'none' where lines have tokens and top_logprobs: {name} has them.")
    if api:
        return answers(api, codec)
    pairs = [codec.encode(pair) for record in records for pair in _tasks(record, mode)]
    return [([codec.start, *prompt], [*response, codec.end], None) for prompt, response in pairs], 0
