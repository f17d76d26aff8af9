"""What a language model writes, for the report: sampled texts, and the share of answers that are right."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from kd_jax.models.language.generation import generate
from kd_jax.schemes.continuations import Prompts, cache_of, decoding_of, prompts_of, rows_of, weights
from kd_jax.system import parallel
from kd_jax.types import Role, TrainState

Summary = Callable[[TrainState, Mapping[str, Any]], list[dict[str, Any]]]


def samples(
    roles: Mapping[str, Role],
    sources: Mapping[str, Any],
    prompt: int = 32,
    count: int = 3,
    temperature: float = 0.8,
    role: str = "student",
    decoding: str = "models.language.decoder.decoding",
) -> Summary:
    """Continuations of `count` texts of the test split, sampled from `role` after its last step."""
    source = sources["test"]
    prompts, rows = prompts_of(source, prompt), np.linspace(0, len(source) - 1, count).astype(int)

    def summary(state: TrainState, record: Mapping[str, Any]) -> list[dict[str, Any]]:
        del record
        given, found = written(state, roles[role], role, source, prompts, rows, temperature, decoding)
        texts = [f"{begun}\N{BLACK RIGHT-POINTING TRIANGLE}{text}" for begun, text in zip(given, found, strict=True)]
        lead = f"Test texts continued after \N{BLACK RIGHT-POINTING TRIANGLE}, sampled at temperature {temperature:g}."
        labels = [f"text {i + 1}" for i in range(count)]
        return [{"kind": "texts", "title": "What they write", "lead": lead, "labels": labels, "texts": texts}]

    return summary


def exact_match(
    roles: Mapping[str, Role],
    sources: Mapping[str, Any],
    answer: str = "",
    prefix: str = "",
    count: int = 256,
    shown: int = 3,
    batch: int = 64,
    role: str = "student",
    decoding: str = "models.language.decoder.decoding",
) -> Summary:
    """How many of `count` test prompts `role` answers as the data do, greedily, with a few of its answers.

    The answer is the last match of the regular expression `answer` in what is written, "" = all of it; only prompts
    that begin with `prefix` are asked.
    """
    source = sources["test"]
    prompts = prompts_of(source, 0)
    begins = [source.decode(source.images[i, : np.argmax(source.labels[i] >= 0) + 1]) for i in range(len(source))]
    rows = np.array([i for i, text in enumerate(begins) if text.startswith(prefix)], int)[:count]
    if not len(rows):
        raise ValueError(
            f"No prompt of {source.name}/{source.split} begins with {prefix!r}; the first is {begins[0]!r}."
        )
    wanted = [source.decode(source.labels[i][source.labels[i] >= 0]) for i in rows]

    def summary(state: TrainState, record: Mapping[str, Any]) -> list[dict[str, Any]]:
        del record
        found: list[str] = []
        for start in range(0, len(rows), batch):
            some = np.resize(rows[start : start + batch], batch)  # one shape: it compiles once
            found += written(state, roles[role], role, source, prompts, some, 0.0, decoding)[1]
        pairs = list(zip(found[: len(rows)], wanted, strict=True))
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


def final(text: str, pattern: str) -> str | None:
    """The last match of `pattern` in the text, its first group if it has one; None where there is none."""
    if not pattern:
        return text.strip()
    found = list(re.finditer(pattern, text))
    return found[-1].group(1 if found[-1].re.groups else 0) if found else None


def error_rate(
    roles: Mapping[str, Role],
    sources: Mapping[str, Any],
    prompt: int = 1,
    count: int = 512,
    batch: int = 128,
    shown: int = 5,
    role: str = "student",
    decoding: str = "models.language.seq2seq.decoding",
) -> Summary:
    """The token error rate of greedy answers to `count` test sources: edit distance / tokens of the data, all together
    (of phonemes: the phoneme error rate), and how many answers are right throughout."""
    source = sources["test"]
    prompts, count = prompts_of(source, prompt), min(count, len(source))
    rows = np.linspace(0, len(source) - 1, count).astype(int)
    wanted = [source.decode(source.labels[i][source.labels[i] >= 0]) for i in rows]

    def summary(state: TrainState, record: Mapping[str, Any]) -> list[dict[str, Any]]:
        del record
        found: list[str] = []
        for start in range(0, count, batch):
            some = np.resize(rows[start : start + batch], batch)
            found += written(state, roles[role], role, source, prompts, some, 0.0, decoding)[1]
        pairs = list(zip(found[:count], wanted, strict=True))
        wrong = sum(edit_distance(mine.split(), theirs.split()) for mine, theirs in pairs)
        rate = wrong / sum(len(theirs.split()) for theirs in wanted)
        right = sum(mine == theirs for mine, theirs in pairs)
        lead = "Greedy answers to test words, compared with the dictionary; the error rate is edit distance / length."
        row = ["", f"{100 * rate:.2f}%", f"{100 * right / count:.1f}%", count]
        columns = ["", "phoneme error rate", "words right", "words"]
        texts = [f"{mine}\n(data: {theirs})" for mine, theirs in pairs[:shown]]
        labels = [f"word {i + 1}" for i in range(len(texts))]
        return [
            {"kind": "table", "title": "Errors", "lead": lead, "columns": columns, "rows": [row]},
            {"kind": "texts", "title": "What they say", "lead": lead, "labels": labels, "texts": texts},
        ]

    return summary


def edit_distance(a: Sequence[Any], b: Sequence[Any]) -> int:
    """How many insertions, deletions and substitutions make b of a (Levenshtein)."""
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
    """(prompts, what the role writes after them) of rows of a source."""
    run = decoding_of(role, decoding)
    raw, read = rows_of(source, np.asarray(rows)), cache_of(role, decoding)
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
            cache=read(params, batch, prompts.length + 1),
        )

    found = write(weights(state, role, name), raw, prompt, mask.at[:, -1].set(True))
    found, prompt, mask = parallel.on_host((found, prompt, mask))
    return (
        [source.decode(row[real]) for row, real in zip(prompt, mask, strict=True)],
        [source.decode(row[real]) for row, real in zip(found.tokens, found.mask, strict=True)],
    )
