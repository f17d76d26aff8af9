"""PS-KD: the student's predictions of the epoch before soften its labels, more and more as training goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from kd_jax.core.terms import paths_of
from kd_jax.schemes import offline
from kd_jax.types import Array, Parts, Scheme, TrainState

MEMORY = "predictions"


def build(parts: Parts) -> Scheme:
    """Builds training on the terms of the config, one of which reads `extra.predictions` (losses.self_distillation).

    extra.predictions float32 [examples, classes] holds softmax(student's logits) from the last time that the example
    was in a batch, in training mode and on the view of that time: from the epoch before, or 0 in the first. Every
    device holds all of it; 1.28 M x 1000 of ImageNet would be 5 GB.
    Kim, Ji, Yoon, Hwang, "Self-Knowledge Distillation with Progressive Refinement of Targets", 2020, arXiv 2006.12000.
    Raises ValueError where no term reads them.
    """
    if not any(f"extra.{MEMORY}" in paths_of(term) for term in parts.terms.values()):
        raise ValueError(f"No term reads 'extra.{MEMORY}', those of the epoch before: {sorted(parts.terms)}.")
    source = parts.sources["train"]
    scheme = offline.build(parts)
    stage = dataclasses.replace(scheme.stages[0], post_update=_remember)
    memory = jnp.zeros((len(source), source.num_classes), jnp.float32)
    return dataclasses.replace(scheme, stages=(stage,), extra={MEMORY: memory})


def _remember(state: TrainState, context: Mapping[str, Any]) -> TrainState:
    predictions = jax.nn.softmax(context["student"].logits.astype(jnp.float32))
    memory = written(state.extra[MEMORY], context["batch"]["index"], predictions)
    return state.replace(extra={**state.extra, MEMORY: memory})


def written(memory: Array, index: Array, rows: Array) -> Array:
    """Returns memory [n, ...] with memory[index] = rows, for index int [batch] and rows [batch, ...].

    Of an index that occurs twice (where epochs meet in a batch) the last row wins; a plain scatter leaves that open on
    a GPU.
    """
    order = jnp.arange(len(index))
    last = jnp.full(len(memory), -1).at[index].max(order)
    index = jnp.where(last[index] == order, index, len(memory))
    return memory.at[index].set(rows, mode="drop")
