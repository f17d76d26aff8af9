"""Sequence-level distillation: the student learns from the texts that the teacher rates highest."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.models.language.beam_search import beam_search
from kd_jax.models.language.generation import generate
from kd_jax.ranges import Count, NotNegative
from kd_jax.resolve import near
from kd_jax.schemes import offline
from kd_jax.schemes.continuations import (
    ENTRIES,
    Prompts,
    arrays_of,
    decoding_of,
    first_cache,
    prompts_of,
    weights,
    with_labels,
)
from kd_jax.schemes.text_summary import edit_distance, final
from kd_jax.system import parallel
from kd_jax.types import Array, Parts, PyTree, Scheme, TrainState

CHOICES = ("best", "nearest")
WRITTEN = ("tokens", "segments", "label")  # the entries of extra.generated


def build(
    parts: Parts,
    prompt: NotNegative[int] = 32,
    beams: NotNegative[int] = 4,
    temperature: NotNegative[float] = 0.0,
    choose: str = "best",
    rows: NotNegative[int] = 0,
    length_penalty: float = 1.0,
    answer: str = "",
    word_errors: NotNegative[float] = 0.0,
    batch: Count[int] = 64,
    decoding: str = "models.language.decoder.decoding",
) -> Scheme:
    """Builds offline distillation on texts that the teacher writes before the first step.

    The teacher answers the prompts of the first `rows` training examples (0 = all). The terms of the config,
    cross-entropy foremost, act on these answers, and on the data of the other examples. `beams` > 0 searches with so
    many beams, 0 samples at `temperature` (0: greedy). `choose`="nearest" takes the beam with the highest BLEU against
    the data, the interpolation of the paper. The answers are in extra.generated and saved with the state.
    Kim, Rush, "Sequence-Level Knowledge Distillation", 2016, arXiv 1606.07947.

    `answer` is a regular expression whose last match is the result of an answer. Answers with another result than the
    data's are dropped, the filter of Ho, Schmid, Yun, "Large Language Models Are Reasoning Teachers", 2022, arXiv
    2212.10071; ValueError where that drops all. Of transcripts those are dropped whose word errors, against the data's,
    are more than the share `word_errors` of the data's words (0: none are dropped), as in Gandhi, von Platen, Rush,
    "Distil-Whisper", 2023, arXiv 2311.00430; capitals and punctuation do not count.
    """
    _check_fields(parts, choose, beams)
    source = parts.sources["train"]
    prompts, rows = prompts_of(source, prompt), min(rows or len(source), len(source))
    ask = _answerer(parts, prompts, beams, temperature, length_penalty, decoding)

    def written(teacher: PyTree, start: int) -> dict[str, np.ndarray]:
        """Returns the answers to `batch` examples from number `start` on, as entries of a batch."""
        numbers = np.minimum(np.arange(start, start + batch), rows - 1)
        asked = arrays_of(source, numbers)
        batch_of = jax.tree.map(jnp.asarray, asked)
        begun, mask, texts, real = parallel.on_host(ask(teacher, batch_of, jnp.int32(start)))
        labels = asked["label"]
        at = np.arange(batch), _picked(choose, texts, real, labels)
        entries = dict(prompts.entries(*map(jnp.asarray, (begun, mask, texts[at], real[at]))))
        if answer:
            right = same_result(source, answer, texts[at], real[at], labels)
            entries["label"] = jnp.where(right[:, None], entries["label"], -1)
        if word_errors:
            good = few_errors(source, word_errors, texts[at], real[at], labels)
            entries["label"] = jnp.where(good[:, None], entries["label"], -1)
        return {name: np.asarray(entries[name]) for name in WRITTEN}

    def on_enter(state: TrainState) -> TrainState:
        teacher = weights(state, parts.roles["teacher"], "teacher")
        batches = [written(teacher, start) for start in range(0, rows, batch)]
        new = {name: np.concatenate([entries[name] for entries in batches])[:rows] for name in WRITTEN}
        if not (new["label"] >= 0).any():
            why = (
                f"has at most {word_errors:g} of its words wrong"
                if word_errors
                else f"ends in the data's result ({answer!r})"
            )
            raise ValueError(f"Of {rows} answers of the teacher none {why}: train it longer?")
        old = state.extra["generated"]
        generated = {name: jax.device_put(values, old[name].sharding) for name, values in new.items()}
        return state.replace(extra={**state.extra, "generated": generated})

    def pre_update(state: TrainState, batch: Mapping[str, Array], key: Array) -> Mapping[str, Array]:
        del key
        index, generated = batch["index"], state.extra["generated"]
        answers = with_labels({name: values[jnp.minimum(index, rows - 1)] for name, values in generated.items()})
        return {name: jnp.where((index < rows)[:, None], answers[name], batch[name]) for name in ENTRIES}

    scheme = offline.build(parts)
    stage = dataclasses.replace(scheme.stages[0], pre_update=pre_update, on_enter=on_enter)
    # Distinct buffers: a state is donated, and one buffer cannot be given away twice.
    generated = {name: np.zeros((rows, prompts.length), np.int32) for name in WRITTEN}
    extra = {**scheme.extra, "generated": generated}
    # The teacher writes by itself, and answers to texts that no data hold: nothing that a cache could know.
    return dataclasses.replace(scheme, stages=(stage,), extra=extra, summary=_summary, copies=("teacher",))


def _check_fields(parts: Parts, choose: str, beams: int) -> None:
    if choose not in CHOICES:
        raise ValueError(f"choose={choose!r}. {near(choose, CHOICES)}")
    if choose == "nearest" and beams < 2:
        raise ValueError(f"choose='nearest' picks one of several beams, not of {beams}.")
    if "teacher" not in parts.roles:
        raise ValueError("Sequence-level distillation needs a teacher, and there is none.")


def _picked(choose: str, texts: np.ndarray, real: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the number of the beam to learn from, of each row of `texts` [B, beams, new]."""
    if choose == "best":  # beams come best first
        return np.zeros(len(texts), int)
    return np.array([best_match(*row) for row in zip(texts, real, labels, strict=True)])


def _answerer(
    parts: Parts, prompts: Prompts, beams: int, temperature: float, length_penalty: float, decoding: str
) -> Callable:
    """Returns (params, batch, number) -> prompt, its mask, and tokens [B, beams, new] with their mask."""
    run = decoding_of(parts.roles["teacher"], decoding)

    @jax.jit
    def answer(params, batch: Mapping[str, Array], number: Array) -> tuple[Array, ...]:
        prompt, mask = prompts.of(batch)
        readable, cache = mask.at[:, -1].set(True), first_cache(run, params, batch, prompts.length + 1)
        if beams:
            text = beam_search(
                run,
                params,
                prompt,
                readable,
                beams=beams,
                length=prompts.new,
                end=prompts.end,
                length_penalty=length_penalty,
                cache=cache,
            )
            return prompt, mask, text.tokens, text.mask
        key, options = jax.random.fold_in(jax.random.key(0), number), {"end": prompts.end, "cache": cache}
        text = generate(run, params, prompt, readable, key, length=prompts.new, temperature=temperature, **options)
        return prompt, mask, text.tokens[:, None], text.mask[:, None]

    return answer


def same_result(source: Any, answer: str, texts: np.ndarray, real: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns bool [B]: whether a text has the result of the data."""
    pairs = [(source.decode(t[r]), source.decode(y[y >= 0])) for t, r, y in zip(texts, real, labels, strict=True)]
    return np.array([final(mine, answer) == final(theirs, answer) is not None for mine, theirs in pairs])


def few_errors(source: Any, share: float, texts: np.ndarray, real: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns bool [B]: whether a text has at most `share` word errors a word of the data's text."""
    pairs = [(source.decode(t[r]), source.decode(y[y >= 0])) for t, r, y in zip(texts, real, labels, strict=True)]
    words = [[re.findall(r"[\w']+", text.lower()) for text in pair] for pair in pairs]
    return np.array([edit_distance(mine, theirs) <= share * len(theirs) for mine, theirs in words])


def _summary(state: TrainState, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns a section of the report: how many of the teacher's answers the student learned from."""
    del record
    counted = np.asarray((state.extra["generated"]["label"] >= 0).any(1))
    lead = (
        "What the teacher wrote before the student's first step; answers that differ from the data's by more than the "
        "scheme allows are left out."
    )
    row = ["", int(counted.sum()), len(counted), f"{100 * counted.mean():.1f}%"]
    columns = ["", "kept", "written", "share"]
    return [{"kind": "table", "title": "The teacher's answers", "lead": lead, "columns": columns, "rows": [row]}]


def best_match(beams: np.ndarray, masks: np.ndarray, labels: np.ndarray) -> int:
    """Returns the number of the beam (of [beams, new]) that is most like the counted labels."""
    wanted = labels[labels >= 0].tolist()
    return int(np.argmax([sentence_bleu(b[m].tolist(), wanted) for b, m in zip(beams, masks, strict=True)]))


def sentence_bleu(written: Sequence[int], wanted: Sequence[int], order: int = 4) -> float:
    """Computes BLEU of one sentence, with 1 added to matches and counts of 2-grams and more; 0 if no token is right.

    Lin, Och, "Orange: a Method for Evaluating Automatic Evaluation Metrics for Machine Translation", COLING 2004.
    """
    if not written or not wanted:
        return 0.0
    logs = 0.0
    for n in range(1, order + 1):
        mine, theirs = (Counter(tuple(s[i : i + n]) for i in range(len(s) - n + 1)) for s in (written, wanted))
        right, count = sum((mine & theirs).values()), sum(mine.values())
        if n == 1 and not right:
            return 0.0
        logs += math.log((right + (n > 1)) / (count + (n > 1))) / order
    return math.exp(logs + min(0.0, 1 - len(wanted) / len(written)))
