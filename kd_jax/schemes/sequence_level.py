"""Sequence-level distillation: the texts that the teacher finds best are the data."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.models.language.beam_search import beam_search
from kd_jax.models.language.generation import generate
from kd_jax.resolve import near
from kd_jax.schemes import offline
from kd_jax.schemes.continuations import (
    ENTRIES,
    Prompts,
    cache_of,
    decoding_of,
    prompts_of,
    rows_of,
    weights,
    with_labels,
)
from kd_jax.schemes.text_summary import final
from kd_jax.system import parallel
from kd_jax.types import Array, Parts, Scheme, TrainState

CHOICES = ("best", "nearest")


def build(
    parts: Parts,
    prompt: int = 32,
    beams: int = 4,
    temperature: float = 0.0,
    choose: str = "best",
    rows: int = 0,
    length_penalty: float = 1.0,
    answer: str = "",
    batch: int = 64,
    decoding: str = "models.language.decoder.decoding",
) -> Scheme:
    """Before the first step the teacher answers the prompts of the first `rows` training examples (0 = all); the terms
    of the config, cross-entropy foremost, then act on its answers, and on the data where there is none.

    `beams` > 0: by beam search, else sampled at `temperature` (0: greedy). `choose` "nearest" takes of the beams the
    one that is most like the data by BLEU: the interpolation of the paper. Kim, Rush, "Sequence-Level Knowledge
    Distillation", 2016, arXiv 1606.07947. The answers live in extra.generated and are saved with the state.

    `answer` is a regular expression that finds the result in an answer (its last match): answers whose result is not
    that of the data are dropped, the filter of Ho, Schmid, Yun, "Large Language Models Are Reasoning Teachers", 2022,
    arXiv 2212.10071.
    """
    if choose not in CHOICES:
        raise ValueError(f"choose={choose!r}. {near(choose, CHOICES)}")
    if choose == "nearest" and beams < 2:
        raise ValueError(f"choose='nearest' picks one of several beams, not of {beams}.")
    if "teacher" not in parts.roles:
        raise ValueError("Sequence-level distillation needs a teacher, and there is none.")
    source = parts.sources["train"]
    prompts, rows = prompts_of(source, prompt), min(rows or len(source), len(source))
    ask = _answerer(parts, prompts, beams, temperature, length_penalty, decoding)

    def on_enter(state: TrainState) -> TrainState:
        teacher = weights(state, parts.roles["teacher"], "teacher")
        made: dict[str, list[np.ndarray]] = {name: [] for name in ("tokens", "segments", "label")}
        for start in range(0, rows, batch):
            numbers = np.minimum(np.arange(start, start + batch), rows - 1)
            raw = rows_of(source, numbers)
            given, mask, found, real = parallel.on_host(ask(teacher, raw, jnp.int32(start)))
            picked = np.zeros(batch, int)
            if choose == "nearest":
                picked = np.array([best_match(*row) for row in zip(found, real, source.labels[numbers], strict=True)])
            at = np.arange(batch), picked
            entries = dict(prompts.entries(*map(jnp.asarray, (given, mask, found[at], real[at]))))
            if answer:
                right = same_result(source, answer, found[at], real[at], source.labels[numbers])
                entries["label"] = jnp.where(right[:, None], entries["label"], -1)
            for name, parts_of in made.items():
                parts_of.append(np.asarray(entries[name])[: rows - start])
        if not any((labels >= 0).any() for labels in made["label"]):
            raise ValueError(
                f"Of {rows} answers of the teacher none ends in the data's result ({answer!r}): train it longer?"
            )
        old = state.extra["generated"]
        new = {name: jax.device_put(np.concatenate(made[name]), old[name].sharding) for name in made}
        return state.replace(extra={**state.extra, "generated": new})

    def pre_update(state: TrainState, batch: Mapping[str, Array], key: Array) -> Mapping[str, Array]:
        del key
        index, own = batch["index"], state.extra["generated"]
        found = with_labels({name: values[jnp.minimum(index, rows - 1)] for name, values in own.items()})
        return {name: jnp.where((index < rows)[:, None], found[name], batch[name]) for name in ENTRIES}

    scheme = offline.build(parts)
    stage = dataclasses.replace(scheme.stages[0], pre_update=pre_update, on_enter=on_enter)
    # Distinct buffers: a state is donated, and one buffer cannot be given away twice.
    generated = {name: np.zeros((rows, prompts.length), np.int32) for name in ("tokens", "segments", "label")}
    extra = {**scheme.extra, "generated": generated}
    return dataclasses.replace(scheme, stages=(stage,), extra=extra, summary=_kept)


def _answerer(
    parts: Parts, prompts: Prompts, beams: int, temperature: float, length_penalty: float, decoding: str
) -> Callable:
    """(params, batch, number) -> prompt, its mask, and tokens [B, beams, new] with their mask."""
    run, read = decoding_of(parts.roles["teacher"], decoding), cache_of(parts.roles["teacher"], decoding)

    @jax.jit
    def answer(params, batch: Mapping[str, Array], number: Array) -> tuple[Array, ...]:
        prompt, mask = prompts.of(batch)
        given, cache = mask.at[:, -1].set(True), read(params, batch, prompts.length + 1)
        if beams:
            found = beam_search(
                run,
                params,
                prompt,
                given,
                beams=beams,
                length=prompts.new,
                end=prompts.end,
                length_penalty=length_penalty,
                cache=cache,
            )
            return prompt, mask, found.tokens, found.mask
        key = jax.random.fold_in(jax.random.key(0), number)
        found = generate(
            run, params, prompt, given, key, length=prompts.new, temperature=temperature, end=prompts.end, cache=cache
        )
        return prompt, mask, found.tokens[:, None], found.mask[:, None]

    return answer


def same_result(source: Any, answer: str, found: np.ndarray, real: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """bool [B]: whether the result in what was written is the one of the data."""
    pairs = [(source.decode(f[r]), source.decode(y[y >= 0])) for f, r, y in zip(found, real, labels, strict=True)]
    return np.array([final(mine, answer) == final(theirs, answer) is not None for mine, theirs in pairs])


def _kept(state: TrainState, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A section of the report: on how many of the teacher's answers the student learned."""
    del record
    counted = np.asarray((state.extra["generated"]["label"] >= 0).any(1))
    lead = (
        "What the teacher wrote before the student's first step; answers whose result is not the data's are left out."
    )
    row = ["", int(counted.sum()), len(counted), f"{100 * counted.mean():.1f}%"]
    columns = ["", "kept", "written", "share"]
    return [{"kind": "table", "title": "The teacher's answers", "lead": lead, "columns": columns, "rows": [row]}]


def best_match(beams: np.ndarray, masks: np.ndarray, labels: np.ndarray) -> int:
    """Which of the beams [beams, new] is most like the counted labels."""
    wanted = labels[labels >= 0].tolist()
    return int(np.argmax([sentence_bleu(b[m].tolist(), wanted) for b, m in zip(beams, masks, strict=True)]))


def sentence_bleu(found: Sequence[int], wanted: Sequence[int], order: int = 4) -> float:
    """BLEU of one sentence with 1 added to the matches and counts of 2-grams and more; 0 where no token is right.

    Lin, Och, "Orange: a Method for Evaluating Automatic Evaluation Metrics for Machine Translation", COLING 2004.
    """
    if not found or not wanted:
        return 0.0
    logs = 0.0
    for n in range(1, order + 1):
        mine, theirs = (Counter(tuple(s[i : i + n]) for i in range(len(s) - n + 1)) for s in (found, wanted))
        right, count = sum((mine & theirs).values()), sum(mine.values())
        if n == 1 and not right:
            return 0.0
        logs += math.log((right + (n > 1)) / (count + (n > 1))) / order
    return math.exp(logs + min(0.0, 1 - len(wanted) / len(found)))
