"""An environment small enough to be solved by hand: a corridor of 5 cells, +1 at its right end, -0.1 a step."""

import jax
import jax.numpy as jnp

from kd_jax.data.environments import Environment, splits_of
from kd_jax.data.several_environments import together

CELLS, LIMIT = 5, 12


def reset(key):
    del key
    place = jnp.int32(1)
    return (place, jnp.int32(0)), jax.nn.one_hot(place, CELLS)


def step(key, state, action):
    place, time = state
    place = jnp.clip(place + jnp.where(action == 1, 1, -1), 0, CELLS - 1)
    at_end = place == CELLS - 1
    done = at_end | (time + 1 >= LIMIT)
    again, _ = reset(key)
    state = tuple(jnp.where(done, a, b) for a, b in zip(again, (place, time + 1), strict=True))
    return state, jax.nn.one_hot(state[0], CELLS), jnp.where(at_end, 1.0, -0.1), done


ENVIRONMENT = Environment("corridor", reset, step, (CELLS,), ("left", "right"), LIMIT)
SPLITS = splits_of(ENVIRONMENT)


def load(config):
    """As data.name = "corridor:load"."""
    del config
    return SPLITS


def mirrored_step(key, state, action):
    return step(key, state, 1 - action)


def short(key):
    state, observation = reset(key)
    return state, observation[:4]


def short_step(key, state, action):
    state, observation, reward, done = mirrored_step(key, state, action)
    return state, observation[:4], reward, done


MIRRORED = Environment("mirrored", short, short_step, (CELLS - 1,), ("right", "left", "also left"), LIMIT)
BOTH = splits_of(together([ENVIRONMENT, MIRRORED]))


def load_both(config):
    del config
    return BOTH


def load_first(config):
    del config
    return splits_of(together([ENVIRONMENT, MIRRORED], 0))


def load_second(config):
    del config
    return splits_of(together([ENVIRONMENT, MIRRORED], 1))
