"""Sections of the report on what a language model writes: sampled texts, and the share of right answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from kd_jax.models.language.generation import generate
from kd_jax.ranges import Count, NotNegative
from kd_jax.schemes.continuations import (
    Prompts,
    arrays_of,
    decoding_of,
    first_cache,
    first_text,
    prompts_of,
    rows_of,
    weights,
)
from kd_jax.system import parallel
from kd_jax.types import Role, TrainState

ANSWERED = 16  # prompts that are answered at once
BEGUN = 32  # tokens of a running text that is continued
Summary = Callable[[TrainState, Mapping[str, Any]], list[dict[str, Any]]]


def samples(
    roles: Mapping[str, Role],
    sources: Mapping[str, Any],
    prompt: NotNegative[int] = 32,
    count: Count[int] = 3,
    temperature: NotNegative[float] = 0.8,
    role: str = "student",
    decoding: str = "models.language.decoder.decoding",
) -> Summary:
    """Returns a summary of `count` test texts that `role` continues after the last step, sampled at `temperature`."""
    source = sources["test"]
    prompts, rows = prompts_of(source, prompt), np.linspace(0, len(source) - 1, count).astype(int)

    def summary(state: TrainState, record: Mapping[str, Any]) -> list[dict[str, Any]]:
        del record
        begun, continued = written(state, roles[role], role, source, prompts, rows, temperature, decoding)
        texts = [f"{a}\N{BLACK RIGHT-POINTING TRIANGLE}{b}" for a, b in zip(begun, continued, strict=True)]
        lead = f"Test texts continued after \N{BLACK RIGHT-POINTING TRIANGLE}, sampled at temperature {temperature:g}."
        labels = [f"text {i + 1}" for i in range(count)]
        return [{"kind": "texts", "title": "What they write", "lead": lead, "labels": labels, "texts": texts}]

    return summary


def answers(
    roles: Mapping[str, Role],
    sources: Mapping[str, Any],
    count: Count[int] = 64,
    shown: NotNegative[int] = 3,
    role: str = "student",
    decoding: str = "models.language.decoder.decoding",
) -> Summary:
    """Returns a summary of greedy answers to `count` test prompts: how many are the data's, with `shown` of them.

    Of test data without answers, prompts alone, it shows what is written, and of running texts, every token of which is
    learned, how they go on after their first half, at most BEGUN tokens.
    """
    source = sources["test"]
    few = arrays_of(source, np.linspace(0, len(source) - 1, min(max(shown, 1), len(source))).astype(int))
    running = bool((few["label"][:, 0] >= 0).all())
    if running or not source.labelled.any():
        shortest = int(np.asarray(first_text(few["segments"])).sum(1).min())
        begin = min(BEGUN, max(shortest // 2, 1)) if running else 0
        options = dict(prompt=begin, count=len(few["label"]), temperature=0.0)
        return samples(roles, sources, **options, role=role, decoding=decoding)
    options = dict(count=count, shown=shown, batch=min(count, len(source), ANSWERED))
    return exact_match(roles, sources, **options, role=role, decoding=decoding)


def exact_match(
    roles: Mapping[str, Role],
    sources: Mapping[str, Any],
    answer: str = "",
    prefix: str = "",
    count: Count[int] = 256,
    shown: NotNegative[int] = 3,
    batch: Count[int] = 64,
    role: str = "student",
    decoding: str = "models.language.decoder.decoding",
) -> Summary:
    """Returns a summary of how many of `count` test prompts `role` answers greedily as the data do, with examples.

    Compared is the last match of the regular expression `answer` in what is written, or with "" all of it. Only prompts
    that begin with `prefix` are asked; raises ValueError where none does.
    """
    source = sources["test"]
    prompts = prompts_of(source, 0)
    begins: dict[int, str] = {}
    wanted: list[str] = []
    for i in range(len(source)):
        example = source.example(i)
        text = _begin(source, example)
        if text.startswith(prefix):
            begins[i] = text
            wanted.append(source.decode(first_answer(example["label"])))
        if len(begins) == count:
            break
    rows = np.array([*begins], int)
    if not len(rows):
        raise ValueError(
            f"No prompt of {source.name}/{source.split} begins with {prefix!r}; the first is "
            f"{_begin(source, source.example(0))!r}."
        )

    def summary(state: TrainState, record: Mapping[str, Any]) -> list[dict[str, Any]]:
        del record
        replies: list[str] = []
        for start in range(0, len(rows), batch):
            some = np.resize(rows[start : start + batch], batch)  # one shape: it compiles once
            replies += written(state, roles[role], role, source, prompts, some, 0.0, decoding)[1]
        pairs = list(zip(replies[: len(rows)], wanted, strict=True))
        right = [final(mine, answer) == final(theirs, answer) is not None for mine, theirs in pairs]
        lead = "Greedy answers to test prompts, compared with those of the data."
        columns = ["", "exact match", "right", "asked"]
        rate = [["", f"{100 * np.mean(right):.1f}%", int(np.sum(right)), len(right)]]
        texts = [
            f"{begins[i]}\N{BLACK RIGHT-POINTING TRIANGLE}{mine}\n(data: {theirs})"
            for i, (mine, theirs) in zip(rows[:shown], pairs[:shown], strict=True)
        ]
        labels = [f"prompt {i + 1}" for i in range(len(texts))]
        return [
            {"kind": "table", "title": "Answers", "lead": lead, "columns": columns, "rows": rate},
            {"kind": "texts", "title": "What they answer", "lead": lead, "labels": labels, "texts": texts},
        ]

    return summary


def _begin(source: Any, example: Mapping[str, np.ndarray]) -> str:
    """The prompt of an example, as text."""
    return source.decode(example[source.entry][: np.argmax(example["label"] >= 0) + 1])


def first_answer(labels: np.ndarray) -> np.ndarray:
    """Returns the first labels of a row that are counted without a gap: its first answer; [] where there is none."""
    counted = labels >= 0
    first = int(np.argmax(counted))
    end = first + int(np.argmin(np.append(counted[first:], False)))
    return labels[first:end]


def final(text: str, pattern: str) -> str | None:
    """Returns the last match of `pattern` in the text (its first group if there is one), or None; "" matches all."""
    if not pattern:
        return text.strip()
    matches = list(re.finditer(pattern, text))
    return matches[-1].group(1 if matches[-1].re.groups else 0) if matches else None


def error_rate(
    roles: Mapping[str, Role],
    sources: Mapping[str, Any],
    prompt: NotNegative[int] = 1,
    count: Count[int] = 512,
    batch: Count[int] = 128,
    shown: NotNegative[int] = 5,
    role: str = "student",
    decoding: str = "models.language.seq2seq.decoding",
    unit: str = "token",
    answer: str = "text",
) -> Summary:
    """Returns a summary of greedy answers to `count` test sources: their error rate, and how many are right.

    Rate = (sum of edit distances) / (sum of the data's lengths), both in what spaces separate. The report calls that a
    `unit` (a phoneme, a word), and what is answered to an `answer` (a word, a recording).
    """
    source = sources["test"]
    prompts, count = prompts_of(source, prompt), min(count, len(source))
    rows = np.linspace(0, len(source) - 1, count).astype(int)
    wanted = [source.decode(source.labels[i][source.labels[i] >= 0]) for i in rows]

    def summary(state: TrainState, record: Mapping[str, Any]) -> list[dict[str, Any]]:
        del record
        replies: list[str] = []
        for start in range(0, count, batch):
            some = np.resize(rows[start : start + batch], batch)
            replies += written(state, roles[role], role, source, prompts, some, 0.0, decoding)[1]
        pairs = list(zip(replies[:count], wanted, strict=True))
        wrong = sum(edit_distance(mine.split(), theirs.split()) for mine, theirs in pairs)
        rate = wrong / sum(len(theirs.split()) for theirs in wanted)
        right = sum(mine == theirs for mine, theirs in pairs)
        lead = f"Greedy answers to test {answer}s beside the data's; the error rate is edit distance / length."
        row = ["", f"{100 * rate:.2f}%", f"{100 * right / count:.1f}%", count]
        columns = ["", f"{unit} error rate", f"{answer}s right", f"{answer}s"]
        texts = [f"{mine}\n(data: {theirs})" for mine, theirs in pairs[:shown]]
        labels = [f"{answer} {i + 1}" for i in range(len(texts))]
        return [
            {"kind": "table", "title": "Errors", "lead": lead, "columns": columns, "rows": [row]},
            {"kind": "texts", "title": "What they say", "lead": lead, "labels": labels, "texts": texts},
        ]

    return summary


def edit_distance(a: Sequence[Any], b: Sequence[Any]) -> int:
    """Returns the least number of insertions, deletions and substitutions that turn a into b (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def written(
    state: TrainState,
    role: Role,
    name: str,
    source: Any,
    prompts: Prompts,
    rows: Sequence[int],
    temperature: float,
    decoding: str,
) -> tuple[list[str], list[str]]:
    """Returns the prompts of these rows of a source, and what the role writes after each, as strings."""
    run, raw = decoding_of(role, decoding), rows_of(source, np.asarray(rows))
    prompt, mask = prompts.of(raw)

    @jax.jit
    def write(params: Any, batch: Mapping[str, Any], prompt: Any, mask: Any) -> Any:
        return generate(
            run,
            params,
            prompt,
            mask,
            jax.random.key(0),
            length=prompts.new,
            temperature=temperature,
            end=source.end,
            cache=first_cache(run, params, batch, prompts.length + 1),
        )

    text = write(weights(state, role, name), raw, prompt, mask.at[:, -1].set(True))
    text, prompt, mask = parallel.on_host((text, prompt, mask))
    return (
        [source.decode(row[real]) for row, real in zip(prompt, mask, strict=True)],
        [source.decode(row[real]) for row, real in zip(text.tokens, text.mask, strict=True)],
    )
