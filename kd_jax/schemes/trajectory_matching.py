"""Trajectory matching: images that take a network, in a few steps, where the real data take it in many."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from kd_jax.losses.synthesis import trajectory_matching_loss
from kd_jax.losses.task import cross_entropy_loss
from kd_jax.models.connectors import learned_scalar
from kd_jax.ranges import Count, Inside, Positive
from kd_jax.types import Array, Call, Model, Parts, Phase, PyTree, Stage, Term, TrainState

TRAJECTORIES = "trajectories"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What trajectory matching is told.

    `experts` trajectories, each stored at `moments` + 1 points, take the share `share` of the steps for the images. A
    network starts where an expert was and makes `updates` steps of gradient descent on the images, at a rate that is
    learned from `rate` on; it should be where the expert was `span` moments later.
    """

    experts: Count[int] = 10
    moments: Count[int] = 8
    span: Count[int] = 2
    updates: Count[int] = 10
    rate: Positive[float] = 0.03
    share: Inside[float] = 0.3


@dataclasses.dataclass(frozen=True)
class Experts:
    """`count` trajectories of `moments` + 1 stored networks, the first after one step, then one every `every` steps."""

    count: int
    moments: int
    every: int

    @property
    def length(self) -> int:
        """Returns the steps of one trajectory."""
        return 1 + self.moments * self.every

    @property
    def steps(self) -> int:
        """Returns the steps of all trajectories."""
        return self.count * self.length


def experts_of(settings: Settings, steps: int) -> Experts:
    """Returns the trajectories for which the share of `steps` has room; ValueError where it has none."""
    count, moments = settings.experts, settings.moments
    room = round(settings.share * steps)
    every = (room // count - 1) // moments
    if every < 1:
        raise ValueError(
            f"trajectory.share={settings.share} of {steps} steps are {room}; experts={count} trajectories of "
            f"moments={moments} need at least {count * (moments + 1)}."
        )
    if settings.span > moments:
        raise ValueError(f"trajectory.span={settings.span} is more than the moments={moments} of a trajectory.")
    return Experts(count, moments, every)


def first_trajectories(model: Model, shape: tuple[int, ...], experts: Experts) -> PyTree:
    """Returns room for the parameters of every moment of every expert, [count, moments + 1, ...]."""
    params, _ = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *shape)))
    return jax.tree.map(lambda x: jnp.zeros((experts.count, experts.moments + 1, *x.shape), x.dtype), params)


def expert_stage(
    parts: Parts, role: str, experts: Experts, draw: Callable[[TrainState], TrainState], real: str
) -> Stage:
    """Returns the stage that trains one expert after the other on real examples and stores their trajectories.

    `draw` gives the role new parameters.
    """
    term = Term(cross_entropy_loss, (f"{role}.logits",), ("batch.label",))
    phase = Phase(role, (Call(role),), {"expert": term}, parts.make_tx(experts.steps, role))

    def store(state: TrainState, context: Mapping[str, Any]) -> TrainState:
        del context
        expert, place = jnp.divmod(state.step, experts.length)
        moment, now = place // experts.every, place % experts.every == 0

        def put(stored: Array, x: Array) -> Array:
            return stored.at[expert, moment].set(jnp.where(now, x, stored[expert, moment]))

        stored = jax.tree.map(put, state.extra[TRAJECTORIES], state.params[role][role])
        state = state.replace(extra={**state.extra, TRAJECTORIES: stored})
        return jax.lax.cond(place == experts.length - 1, draw, lambda state: state, state)

    return Stage(experts.steps, (phase,), store, name="experts", data=real, selects=False)


def trajectory_term(model: Model, role: str, images: str, experts: Experts, settings: Settings, seed: int) -> Term:
    """Returns the term of one expert and one of its moments, drawn anew in every step."""
    span = settings.span

    def distance(x: Array, log_rate: Array, stored: PyTree, stats: PyTree, labels: Array, step: Array) -> Array:
        which, when = jax.random.split(jax.random.fold_in(jax.random.key(seed), step))
        expert = jax.random.randint(which, (), 0, experts.count)
        moment = jax.random.randint(when, (), 0, experts.moments - span + 1)
        start, end = (jax.tree.map(lambda x, m=m: x[expert, m], stored) for m in (moment, moment + span))

        def loss(params: PyTree) -> Array:
            outputs, _ = model.apply(params, stats, x, train=True, key=jax.random.key(0))
            return cross_entropy_loss(outputs.logits, labels).mean()

        def descend(params: PyTree, _: None) -> tuple[PyTree, None]:
            return jax.tree.map(lambda p, g: p - jnp.exp(log_rate) * g, params, jax.grad(loss)(params)), None

        arrived, _ = jax.lax.scan(descend, start, length=settings.updates)
        return trajectory_matching_loss(arrived, end, start)[None]

    def connector(*shapes: Any) -> Model:
        return learned_scalar(*shapes, first=math.log(settings.rate))

    targets = (f"extra.{TRAJECTORIES}", f"stats.{role}", "extra.synthetic_labels", "step")
    return Term(distance, (images,), targets, connector=connector)
