"""Distillation on texts that the student, the teacher or both write during training: GKD, and MiniLLM's samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jax

from kd_jax.core.paths import Path
from kd_jax.core.terms import calls_of
from kd_jax.losses.task import cross_entropy_loss
from kd_jax.ranges import BelowOne, Count, NotNegative, Portion, Share
from kd_jax.schemes import offline
from kd_jax.schemes.continuations import ENTRIES, make_sampler, prompts_of
from kd_jax.types import Array, Call, Parts, Scheme, Stage, Term, TrainState

_DATA = "on_data"
PreUpdate = Callable[[TrainState, Mapping[str, Array], Array], Mapping[str, Array]]


def build(
    parts: Parts,
    share: Portion[float] = 0.5,
    warmup: BelowOne[float] = 0.5,
    prompt: NotNegative[int] = 32,
    sampler: str = "student",
    temperature: NotNegative[float] = 1.0,
    top_k: NotNegative[int] = 0,
    top_p: Portion[float] = 1.0,
    mix: Share[float] = 0.2,
    proposals: Count[int] = 4,
    decoding: str = "models.language.decoder.decoding",
) -> Scheme:
    """Builds a stage of cross-entropy on the data, then one that replaces the texts of a share of the batches.

    The first stage, the share `warmup` of the run, is there because the texts of an untrained student teach little (the
    papers start from fine-tuned students). In the second, a batch keeps its prompts and, with probability `share`, what
    follows them is sampled anew. The terms of the config act on the sampled tokens, or on the data of the other
    batches. No gradient goes through the sampling.
    `prompt` tokens begin a running text; 0: the data are pairs of prompt and response. `sampler` is who writes:
    "student", "teacher", "mixed" (Gu, Dong, Wei, Huang, "MiniLLM", 2023, arXiv 2306.08543; `mix` is the teacher's
    share) or "speculative" (the teacher's distribution; the student proposes `proposals` tokens at a time).
    Agarwal, Vieillard, Zhou, Stanczyk, Ramos, Geist, Bachem, "On-Policy Distillation of Language Models" (GKD), 2023,
    arXiv 2306.13649: `share` is its lambda, drawn for each batch.

    Where no row of the data has an answer (prompts alone), all batches are written, whatever `share` says, and no step
    on the data can come first: ValueError for a `warmup` above 0.

    Terms that read `on_data.logits` (the student's on the data), `batch.data_label` and `batch.data_labelled` act on
    the data in every step: the language modelling loss beside the distillation.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share} of the batches is sampled: a number in (0, 1]; 0 is schemes.offline.build.")
    source = parts.sources["train"]
    prompts = prompts_of(source, prompt)
    if not source.labelled.any():
        if warmup:
            raise ValueError(f"warmup={warmup} learns from the data's answers first, and {source.name} has none: 0.")
        share = 1.0
    sample = make_sampler(
        parts,
        prompts,
        sampler,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        mix=mix,
        proposals=proposals,
        decoding=decoding,
    )

    def pre_update(state: TrainState, batch: Mapping[str, Array], key: Array) -> Mapping[str, Array]:
        coin, draws = jax.random.split(key)
        if share == 1:
            return sample(state, batch, draws)
        data = {name: batch[name] for name in ENTRIES}
        return jax.lax.cond(jax.random.uniform(coin) < share, lambda: sample(state, batch, draws), lambda: data)

    return sampled(parts, pre_update, warmup)


def sampled(parts: Parts, pre_update: PreUpdate, warmup: float) -> Scheme:
    """Builds a stage of cross-entropy on the data, then offline distillation on batches that `pre_update` changes.

    The student runs on the data too if a term reads `on_data.logits`.
    """
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup={warmup} is a share of the run in [0, 1).")
    scheme, steps = offline.build(parts), round(warmup * parts.steps)
    phase, prepare = scheme.stages[0].phases[0], None
    if _DATA in calls_of(parts.terms.values()):
        inputs = tuple(map(_of_data, parts.roles["student"].inputs))
        phase = dataclasses.replace(phase, forward=(*phase.forward, Call("student", inputs, name=_DATA)))

        def prepare(batch: Mapping[str, Array], key: Array, train: bool) -> Mapping[str, Array]:
            prepared = parts.prepare(batch, key, train)
            return {**prepared, **{f"data_{name}": prepared[name] for name in ENTRIES}}

    stages = [Stage(parts.steps - steps, (phase,), pre_update=pre_update, name="written")]
    if steps:
        terms = {"ce": Term(cross_entropy_loss, ("student.logits",), ("batch.target",), where="batch.labelled")}
        forward = (Call("student", parts.roles["student"].inputs),)
        first = dataclasses.replace(phase, forward=forward, terms=terms)  # one optimizer throughout
        stages.insert(0, Stage(steps, (first,), name="data", selects=False))
    return dataclasses.replace(scheme, stages=tuple(stages), prepare=prepare)


def _of_data(path: str) -> str:
    """Returns batch.data_tokens for batch.tokens: the entry of the data, which stays where texts are sampled."""
    entry = Path.parse(path)
    return str(dataclasses.replace(entry, owner=f"data_{entry.owner}") if entry.kind == "batch" else entry)
