"""Environments in which a policy acts, and their episodes as data: an example is the seed of an episode."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.data import arrays
from kd_jax.data.source import DataNotFound, Source, Splits
from kd_jax.resolve import near
from kd_jax.types import Array

EPISODES = {"train": 1024, "validation": 64, "test": 128}
_STARTS = {"train": 0, "validation": 1_000_000, "test": 2_000_000}  # so that no two splits share a seed
_ADVICE = "pip install gymnax"


class Environment(NamedTuple):
    """An environment of discrete actions as two pure functions; states are tuples of arrays.

    `reset(key) -> (state, observation)`; `step(key, state, action) -> (state, observation, reward, done)` begins anew
    where an episode ended, and a time limit is an end. `shape` is that of an observation (float32), `limit` the steps
    of the longest episode. `draw(observation) -> [H, W, 3]` (uint8, NumPy) is how a report shows it.
    """

    name: str
    reset: Callable[[Array], tuple[tuple[Array, ...], Array]]
    step: Callable[[Array, tuple[Array, ...], Array], tuple[tuple[Array, ...], Array, Array, Array]]
    shape: tuple[int, ...]
    actions: tuple[str, ...]
    limit: int
    draw: Callable[[np.ndarray], np.ndarray] | None = None
    tasks: tuple[str, ...] = ()  # the names of those that it consists of (kd_jax/data/several_environments.py)


def of_gymnax(name: str) -> Environment:
    """Returns an environment of gymnax (R. Lange, 2022, github.com/RobertTLange/gymnax) with its default parameters.

    DataNotFound where gymnax is not installed, ValueError for a name that it does not have.
    """
    try:
        import gymnax
    except ImportError as e:
        raise DataNotFound(f"gymnax:{name}: {e.name} is not installed. {_ADVICE}") from e
    if name not in gymnax.registered_envs:
        raise ValueError(f"gymnax:{name}: there is no such environment. {near(name, gymnax.registered_envs)}")
    made, params = gymnax.make(name)
    space = made.action_space(params)
    if not hasattr(space, "n"):
        raise ValueError(f"gymnax:{name} has actions that are numbers; expected one that chooses among several.")
    first, state = jax.eval_shape(lambda key: made.reset(key, params), jax.random.key(0))
    tree = jax.tree.structure(state)
    types = [leaf.dtype for leaf in jax.tree.leaves(state)]

    def leaves(state: Any) -> tuple[Array, ...]:
        return tuple(jnp.asarray(x, dtype) for x, dtype in zip(jax.tree.leaves(state), types, strict=True))

    def reset(key: Array) -> tuple[tuple[Array, ...], Array]:
        observation, state = made.reset(key, params)
        return leaves(state), jnp.asarray(observation, jnp.float32)

    def step(key: Array, state: tuple[Array, ...], action: Array) -> tuple[tuple[Array, ...], Array, Array, Array]:
        state = jax.tree.unflatten(tree, state)
        observation, state, reward, done, _ = made.step(key, state, action, params)
        return leaves(state), jnp.asarray(observation, jnp.float32), jnp.asarray(reward, jnp.float32), done

    names = tuple(f"action {i}" for i in range(int(space.n)))
    limit = int(params.max_steps_in_episode)
    return Environment(f"gymnax:{name}", reset, step, first.shape, names, limit, DRAWN.get(name, cells))


def splits_of(environment: Environment) -> Splits:
    """Returns the splits of an environment's episodes: seeds, and for each a state that a random policy visits.

    Labels are the returns of the random policy in these episodes, so that chance is known. Every example has its
    `seed` (int32) as a field; the observation is that of the episode's step number (seed modulo length) + 1.
    """
    return Splits(*(source_of(environment, split) for split in EPISODES))


def source_of(environment: Environment, split: str) -> Source:
    """Returns one split of the episodes of an environment."""
    seeds = _STARTS[split] + np.arange(EPISODES[split], dtype=np.int32)
    observations, returns = map(np.asarray, _by_chance(environment, seeds))
    channels = environment.shape[-1]
    source = arrays.in_memory(
        environment.name,
        split,
        observations,
        returns,
        class_names=environment.actions,
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        fields={"seed": seeds},
    )
    return dataclasses.replace(source, environment=environment)


def _by_chance(environment: Environment, seeds: np.ndarray) -> tuple[Array, Array]:
    """(an observation of each episode, its return), where every action is drawn evenly."""

    def choose(observations: Array, key: Array) -> Array:
        return jax.random.randint(key, observations.shape[:1], 0, len(environment.actions))

    @jax.jit
    def run(seeds: Array) -> tuple[Array, Array]:
        keys = jax.vmap(jax.random.key)(seeds)
        _, shown = jax.vmap(environment.reset)(keys)
        wanted = seeds % SHOWN + 1

        def keep(number: Array, observations: Array, running: Array, shown: Array) -> Array:
            here = (number == wanted) & running
            return jnp.where(here.reshape(-1, *[1] * (shown.ndim - 1)), observations, shown)

        returns, _, shown = episodes(environment, keys, choose, shown, keep)
        return shown, returns

    return run(jnp.asarray(seeds))


SHOWN = 64  # states of a random episode lie among its first so many


def episodes(
    environment: Environment,
    keys: Array,
    choose: Callable[[Array, Array], Array],
    carry: Any = (),
    keep: Callable[[Array, Array, Array, Any], Any] | None = None,
) -> tuple[Array, Array, Any]:
    """Returns (sum of rewards [n], steps [n], carry) of one whole episode for each key.

    `choose(observations, key) -> actions` acts; `keep(step, observations, running, carry) -> carry` sees every step
    before its action.
    """
    split = jax.vmap(lambda key: tuple(jax.random.split(key)))
    first, later = split(keys)
    state, observations = jax.vmap(environment.reset)(first)
    count = len(keys)

    def one(held: tuple) -> tuple:
        number, state, observations, running, total, length, carry = held
        if keep is not None:
            carry = keep(number, observations, running, carry)
        here = jax.vmap(lambda key: jax.random.fold_in(key, number))(later)
        actions = choose(observations, here[0])
        state, observations, reward, done = jax.vmap(environment.step)(here, state, actions)
        total = total + jnp.where(running, reward, 0.0)
        length = length + running
        return number + 1, state, observations, running & ~done, total, length, carry

    def going(held: tuple) -> Array:
        return (held[0] < environment.limit) & held[3].any()

    zero = jnp.zeros(count, jnp.float32)
    held = (jnp.int32(0), state, observations, jnp.ones(count, bool), zero, jnp.zeros(count, jnp.int32), carry)
    held = jax.lax.while_loop(going, one, held)
    return held[4], held[5], held[6]


def cells(observation: np.ndarray) -> np.ndarray:
    """Returns a grid [H, W, channels] as colours, a colour a channel; a vector as a row of grey cells."""
    values = np.asarray(observation, np.float32)
    if values.ndim != 3:
        grey = 255 * (values.reshape(1, -1) - values.min()) / max(float(np.ptp(values)), 1e-6)
        return np.repeat(np.repeat(np.repeat(grey[..., None], 3, -1), 8, 0), 8, 1).astype(np.uint8)
    hues = np.linspace(0, 2 * np.pi, values.shape[-1], endpoint=False)[:, None] + np.array([0.0, 2.1, 4.2])
    palette = 155 + 100 * np.cos(hues)
    picture = np.zeros((*values.shape[:2], 3), np.float32)
    for channel, colour in enumerate(palette):
        picture = np.where(values[..., channel : channel + 1] > 0, colour, picture)
    return np.repeat(np.repeat(picture, 5, 0), 5, 1).astype(np.uint8)


def _lines(points: np.ndarray, size: int = 56, half: float = 2.3) -> np.ndarray:
    """A white picture with dark lines between the points (x to the right, y up, from -half to half)."""
    picture = np.full((size, size, 3), 255, np.uint8)
    for (x0, y0), (x1, y1) in zip(points[:-1], points[1:], strict=True):
        steps = np.linspace(0, 1, 4 * size)[:, None]
        path = np.array([x0, y0]) * (1 - steps) + np.array([x1, y1]) * steps
        column, row = ((path[:, 0] + half) / (2 * half) * size), ((half - path[:, 1]) / (2 * half) * size)
        for shift in (0, 1):
            i, j = (np.clip(v.astype(int) + shift, 0, size - 1) for v in (row, column))
            picture[i, j] = (30, 60, 120)
    return picture


def _acrobot(observation: np.ndarray) -> np.ndarray:
    c1, s1, c2, s2 = map(float, observation[:4])
    elbow = np.array([s1, -c1])
    hand = elbow + np.array([s1 * c2 + c1 * s2, -(c1 * c2 - s1 * s2)])
    picture = _lines(np.stack([np.zeros(2), elbow, hand]))
    goal = round((2.3 - 1.0) / 4.6 * len(picture))
    picture[goal] = (200, 120, 40)
    return picture


def _cartpole(observation: np.ndarray) -> np.ndarray:
    x, _, angle, _ = map(float, observation[:4])
    points = [(x - 0.4, 0.0), (x + 0.4, 0.0), (x, 0.0), (x + 2 * np.sin(angle), 2 * np.cos(angle))]
    return _lines(np.array(points))


DRAWN = {"Acrobot-v1": _acrobot, "CartPole-v1": _cartpole}


def environment_of(source: Source) -> Environment:
    """Returns the environment of a source; ValueError where its examples are no episodes."""
    if source.environment is None:
        raise ValueError(f"{source.name} is no environment: data.name is 'gymnax:Acrobot-v1' or the like.")
    return source.environment
