"""Mean teacher: the student learns, on unlabelled data too, from the running average of its weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from kd_jax.core.terms import calls_of
from kd_jax.ranges import BelowOne
from kd_jax.schemes import offline
from kd_jax.types import Array, Call, Parts, PyTree, Scheme, TrainState

AVERAGE = "average"


def build(parts: Parts, decay: BelowOne[float] = 0.99, inputs: tuple[str, ...] = ()) -> Scheme:
    """Builds offline distillation whose terms may read the outputs of the role "average".

    After every step average = d average + (1 - d) student, d = min(decay, 1 - 1 / (step + 2)): a plain mean at first.
    `inputs` are the average's, such as ("batch.other_image",) of config.train.views; () are the student's.
    The student and the average are evaluated. Tarvainen, Valpola, "Mean teachers are better role models:
    Weight-averaged consistency targets improve semi-supervised deep learning results", 2017, arXiv 1703.01780.
    Their average runs in training mode (dropout, statistics of the batch) and gathers BatchNorm statistics of its own.
    Ours runs in eval mode on averages of the student's statistics, so that the network that teaches is the one that is
    evaluated.
    """
    if AVERAGE in parts.roles:
        raise ValueError(f"The role {AVERAGE!r} is made by the scheme: config.roles needs another name.")
    if not 0 <= decay < 1:
        raise ValueError(f"decay is in [0, 1), the share of the average that a step keeps; got {decay}.")
    if AVERAGE not in calls_of(parts.terms.values()):
        raise ValueError(f"No term reads '{AVERAGE}.logits': {sorted(parts.terms)} do not use the average.")
    student = parts.roles["student"]
    average = dataclasses.replace(student, group=AVERAGE, initial="student")
    scheme = offline.build(parts)
    stage = scheme.stages[0]
    phase = stage.phases[0]
    call = Call(AVERAGE, tuple(inputs) or student.inputs, train=False)
    phase = dataclasses.replace(phase, forward=(*phase.forward, call))
    return dataclasses.replace(
        scheme,
        roles={**parts.roles, AVERAGE: average},
        stages=(dataclasses.replace(stage, phases=(phase,), post_update=averaging(decay)),),
        evaluate=("student", AVERAGE),
    )


def averaging(decay: float) -> Callable[[TrainState, Mapping[str, Any]], TrainState]:
    """Returns a `post_update` that moves the role "average" towards the student by 1 - min(decay, 1 - 1/(step + 2))."""

    def post_update(state: TrainState, _: Mapping[str, Any]) -> TrainState:
        keep = jnp.minimum(decay, 1.0 - 1.0 / (state.step + 2.0))
        params = mixed(state.params[AVERAGE][AVERAGE], state.params["student"]["student"], keep)
        stats = mixed(state.stats[AVERAGE], state.stats["student"], keep)
        return state.replace(params={**state.params, AVERAGE: {AVERAGE: params}}, stats={**state.stats, AVERAGE: stats})

    return post_update


def mixed(old: PyTree, new: PyTree, keep: Array) -> PyTree:
    """Computes keep * old + (1 - keep) * new for floating leaves, in float32; takes other leaves (counters) of new."""

    def mix(a: Array, b: Array) -> Array:
        if not jnp.issubdtype(a.dtype, jnp.floating):
            return b
        wide = jnp.promote_types(a.dtype, jnp.float32)
        return (keep * a.astype(wide) + (1 - keep) * b.astype(wide)).astype(a.dtype)

    return jax.tree.map(mix, old, new)
