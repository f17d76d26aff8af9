"""Costs: one architecture is one measurement, rounds interleave, FLOPs that XLA does not know are None."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.models.adapters import FunctionModel, LinenModel
from kd_jax.models.mlp import mlp
from kd_jax.system import cost


def forward(model, features=6, seed=0):
    variables = model.init(jax.random.key(seed), jnp.zeros((1, features)))
    return cost.Forward(model, *jax.tree.map(np.asarray, variables), lambda n: (np.zeros((n, features), np.float32),))


def test_one_architecture_is_one_measurement_whatever_it_is_called():
    small, same = LinenModel(mlp(3, widths=(4,))), LinenModel(mlp(3, widths=(4,)))
    networks = {"teacher": forward(LinenModel(mlp(3, widths=(16,)))), "baseline": forward(small)}
    measured = cost.costs({**networks, "student": forward(same, seed=1)})
    assert measured["baseline"] == measured["student"] and measured["teacher"] != measured["student"]
    assert measured["student"]["parameters"] == 7 * 4 + 5 * 3 and measured["student"]["bytes"] == 4 * 43
    assert measured["student"]["flops"] >= 2 * (6 * 4 + 4 * 3)
    for values in measured.values():
        for batch in ("1", "128"):
            low, high = values["latency_spread_ms"][batch]
            assert 0 < low <= values["latency_ms"][batch] <= high


def test_other_shapes_are_another_measurement():
    model = FunctionModel(lambda key, x: {}, lambda params, x: x.sum(-1, keepdims=True))
    measured = cost.costs({"narrow": forward(model, 2), "wide": forward(model, 200)})
    assert measured["narrow"]["flops"] != measured["wide"]["flops"]
    assert measured["narrow"]["latency_ms"] != measured["wide"]["latency_ms"]


def test_rounds_interleave(monkeypatch):
    called = []

    def program(name):
        return lambda *args: called.append(name) or jnp.zeros(())

    monkeypatch.setattr(cost, "ROUNDS", 4)
    spent = cost.rounds([(program("teacher"), ()), (program("student"), ())])
    assert called == ["teacher", "student"] * 5  # the first call of each is not counted
    assert [len(times) for times in spent] == [4, 4]
    monkeypatch.setattr(cost, "SECONDS", 0.0)  # of slow networks the fewest rounds that have quartiles
    assert [len(times) for times in cost.rounds([(program("teacher"), ()), (program("student"), ())])] == [3, 3]


@pytest.mark.parametrize(
    ("counted", "flops"), [(12.0, 12.0), (-1.0, None), (0.0, None), (float("nan"), None), (None, None)]
)
def test_flops_that_are_not_known_are_none(counted, flops):
    class Compiled:
        def cost_analysis(self):
            return None if counted is None else {"flops": counted}

    assert cost.flops_of(Compiled()) == flops
