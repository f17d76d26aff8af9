"""What a policy did in its environment, as batches: PPO for who learns alone, a store of states for who is taught."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.core.evaluate import role_variables
from kd_jax.core.paths import lookup
from kd_jax.data.environments import Environment, environment_of
from kd_jax.data.several_environments import task_of
from kd_jax.ranges import Count, Portion, Share
from kd_jax.schemes import offline
from kd_jax.schemes.episodes import film
from kd_jax.tasks.control import policy_of, value_of
from kd_jax.types import Array, Parts, Scheme, TrainState

STORE = "experience"  # the entry of TrainState.extra
DRAW = "draw"  # the entry of a batch whose first number is the seed of what is done after the update
# Environments that go on from step to step: {"states": a list of arrays, "observations": observations}.
Actors = dict[str, Any]
Act = Callable[[Array, Array], tuple[Array, Mapping[str, Array]]]  # (observations, key) -> (actions, what is noted)


def ppo(
    parts: Parts,
    environments: Count[int] = 64,
    length: Count[int] = 64,
    epochs: Count[int] = 4,
    discount: Share[float] = 0.99,
    trace: Share[float] = 0.95,
) -> Scheme:
    """Builds a stage in which a policy learns from its own actions, by the terms of the task (kd_jax/tasks/control.py).

    `environments` are acted in for `length` steps; then each of `epochs` shows the environments * length rows once, in
    batches of train.batch_size, and new ones replace them. The advantage is sum_k (discount * trace)^k delta_{t+k},
    delta_t = r_t + discount V_{t+1} - V_t within an episode, over all rows of mean 0 and variance 1; the value's target
    is that sum + V_t. A time limit is an end like another.
    Schulman et al., "Proximal Policy Optimization Algorithms" (PPO), 2017, arXiv 1707.06347; Schulman et al., "High-
    Dimensional Continuous Control Using Generalized Advantage Estimation", 2015, arXiv 1506.02438.
    Raises ValueError unless the batch size divides the rows.
    """
    environment, source = environment_of(parts.sources["train"]), parts.sources["train"]
    rows = environments * length
    scheme = offline.build(parts)

    def act_of(state: TrainState) -> Act:
        def act(observations: Array, key: Array) -> tuple[Array, Mapping[str, Array]]:
            outputs = said_by(parts, state, "student", observations)
            log_p = jax.nn.log_softmax(policy_of(outputs))
            actions = jax.random.categorical(key, log_p)
            log_prob = jnp.take_along_axis(log_p, actions[:, None], axis=1)[:, 0]
            return actions, {"log_prob": log_prob, "value": value_of(outputs)}

        return act

    def collected(state: TrainState, stored: Mapping[str, Any], key: Array) -> dict[str, Any]:
        actors, noted = acted(environment, act_of(state), stored["actors"], key, length)
        last = value_of(said_by(parts, state, "student", actors["observations"]))
        advantage = advantages(noted["reward"], noted["done"], noted["value"], last, discount, trace)
        target = advantage + noted["value"]
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        new = {"image": noted["image"], "action": noted["action"].astype(jnp.int32), "log_prob": noted["log_prob"]}
        new |= {"advantage": advantage, "value_target": target}
        return {"actors": actors, "rows": {k: v.reshape(rows, *v.shape[2:]) for k, v in new.items()}}

    def prepare(batch: Mapping[str, Array], key: Array, train: bool) -> Mapping[str, Array]:
        entries = dict(parts.prepare(batch, key, train))
        size = batch["image"].shape[0]
        if rows % size and train:
            raise ValueError(f"train.batch_size={size} does not divide {environments} environments * {length} steps.")
        zero = jnp.zeros(size, jnp.float32)
        entries |= {name: zero for name in ("advantage", "log_prob", "value_target")}
        return entries | {"action": jnp.zeros(size, jnp.int32), DRAW: jnp.zeros(size, jnp.uint32)}

    def pre_update(state: TrainState, batch: Mapping[str, Array], key: Array) -> Mapping[str, Array]:
        stored, size = state.extra[STORE], batch["image"].shape[0]
        epoch, place = jnp.divmod(state.step % (rows // size * epochs), rows // size)
        order = jax.random.permutation(jax.random.fold_in(jax.random.key(stored[DRAW]), epoch), rows)
        chosen = jax.lax.dynamic_slice_in_dim(order, place * size, size)
        return {name: values[chosen] for name, values in stored["rows"].items()} | {DRAW: jax.random.bits(key, (size,))}

    def post_update(state: TrainState, context: Mapping[str, Any]) -> TrainState:
        stored, draw = state.extra[STORE], context["batch"][DRAW]
        over = (state.step + 1) % (rows // draw.shape[0] * epochs) == 0
        new = jax.lax.cond(
            over,
            lambda: {**collected(state, stored, jax.random.key(draw[0])), DRAW: draw[0]},
            lambda: dict(stored),
        )
        return state.replace(extra={**state.extra, STORE: new})

    def on_enter(state: TrainState) -> TrainState:
        new = jax.jit(lambda state: collected(state, state.extra[STORE], jax.random.key(0)))(state)
        return state.replace(extra={**state.extra, STORE: {**state.extra[STORE], **new}})

    shapes = {"action": np.int32, "log_prob": np.float32, "advantage": np.float32, "value_target": np.float32}
    first = {name: np.zeros(rows, dtype) for name, dtype in shapes.items()}
    first["image"] = np.zeros((rows, *source.image_shape), np.float32)
    extra = {STORE: {"actors": first_actors(environment, environments), "rows": first, DRAW: np.uint32(0)}}
    return _with(scheme, prepare, pre_update, post_update, on_enter, extra)


def distill(
    parts: Parts,
    actor: str = "mixed",
    environments: Count[int] = 64,
    length: Count[int] = 4,
    capacity: Count[int] = 16384,
    handover: Portion[float] = 0.5,
    teachers: Sequence[str] = ("teacher",),
) -> Scheme:
    """Builds a stage in which the student learns from its teacher by the config's terms, in states that actors visit.

    After every update `environments` are acted in for `length` steps, and what was seen there replaces the oldest of
    `capacity` states, of which every batch is drawn. `actor` is who acts: "teacher" (policy distillation: Rusu et al.,
    2015, arXiv 1511.06295), "student", or "mixed": DAgger (Ross, Gordon, Bagnell, 2010, arXiv 1011.0686), each action
    the teacher's with a chance that falls evenly from 1 to 0 over the share `handover` of the run. Actions are sampled
    from the policy. Ours: the states are a ring, where DAgger keeps all.
    In several environments `teachers` names a role for each, in their order; the mask "batch.task0" says which states
    are of the first, and so on (multi-task distillation of Rusu et al.). Raises ValueError for teachers that fit not.
    """
    if actor not in ("teacher", "student", "mixed"):
        raise ValueError(f"actor={actor!r} is none of teacher, student, mixed.")
    environment, source = environment_of(parts.sources["train"]), parts.sources["train"]
    tasks = len(environment.tasks)
    if missing := [name for name in teachers if name not in parts.roles]:
        raise ValueError(f"schemes.experience.distill learns from {list(teachers)}, and there is no {missing[0]!r}.")
    if len(teachers) != max(tasks, 1):
        raise ValueError(f"teachers={tuple(teachers)}: {environment.name} needs {max(tasks, 1)}, one an environment.")
    if capacity < environments * length or capacity % (environments * length):
        raise ValueError(f"capacity={capacity} is not a multiple of {environments} environments * {length} steps.")
    scheme = offline.build(parts)

    def act_of(state: TrainState) -> Act:
        def policy(who: str, observations: Array, key: Array) -> Array:
            roles = teachers if who == "teacher" else [who]
            said = jnp.stack([policy_of(said_by(parts, state, role, observations)) for role in roles])
            which = task_of(observations, environment) if len(roles) > 1 else 0
            return jax.random.categorical(key, said[which, jnp.arange(len(observations))])

        def act(observations: Array, key: Array) -> tuple[Array, Mapping[str, Array]]:
            if actor != "mixed":
                return policy(actor, observations, key), {}
            coin, mine, theirs = jax.random.split(key, 3)
            chance = jnp.clip(1 - state.step / max(handover * parts.steps, 1), 0, 1)
            by_teacher = jax.random.uniform(coin, observations.shape[:1]) < chance
            actions = policy("teacher", observations, theirs), policy("student", observations, mine)
            return jnp.where(by_teacher, *actions), {}

        return act

    def gone_on(state: TrainState, stored: Mapping[str, Any], key: Array) -> dict[str, Any]:
        actors, noted = acted(environment, act_of(state), stored["actors"], key, length)
        new = noted["image"].reshape(-1, *source.image_shape)
        images = jax.lax.dynamic_update_slice_in_dim(stored["image"], new, stored["written"] % capacity, 0)
        return {"actors": actors, "image": images, "written": stored["written"] + len(new)}

    def masks(observations: Array) -> dict[str, Array]:
        return {f"task{i}": task_of(observations, environment) == i for i in range(tasks)}

    def prepare(batch: Mapping[str, Array], key: Array, train: bool) -> Mapping[str, Array]:
        entries = {**parts.prepare(batch, key, train), **masks(batch["image"])}
        return {**entries, DRAW: jnp.zeros(batch["image"].shape[0], jnp.uint32)}

    def pre_update(state: TrainState, batch: Mapping[str, Array], key: Array) -> Mapping[str, Array]:
        stored, (rows, draws) = state.extra[STORE], jax.random.split(key)
        size = batch["image"].shape[0]
        chosen = jax.random.randint(rows, (size,), 0, jnp.minimum(stored["written"], capacity))
        images = stored["image"][chosen]
        return {"image": images, **masks(images), DRAW: jax.random.bits(draws, (size,))}

    def post_update(state: TrainState, context: Mapping[str, Any]) -> TrainState:
        new = gone_on(state, state.extra[STORE], jax.random.key(context["batch"][DRAW][0]))
        return state.replace(extra={**state.extra, STORE: new})

    def on_enter(state: TrainState) -> TrainState:
        new = jax.jit(lambda state: gone_on(state, state.extra[STORE], jax.random.key(0)))(state)
        return state.replace(extra={**state.extra, STORE: new})

    images = np.zeros((capacity, *source.image_shape), np.float32)
    first = {"actors": first_actors(environment, environments), "written": np.int32(0), "image": images}
    scheme = _with(scheme, prepare, pre_update, post_update, on_enter, {STORE: first})
    seed = int(parts.sources["test"].fields["seed"][0])
    summary = film(environment, partial(said_by, parts), (*teachers, "student"), seed)
    reference = None if tasks else scheme.reference  # no teacher knows all the environments
    return dataclasses.replace(scheme, summary=summary, copies=tuple(teachers), reference=reference)


def said_by(parts: Parts, state: TrainState, role: str, observations: Array) -> Any:
    """Returns the main output of a role on observations, in evaluation."""
    fields = parts.roles[role]
    params, stats = role_variables(state, Scheme(parts.roles, ()), role)
    inputs = [lookup({"batch": {"image": observations}, "extra": state.extra}, path) for path in fields.inputs]
    return fields.model.apply(params, stats, *inputs, train=False, key=jax.random.key(0))[0].logits


def first_actors(environment: Environment, count: int) -> Actors:
    """Returns `count` environments at the beginning of an episode."""
    states, observations = jax.vmap(environment.reset)(jax.random.split(jax.random.key(0), count))
    return {"states": [np.asarray(x) for x in states], "observations": np.asarray(observations)}


def acted(
    environment: Environment, act: Act, actors: Actors, key: Array, length: int
) -> tuple[Actors, dict[str, Array]]:
    """Returns (the environments after `length` steps, what was seen, done and noted [length, environments, ...])."""

    def one(actors: Actors, key: Array) -> tuple[Actors, dict[str, Array]]:
        chooses, moves = jax.random.split(key)
        actions, noted = act(actors["observations"], chooses)
        keys = jax.random.split(moves, len(actions))
        states, observations, reward, done = jax.vmap(environment.step)(keys, tuple(actors["states"]), actions)
        noted = {**noted, "image": actors["observations"], "action": actions, "reward": reward, "done": done}
        return {"states": list(states), "observations": observations}, noted

    return jax.lax.scan(one, actors, jax.random.split(key, length))


def advantages(reward: Array, done: Array, value: Array, last: Array, discount: float, trace: float) -> Array:
    """Returns the generalised advantages [length, environments]; `last` [environments] is the value after the end."""

    def one(after: tuple[Array, Array], step: tuple[Array, Array, Array]) -> tuple[tuple[Array, Array], Array]:
        (advantage, next_value), (reward, done, value) = after, step
        goes_on = 1.0 - done
        advantage = reward + discount * next_value * goes_on - value + discount * trace * goes_on * advantage
        return (advantage, value), advantage

    return jax.lax.scan(one, (jnp.zeros_like(last), last), (reward, done, value), reverse=True)[1]


def _with(scheme: Scheme, prepare: Any, pre_update: Any, post_update: Any, on_enter: Any, extra: Any) -> Scheme:
    stage = dataclasses.replace(scheme.stages[0], pre_update=pre_update, post_update=post_update, on_enter=on_enter)
    return dataclasses.replace(scheme, stages=(stage,), prepare=prepare, extra={**scheme.extra, **extra})
