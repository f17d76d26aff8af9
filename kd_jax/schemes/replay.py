"""DistiLLM's adaptive off-policy training: the student's own texts are kept and used again, more of them when it
stops to improve on held-out text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.core import metrics
from kd_jax.core.paths import lookup
from kd_jax.core.terms import masked_sum_and_count
from kd_jax.schemes.continuations import ENTRIES, make_sampler, prompts_of, with_labels
from kd_jax.schemes.on_policy import sampled
from kd_jax.types import Array, Parts, Scheme, TrainState

KEPT = ("tokens", "segments", "label")


def build(
    parts: Parts,
    warmup: float = 0.5,
    prompt: int = 32,
    start: float = 0.0,
    growth: float = 0.1,
    tolerance: float = 0.1,
    every: int = 50,
    capacity: int = 1024,
    held_out: int = 64,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    decoding: str = "models.language.decoder.decoding",
) -> Scheme:
    """After `warmup`, cross-entropy on the data as in schemes.on_policy, a batch is the student's own text with
    probability phi: new with phi (1 - progress) or while the buffer of `capacity` rows is not full, else drawn from the
    buffer; otherwise it is the data.

    phi starts as `start`. Every `every` steps the student's loss on `held_out` validation rows is taken, and where it
    is not below that of the time before plus `tolerance` phi grows by `growth`, up to 1. Buffer, phi and that loss are
    in extra.replay. Ko, Kim, Chen, Yun, "DistiLLM", 2024, arXiv 2402.03898, Algorithm 1, with the defaults of the
    authors' code. Ours: the loss is that of a fixed part of the validation split.
    """
    if parts.sources.get("validation") is None:
        raise ValueError("Adaptive replay watches the loss on held-out text: data.validation must be above 0.")
    prompts = prompts_of(parts.sources["train"], prompt)
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
    watched, begin = parts.sources["validation"], round(warmup * parts.steps)
    watched = watched.batch(min(held_out, len(watched)))

    def prepare(batch: Mapping[str, Array], key: Array, train: bool) -> Mapping[str, Array]:
        return {**parts.prepare(batch, key, train), "fresh": jnp.zeros(batch["tokens"].shape[0], bool)}

    def pre_update(state: TrainState, batch: Mapping[str, Array], key: Array) -> Mapping[str, Array]:
        coin, own, rows = jax.random.split(key, 3)
        kept, chance = state.extra["replay"], jax.random.uniform(coin)
        count = jnp.minimum(kept["written"], capacity)
        fresh = chance < kept["phi"] * (1 - (state.step - begin) / (parts.steps - begin))
        fresh |= (chance < kept["phi"]) & (count < capacity)

        def again() -> dict[str, Array]:
            drawn = jax.random.randint(rows, (batch["tokens"].shape[0],), 0, jnp.maximum(count, 1))
            return with_labels({name: kept[name][drawn] for name in KEPT})

        choice = jnp.where(fresh, 1, jnp.where(chance < kept["phi"], 2, 0))
        data = {name: batch[name] for name in ENTRIES}
        found = jax.lax.switch(choice, (lambda: data, lambda: sample(state, batch, own), again))
        return {**found, "fresh": jnp.broadcast_to(fresh, batch["fresh"].shape)}

    def post_update(state: TrainState, context: Mapping) -> TrainState:
        kept, batch = dict(state.extra["replay"]), context["batch"]
        size, fresh = batch["tokens"].shape[0], batch["fresh"][0]
        slots = (kept["written"] + jnp.arange(size)) % capacity
        for name in KEPT:
            kept[name] = kept[name].at[slots].set(jnp.where(fresh, batch[name], kept[name][slots]))
        kept["written"] = kept["written"] + jnp.where(fresh, size, 0)
        loss = jax.lax.cond((state.step + 1) % every == 0, lambda: _loss(parts, state), lambda: jnp.float32(jnp.nan))
        worse = loss >= kept["loss"] + tolerance
        kept["phi"] = jnp.minimum(kept["phi"] + jnp.where(worse, growth, 0.0), 1.0)
        kept["loss"] = jnp.where(jnp.isnan(loss), kept["loss"], loss)
        return state.replace(extra={**state.extra, "replay": kept})

    scheme = sampled(parts, pre_update, warmup)
    if scheme.prepare is not None:
        raise ValueError("Adaptive replay does not know terms on on_data.")
    first = {name: np.zeros((capacity, prompts.length), np.int32) for name in KEPT}
    first |= {"written": np.int32(0), "phi": np.float32(start), "loss": np.float32(np.inf)}
    stages = (*scheme.stages[:-1], dataclasses.replace(scheme.stages[-1], post_update=post_update))
    extra = {**scheme.extra, "replay": first, "held_out": {name: watched[name] for name in KEPT}}
    return dataclasses.replace(scheme, stages=stages, prepare=prepare, extra=extra)


def _loss(parts: Parts, state: TrainState) -> Array:
    """The student's nll a token on the held-out rows."""
    role, batch = parts.roles["student"], state.extra["held_out"]
    inputs = [lookup({"batch": batch, "extra": state.extra}, path) for path in role.inputs]
    own = state.params["student"]["student"], state.stats["student"]
    logits = role.model.apply(*own, *inputs, train=False, key=jax.random.key(0))[0].logits
    total, count = masked_sum_and_count(metrics.nll(logits, batch["label"]), batch["label"] >= 0)
    return total / count
