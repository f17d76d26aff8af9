"""Sections of the report on what policies do: pictures of one episode of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.data.environments import Environment, episodes
from kd_jax.tasks.control import best_action
from kd_jax.types import Array, TrainState

FRAMES = 8


def film(
    environment: Environment, said: Callable[[TrainState, str, Array], Any], roles: Sequence[str], seed: int
) -> Callable[[TrainState, Mapping[str, Any]], list[dict[str, Any]]]:
    """Returns a summary with a strip of pictures of the episode that `seed` begins, for each of the roles.

    `said(state, role, observations)` is what a role answers. An environment that cannot be drawn has no strip.
    """
    draw = environment.draw

    def summary(state: TrainState, record: Mapping[str, Any]) -> list[dict[str, Any]]:
        del record
        if draw is None:
            return []
        sections = []
        for role in roles:
            observed, length, total = jax.jit(lambda s, role=role: recorded(environment, s, role, said, seed))(state)
            shown = np.linspace(0, max(int(length) - 1, 0), FRAMES).astype(int)
            sections.append(
                {
                    "kind": "images",
                    "title": f"An episode of the {role}",
                    "lead": f"{environment.name} from seed {seed}: {int(length)} steps, return {float(total):g}.",
                    "images": [draw(np.asarray(observed[i])).tolist() for i in shown],
                    "labels": [f"step {i}" for i in shown],
                }
            )
        return sections

    return summary


def recorded(
    environment: Environment, state: TrainState, role: str, said: Callable[..., Any], seed: int
) -> tuple[Array, Array, Array]:
    """Returns (observations [limit, ...], steps, return) of the episode of tasks/control.py's evaluation."""

    def choose(observations: Array, key: Array) -> Array:
        del key
        return best_action(said(state, role, observations))

    def keep(step: Array, observations: Array, running: Array, film: Array) -> Array:
        del running
        return film.at[step].set(observations[0])

    blank = jnp.zeros((environment.limit, *environment.shape), jnp.float32)
    total, length, film = episodes(environment, jax.random.key(seed)[None], choose, blank, keep)
    return film, length[0], total[0]
