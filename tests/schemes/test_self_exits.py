"""Early exits: taught by the deepest classifier, and used alone."""

import flax.linen as nn
import jax
import numpy as np
import pytest
import toy
from scheme_checks import KEY, moved, same_on_eight_devices, steps

from kd_jax.losses import feature, response, task
from kd_jax.models.adapters import LinenModel
from kd_jax.models.exits import EarlyExit, early_exit, exits
from kd_jax.schemes import self_deep
from kd_jax.types import Role, Term

THREE = {"network": {"name": "models.vision.cnn.cnn", "kwargs": {"widths": (2, 3, 4)}}, "last": "stage3"}
TWO = {
    "network": {"name": "models.vision.cnn.cnn", "kwargs": {"widths": (2, 3)}},
    "taps": ("stage1",),
    "last": "stage2",
}
X = jax.random.normal(KEY, (6, 8, 8, 1))


def test_every_exit_ends_in_the_shape_of_the_last_map():
    model = exits(3, taps=("stage1", "stage2"), **THREE)
    params, stats = jax.eval_shape(model.init, KEY, X)
    assert {"depthwise1", "depthwise2"} < set(params["exit1"]) and "depthwise2" not in params["exit2"]
    outputs, new = jax.eval_shape(
        lambda p, s: model.apply(p, s, X, train=True, key=KEY, taps=("stage3",)), params, stats
    )
    assert outputs.logits.shape == outputs.features["exit1"].shape == outputs.features["exit2"].shape == (6, 3)
    maps = [outputs.features[name].shape for name in ("exit1/map", "exit2/map", "stage3")]
    assert maps == [(6, 2, 2, 4)] * 3 and jax.tree.structure(new) == jax.tree.structure(stats)
    with pytest.raises(ValueError, match="'embedding' is"):
        jax.eval_shape(exits(3, taps=("embedding",), **THREE).init, KEY, X)
    with pytest.raises(ValueError, match="no 'exit3'. Did you mean 'exit"):
        EarlyExit(model, "exit3").keep(params, stats, X)


def test_an_exit_alone_is_the_tapped_one_and_costs_less():
    def compiled(model, *variables):
        return jax.jit(lambda p, s, x: model.apply(p, s, x, train=False, key=KEY)[0]).lower(*variables, X).compile()

    model = exits(3, **TWO)
    params, stats = jax.jit(model.init)(KEY, X)
    stats = jax.tree.map(lambda x: x + 0.1, stats)  # an exit must read its own averages, not those of a fresh network
    whole, costs = compiled(model, params, stats)(params, stats, X), {}
    for name, expected in (("exit1", whole.features["exit1"]), ("", whole.logits)):
        part = EarlyExit(model, name)
        remaining = part.keep(params, stats, X)
        alone = compiled(part, *remaining)
        np.testing.assert_allclose(alone(*remaining, X).logits, expected, rtol=1e-5, atol=1e-6)
        costs[name] = sum(x.size for x in jax.tree.leaves(remaining[0])), alone.cost_analysis()["flops"]
        assert set(remaining[0]) == {"network", *([name] if name else [])} == set(remaining[1])
        assert set(remaining[0]["network"]) == ({"stage1"} if name else {"stage1", "stage2", "head"})
    assert all(early < late for early, late in zip(costs["exit1"], costs[""], strict=True))


def test_an_exit_alone_can_be_made_and_trained():
    alone = early_exit(3, "exit1", **TWO)
    params, stats = jax.jit(alone.init)(KEY, X)
    assert set(params) == {"exit1", "network"} and set(params["network"]) == {"stage1"}
    outputs, new = jax.jit(lambda p, s: alone.apply(p, s, X, train=True, key=KEY))(params, stats)
    assert outputs.logits.shape == (6, 3) and jax.tree.structure(new) == jax.tree.structure(stats)
    assert not np.array_equal(*(s["exit1"]["batch_stats"]["norm1"]["mean"] for s in (stats, new)))


class TwoAnswers(nn.Module):
    """A network with an exit, and all else small."""

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.relu(nn.Dense(6, name="shared")(x))
        mapped = nn.Dense(5, name="exit1_map")(x)
        deep = nn.relu(nn.Dense(5, name="deep")(x))
        deep = nn.BatchNorm(use_running_average=not train, name="norm")(deep)
        exit1 = nn.Dense(3, name="exit1_head")(mapped)
        return nn.Dense(3, name="head")(deep), {"exit1": exit1, "exit1/map": mapped, "deepest": deep}


def terms(which=("ce", "kd", "hint")):
    labels = {"targets": ("batch.label",), "where": "batch.labelled"}
    path, maps = ("student.features:exit1",), ("student.features:exit1/map", "student.features:deepest")
    every = {
        "ce": Term(task.cross_entropy_loss, path, **labels),
        "kd": Term(response.kd_loss, path, ("student.logits",), 0.5, {"temperature": 3.0}),
        "hint": Term(feature.feature_hint_loss, maps[:1], maps[1:], 0.1),
    }
    whole = {"ce_whole": Term(task.cross_entropy_loss, ("student.logits",), **labels)} if "ce" in which else {}
    return {**whole, **{kind: every[kind] for kind in which}}


def scheme(terms, chosen=("exit1",)):
    roles = {"student": Role(LinenModel(TwoAnswers()), group="student")}
    return self_deep.build(toy.parts(roles, terms, train=toy.source()), exits=chosen)


def test_deep_to_shallow():
    built = scheme(terms())
    first, last, history = steps(built, count=4)
    assert moved(first, last) == {"student"} and history[-1]["loss"] < history[0]["loss"]
    assert built.evaluate == ("student", "student.features:exit1", "student+student.features:exit1")
    same_on_eight_devices(built, last, count=4)
    scores = {entry: {"accuracy": 0.5} for entry in built.evaluate}
    (section,) = built.summary(last, {"stages": [{"test": scores}]})
    sizes = [4 * 6 + 6 + 6 * 5 + 5 + 5 * 3 + 3] * 2
    sizes[0] += 5 + 5  # the norm of the deeper branch
    assert [row[:3] for row in section["rows"]] == [
        ["whole network", "50.00%", sizes[0]],
        ["exit1", "50.00%", sizes[1]],
    ]
    assert section["rows"][1][3] < section["rows"][0][3]


def test_the_deepest_classifier_is_not_moved_by_its_pupils():
    first, last, _ = steps(scheme(terms(("kd", "hint"))), count=1)
    one, other = (state.params["student"]["student"] for state in (first, last))
    same = {k for k in one if jax.tree.all(jax.tree.map(np.array_equal, one[k], other[k]))}
    assert same == {"head", "deep", "norm"}


@pytest.mark.parametrize("chosen", [(), ("exit1", "exit2")])
def test_exits_without_terms(chosen):
    with pytest.raises(ValueError, match="each needs a term"):
        scheme(terms(), chosen)
