"""Several environments as one: each episode is of one of them, and the observation says of which."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.data.environments import Environment, of_gymnax, splits_of
from kd_jax.data.source import Splits
from kd_jax.types import Array

State = tuple[Array, ...]


def together(environments: Sequence[Environment], only: int | None = None) -> Environment:
    """Returns an environment whose episodes are of `environments`, drawn evenly by the key, or all of number `only`.

    The observation is that of the one at hand, filled up with zeros to the longest, and after it 1 at its number among
    zeros. There are as many actions as in the one with most; an action that another one lacks is its last. Raises
    ValueError unless there are two or more, whose observations are vectors, and `only` is one of them.
    """
    _check(environments, only)
    count, longest = len(environments), max(e.shape[0] for e in environments)
    examples = [jax.eval_shape(e.reset, jax.random.key(0))[0] for e in environments]
    starts = np.cumsum([0, *(len(example) for example in examples)])

    def observed(number: Array, observations: Sequence[Array]) -> Array:
        filled = [jnp.pad(o, (0, longest - o.shape[0])) for o in observations]
        return jnp.concatenate([jnp.stack(filled)[number], jax.nn.one_hot(number, count)])

    def reset(key: Array) -> tuple[State, Array]:
        choice, *keys = jax.random.split(key, count + 1)
        number = jax.random.randint(choice, (), 0, count) if only is None else jnp.int32(only)
        states, observations = zip(*(e.reset(k) for e, k in zip(environments, keys, strict=True)), strict=True)
        return (number, *(leaf for state in states for leaf in state)), observed(number, observations)

    def step(key: Array, state: State, action: Array) -> tuple[State, Array, Array, Array]:
        number, *leaves = state
        after: list[Array] = []
        observations, rewards, ends = [], [], []
        for i, environment in enumerate(environments):
            before = tuple(leaves[starts[i] : starts[i + 1]])
            possible = jnp.minimum(action, len(environment.actions) - 1)
            moved, observation, reward, done = environment.step(key, before, possible)
            after += moved
            observations.append(observation)
            rewards.append(reward)
            ends.append(done)
        return (number, *after), observed(number, observations), jnp.stack(rewards)[number], jnp.stack(ends)[number]

    def draw(observation: np.ndarray) -> np.ndarray:
        environment = environments[int(np.argmax(observation[longest:]))]
        assert environment.draw is not None
        return environment.draw(observation[: environment.shape[0]])

    most = max(environments, key=lambda e: len(e.actions))
    name = "+".join(e.name for e in environments) + ("" if only is None else f"#{only}")
    drawn = draw if all(e.draw is not None for e in environments) else None
    limit, tasks = max(e.limit for e in environments), tuple(e.name for e in environments)
    return Environment(name, reset, step, (longest + count,), most.actions, limit, drawn, tasks)


def _check(environments: Sequence[Environment], only: int | None) -> None:
    if len(environments) < 2 or any(len(e.shape) != 1 for e in environments):
        shapes = {e.name: e.shape for e in environments}
        raise ValueError(f"Environments that are one have vectors as observations, and are two or more: {shapes}")
    if only is not None and not 0 <= only < len(environments):
        raise ValueError(f"there is no environment {only} among {[e.name for e in environments]}")


@functools.cache
def named(text: str) -> Splits:
    """Returns the episodes of "NAME" in gymnax, of several as "A+B", or of B alone in their common form as "A+B#1".

    One object a text, so that steps which act there are compiled once. Raises ValueError for a text of another form.
    """
    names, sign, number = text.partition("#")
    environments = [of_gymnax(name) for name in names.split("+")]
    if sign and not number.isdigit():
        raise ValueError(f"gymnax:{text}: behind # is the number of one of the environments, from 0.")
    if len(environments) == 1 and not sign:
        return splits_of(environments[0])
    return splits_of(together(environments, int(number) if sign else None))


def task_of(observations: Array, environment: Environment) -> Array:
    """Returns which of its environments each observation is of, int32 [n]."""
    return jnp.argmax(observations[:, -len(environment.tasks) :], axis=1).astype(jnp.int32)
