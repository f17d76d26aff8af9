"""DistiLLM's adaptive off-policy training: the student's texts are stored and used again.

More batches are its texts when it stops to improve on held-out text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.core import metrics
from kd_jax.core.paths import lookup
from kd_jax.core.terms import masked_sum_and_count
from kd_jax.ranges import BelowOne, Count, NotNegative, Portion, Share
from kd_jax.schemes.continuations import ENTRIES, make_sampler, prompts_of, with_labels
from kd_jax.schemes.on_policy import sampled
from kd_jax.types import Array, Parts, Scheme, TrainState

STORED = ("tokens", "segments", "label")


def build(
    parts: Parts,
    warmup: BelowOne[float] = 0.5,
    prompt: NotNegative[int] = 32,
    start: Share[float] = 0.0,
    growth: NotNegative[float] = 0.1,
    tolerance: float = 0.1,
    every: Count[int] = 50,
    capacity: Count[int] = 1024,
    held_out: Count[int] = 64,
    temperature: NotNegative[float] = 1.0,
    top_k: NotNegative[int] = 0,
    top_p: Portion[float] = 1.0,
    decoding: str = "models.language.decoder.decoding",
) -> Scheme:
    """Builds a stage of cross-entropy on the data, then one in which a batch is the student's text with chance phi.

    The first stage is the share `warmup` of the run, as in schemes.on_policy. In the second, progress p from 0 to 1, a
    batch is newly sampled with chance phi (1 - p), drawn from a buffer of `capacity` rows with chance phi p, and else
    the data; while the buffer is not full, all texts are newly sampled.
    phi begins at `start`. Every `every` steps the student's loss on `held_out` validation rows is computed; unless it
    is below the last one plus `tolerance`, phi grows by `growth`, up to 1. Buffer, phi and loss are in extra.replay.
    Ko, Kim, Chen, Yun, "DistiLLM", 2024, arXiv 2402.03898, Algorithm 1, with the defaults of the authors' code. Ours:
    the loss is of the same validation rows every time.
    """
    if parts.sources.get("validation") is None:
        raise ValueError("Adaptive replay follows the loss on held-out text: data.validation must be above 0.")
    source = parts.sources["train"]
    if not source.labelled.any():
        raise ValueError(
            f"Adaptive replay follows the loss on held-out answers, and {source.name} has prompts alone: on_policy "
            "(schemes.on_policy.build) writes to those."
        )
    prompts = prompts_of(source, prompt)
    sample = make_sampler(
        parts,
        prompts,
        "student",
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        mix=0.0,
        proposals=0,
        decoding=decoding,
    )
    validation, begin = parts.sources["validation"], round(warmup * parts.steps)
    held_out_rows = validation.batch(min(held_out, len(validation)))

    def prepare(batch: Mapping[str, Array], key: Array, train: bool) -> Mapping[str, Array]:
        return {**parts.prepare(batch, key, train), "fresh": jnp.zeros(batch["tokens"].shape[0], bool)}

    def pre_update(state: TrainState, batch: Mapping[str, Array], key: Array) -> Mapping[str, Array]:
        coin, draws, rows = jax.random.split(key, 3)
        buffer, chance = state.extra["replay"], jax.random.uniform(coin)
        count = jnp.minimum(buffer["written"], capacity)
        fresh = chance < buffer["phi"] * (1 - (state.step - begin) / (parts.steps - begin))
        fresh |= (chance < buffer["phi"]) & (count < capacity)

        def again() -> dict[str, Array]:
            drawn = jax.random.randint(rows, (batch["tokens"].shape[0],), 0, jnp.maximum(count, 1))
            return with_labels({name: buffer[name][drawn] for name in STORED})

        choice = jnp.where(fresh, 1, jnp.where(chance < buffer["phi"], 2, 0))
        data = {name: batch[name] for name in ENTRIES}
        texts = jax.lax.switch(choice, (lambda: data, lambda: sample(state, batch, draws), again))
        return {**texts, "fresh": jnp.broadcast_to(fresh, batch["fresh"].shape)}

    def post_update(state: TrainState, context: Mapping) -> TrainState:
        buffer, batch = dict(state.extra["replay"]), context["batch"]
        size, fresh = batch["tokens"].shape[0], batch["fresh"][0]
        slots = (buffer["written"] + jnp.arange(size)) % capacity
        for name in STORED:
            buffer[name] = buffer[name].at[slots].set(jnp.where(fresh, batch[name], buffer[name][slots]))
        buffer["written"] = buffer["written"] + jnp.where(fresh, size, 0)
        loss = jax.lax.cond((state.step + 1) % every == 0, lambda: _loss(parts, state), lambda: jnp.float32(jnp.nan))
        worse = loss >= buffer["loss"] + tolerance
        buffer["phi"] = jnp.minimum(buffer["phi"] + jnp.where(worse, growth, 0.0), 1.0)
        buffer["loss"] = jnp.where(jnp.isnan(loss), buffer["loss"], loss)
        return state.replace(extra={**state.extra, "replay": buffer})

    scheme = sampled(parts, pre_update, warmup)
    if scheme.prepare is not None:
        raise ValueError("Adaptive replay has no 'on_data': its terms read the student's outputs on the batch alone.")
    first = {name: np.zeros((capacity, prompts.length), np.int32) for name in STORED}
    first |= {"written": np.int32(0), "phi": np.float32(start), "loss": np.float32(np.inf)}
    stages = (*scheme.stages[:-1], dataclasses.replace(scheme.stages[-1], post_update=post_update))
    extra = {**scheme.extra, "replay": first, "held_out": {name: held_out_rows[name] for name in STORED}}
    return dataclasses.replace(scheme, stages=stages, prepare=prepare, extra=extra)


def _loss(parts: Parts, state: TrainState) -> Array:
    """Computes the student's negative log-likelihood a token on the held-out rows."""
    role, batch = parts.roles["student"], state.extra["held_out"]
    inputs = [lookup({"batch": batch, "extra": state.extra}, path) for path in role.inputs]
    variables = state.params["student"]["student"], state.stats["student"]
    logits = role.model.apply(*variables, *inputs, train=False, key=jax.random.key(0))[0].logits
    total, count = masked_sum_and_count(metrics.nll(logits, batch["label"]), batch["label"] >= 0)
    return total / count
