"""Schedules of weights and temperatures by fraction of the run; as a config names them: "core.schedules.warmup".

Each takes `total_steps` from the run and returns step -> factor. Schedules of optax are named with a colon,
"optax:linear_schedule", and count steps.
"""

from __future__ import annotations

import jax.numpy as jnp

from kd_jax.ranges import Inside, NotNegative, Share
from kd_jax.types import Array, Schedule


def warmup(
    total_steps: int, fraction: Share[float], stairs: NotNegative[int] = 0, first: NotNegative[int] = 0
) -> Schedule:
    """Returns the schedule min(step / (fraction * total_steps), 1): linear from 0 to 1.

    With `stairs` it rises where one of so many equal stretches of the run begins (an epoch each, if there are so many),
    as published code does: (stretch + first) / (fraction * stairs), stretches counted from 0.
    """
    if stairs and total_steps:
        stairs = min(stairs, total_steps)
        length = total_steps / stairs
        return lambda step: jnp.minimum((step // length + first) / (fraction * stairs), 1.0)
    steps = max(fraction * total_steps, 1.0)
    return lambda step: jnp.minimum(step / steps, 1.0)


def sigmoid(total_steps: int, fraction: Share[float], stairs: NotNegative[int] = 0) -> Schedule:
    """Returns the schedule exp(-5 (1 - t)^2), t that of `warmup`: from 0.007 to 1, steepest in the middle.

    The ramp of Laine, Aila, "Temporal Ensembling for Semi-Supervised Learning", 2016, arXiv 1610.02242, which the code
    of ONE and OKDDip takes.
    """
    rise = warmup(total_steps, fraction, stairs)
    return lambda step: jnp.exp(-5.0 * (1.0 - rise(step)) ** 2)


def cosine(
    total_steps: int,
    start: float,
    end: float,
    fraction: Share[float] = 1.0,
    stairs: NotNegative[int] = 0,
    first: NotNegative[int] = 0,
) -> Schedule:
    """Returns the schedule from start to end along half a cosine over `fraction` of the run, then end.

    `stairs` and `first` are those of `warmup`.
    """
    done = warmup(total_steps, fraction, stairs, first)

    def value(step: Array) -> Array:
        return end + (start - end) * 0.5 * (1.0 + jnp.cos(jnp.pi * done(step)))

    return value


def until(total_steps: int, fraction: Share[float]) -> Schedule:
    """Returns the schedule 1 in the first `fraction` of the run, then 0, for terms that initialise the student."""
    return lambda step: jnp.where(step < fraction * total_steps, 1.0, 0.0)


def steps(total_steps: int, boundaries: Inside[tuple[float, ...]], decay: NotNegative[float] = 0.1) -> Schedule:
    """Returns the schedule decay^(number of boundaries passed); boundaries are fractions of the run."""
    return lambda step: decay ** sum(jnp.where(step >= b * total_steps, 1.0, 0.0) for b in boundaries)
