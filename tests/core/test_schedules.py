"""Schedules at steps worked out by hand, as numbers and traced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.core.schedules import cosine, sigmoid, steps, until, warmup

HALF = 0.5**0.5  # cos 45 degrees


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (warmup(100, 0.2), {0: 0.0, 5: 0.25, 20: 1.0, 21: 1.0, 99: 1.0}),
        (warmup(100, 0.0), {0: 0.0, 1: 1.0}),  # at least one step
        # An epoch of 10 steps, 20 of 240 epochs: DKD's min(epoch / 20, 1) counts from 1, ReviewKD's from 0.
        (warmup(2400, 1 / 12, stairs=240, first=1), {0: 0.05, 9: 0.05, 10: 0.1, 189: 0.95, 190: 1.0, 2399: 1.0}),
        (warmup(2400, 1 / 12, stairs=240), {0: 0.0, 9: 0.0, 10: 0.05, 199: 0.95, 200: 1.0}),
        (warmup(10, 0.5, stairs=5), {1: 0.0, 2: 0.4, 4: 0.8, 6: 1.0}),
        (sigmoid(100, 0.5), {0: np.exp(-5), 25: np.exp(-1.25), 50: 1.0, 99: 1.0}),
        (
            sigmoid(3000, 80 / 300, stairs=300),
            {9: np.exp(-5), 10: np.exp(-5 * (79 / 80) ** 2), 800: 1.0},
        ),
        (cosine(100, 1.0, 0.0), {0: 1.0, 25: 0.5 + HALF / 2, 50: 0.5, 100: 0.0, 200: 0.0}),
        (cosine(240, 0.0, 1.0, 1 / 24), {0: 0.0, 5: 0.5, 10: 1.0, 240: 1.0}),  # rises as it falls
        # CTKD's strength: cos(epoch pi / 10), epochs of 10 steps from 1.
        (cosine(2400, 0.0, 1.0, 1 / 24, stairs=240, first=1), {40: 0.5, 49: 0.5, 89: 0.5 + 0.475528, 90: 1.0, 99: 1.0}),
        (cosine(10, 3.0, 1.0, 0.4), {0: 3.0, 1: 2.0 + HALF, 2: 2.0, 4: 1.0, 9: 1.0}),
        (until(80, 0.125), {0: 1.0, 9: 1.0, 10: 0.0, 79: 0.0}),
        (until(80, 0.0), {0: 0.0}),
        (until(80, 1.0), {79: 1.0}),
        (steps(240, (0.625, 0.75, 0.875)), {0: 1.0, 149: 1.0, 150: 0.1, 180: 0.01, 209: 0.01, 210: 0.001}),
        (steps(8, (0.5,), decay=0.2), {3: 1.0, 4: 0.2, 7: 0.2}),
        (steps(8, ()), {0: 1.0, 7: 1.0}),
    ],
)
def test_values(schedule, values):
    traced = jax.jit(jax.vmap(lambda step: jnp.asarray(schedule(step), jnp.float32)))
    expected = np.array([*values.values()], np.float32)
    np.testing.assert_allclose(traced(jnp.array([*values], jnp.int32)), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose([float(schedule(step)) for step in values], expected, rtol=1e-5, atol=1e-6)


def test_one_schedule_serves_runs_of_any_length():
    """A fraction of the run is a fraction of the run."""
    for make in (lambda n: warmup(n, 0.1), lambda n: cosine(n, 2.0, 0.5, 0.8), lambda n: steps(n, (0.25, 0.5))):
        short, long = make(100), make(1000)
        at = (0, 7, 25, 60)
        np.testing.assert_allclose([short(s) for s in at], [long(10 * s) for s in at], rtol=1e-5)
