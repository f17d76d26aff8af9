"""Architecture search: by turns, sandwich, a winner that lives in the state."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
import scheme_checks as checks
import toy

from kd_jax.core.bind import bind
from kd_jax.core.step import forward
from kd_jax.core.terms import term_value
from kd_jax.models.adapters import LinenModel
from kd_jax.models.vision.supernet import mixed_cnn, slim_cnn
from kd_jax.models.vision.supernet_costs import space_of
from kd_jax.schemes import architecture_search, supernet
from kd_jax.schemes.subnetworks import front, search
from kd_jax.types import Parts, Role

TERMS = {"ce": toy.ce(), "kd": toy.kd()}
KINDS = ("conv3", "conv1", "skip")
MODELS = {
    "slim": (slim_cnn(3, widths=((2, 3), (2, 4))), slim_cnn(3, widths=(2, 2))),
    "mixed": (mixed_cnn(3, widths=(2, 4), kinds=KINDS), mixed_cnn(3, widths=(2, 3), kinds=(("conv3",),))),
}


def pictures(source):
    return dataclasses.replace(source, image_shape=(2, 2, 1), images=source.images.reshape(-1, 2, 2, 1))


SOURCES = {
    "train": pictures(toy.source(48)),
    **{split: pictures(toy.source(16, split)) for split in ("validation", "test")},
}
BATCH = toy.batch() | {"image": toy.batch()["image"].reshape(-1, 2, 2, 1)}


def parts(kind, **changes):
    big, plain = (LinenModel(model) for model in MODELS[kind])
    roles = toy.roles() | {"student": Role(plain, group="student"), "supernet": Role(big, group="supernet")}
    fields = dict(
        roles=roles,
        terms=TERMS,
        steps=4,
        make_tx=lambda steps, group="student": toy.sgd(),
        prepare=lambda batch, key, train: dict(batch),
        sources=SOURCES,
        task=toy.TASK,
    )
    return Parts(**{**fields, **changes})


@pytest.fixture(scope="module")
def differentiable():
    scheme = architecture_search.build(parts("mixed"), penalty=0.5, budget=60.0)
    return scheme, *checks.steps(scheme, BATCH, count=6)


@pytest.fixture(scope="module")
def sandwich():
    scheme = supernet.build(parts("slim"), search_steps=4, randoms=1)
    return scheme, *checks.steps(scheme, BATCH, count=6)


def test_weights_and_alpha_learn_by_turns_on_halves_of_the_batch(differentiable):
    scheme, first, last, history = differentiable
    assert checks.moved(first, last) == {"alpha", "supernet"}
    assert history[-1]["supernet/loss"] < history[0]["supernet/loss"]
    assert history[-1]["alpha/loss"] < history[0]["alpha/loss"]
    halves = scheme.prepare(BATCH, checks.KEY, True)
    indices = [np.asarray(halves[half]["index"]).tolist() for half in architecture_search.HALVES]
    assert indices == [list(range(0, 16, 2)), list(range(1, 16, 2))]
    assert set(scheme.prepare(BATCH, checks.KEY, False)) == set(BATCH)
    for phase, half in zip(scheme.stages[0].phases, architecture_search.HALVES, strict=True):
        paths = [p for term in phase.terms.values() for p in (*term.inputs, *term.targets) if p.startswith("batch")]
        paths += [p for call in phase.forward for p in call.inputs if p.startswith("batch")]
        assert paths and all(p.startswith(f"batch.{half}.") for p in paths)
        assert {call.role for call in phase.forward} == {"alpha", "supernet", "teacher"}


def test_alpha_feels_teacher_and_cost(differentiable):
    scheme, first, _, _ = differentiable
    scheme, _ = bind(scheme, toy.shapes(BATCH))
    phase = scheme.stages[0].phases[0]

    @jax.jit
    def gradients(state):
        def values(alpha):
            batch = scheme.prepare(BATCH, checks.KEY, True)
            context, _ = forward(scheme, phase, state, alpha, batch, checks.KEY)
            terms = {name: phase.terms[name] for name in ("alpha_kd", "expected_cost")}
            return {name: term_value(name, term, context, term.kwargs)[0] for name, term in terms.items()}

        return jax.jacobian(values)(state.params["alpha"])

    grads = {name: np.asarray(value["alpha"]["alpha"][0]) for name, value in gradients(first).items()}
    assert np.abs(grads["alpha_kd"]).sum() > 0
    conv3, conv1, skip = grads["expected_cost"]
    assert conv3 > conv1 > skip  # a step down makes conv3 rarer and skip more frequent


def test_the_derived_architecture_keeps_the_budget():
    weights = np.array([[0.6, 0.3, 0.1], [0.5, 0.1, 0.4]])
    table = np.array([[0.0, -50.0, -80.0], [0.0, -50.0, -80.0]])
    derive = architecture_search.derive
    assert derive(weights, table, 200.0, 200.0).tolist() == [0, 0]
    assert derive(weights, table, 200.0, 150.0).tolist() == [0, 2]  # ln(.5/.4) / 80 is the smallest loss
    assert derive(weights, table, 200.0, 100.0).tolist() == [1, 2]
    assert derive(weights, table, 200.0, 40.0).tolist() == [2, 2]


def test_the_way_to_the_cheapest_network_passes_what_every_budget_gives():
    weights = np.asarray([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
    table = np.asarray([[8.0, 4.0, 0.0], [9.0, 3.0, 5.0]])
    way = architecture_search.path(weights, table, 1.0)
    np.testing.assert_array_equal(way[0], [0, 2])
    costs = 1.0 + table[np.arange(2), way].sum(1)
    assert (np.diff(costs) < 0).all() and costs[-1] == 4.0
    for budget in np.arange(4.0, 15.0):
        wanted = architecture_search.derive(weights, table, 1.0, budget)
        np.testing.assert_array_equal(way[np.argmax(costs <= budget)], wanted)


def test_sandwich_trains_the_largest_on_the_terms_and_the_others_on_it(sandwich):
    scheme, first, last, history = sandwich
    assert checks.moved(first, last) == {"supernet"}
    assert history[-1]["loss"] < history[0]["loss"]
    phase = scheme.stages[0].phases[0]
    inputs = {call.name or call.role: call.inputs[-1] for call in phase.forward if call.role == "supernet"}
    assert inputs == {"supernet": "extra.largest", "smallest": "extra.smallest", "random0": "extra.random"}
    assert phase.terms["random0"].targets == ("supernet.logits",)
    assert phase.terms["supernet_kd"].targets == ("teacher.logits",)
    np.testing.assert_array_equal(last.extra["largest"], [1, 1])


def test_one_device_is_eight(differentiable, sandwich):
    for scheme, _, last, _ in (differentiable, sandwich):
        checks.same_on_eight_devices(scheme, last, BATCH, count=6)


def test_search_knows_every_choice_and_the_best_reward():
    space = space_of(LinenModel(slim_cnn(3, widths=((1, 2, 3, 4),) * 3)), (4, 4, 1), "parameters")
    asked = []

    def score(choice):
        asked.append(choice)
        return 0.5 + sum(choice) / 20

    whole = search(space, score, 150.0, (0.0, -1.0), 64)
    assert set(asked) == set(itertools.product(range(4), repeat=3)) and len(asked) == 64
    over = whole["cost"] > 150
    np.testing.assert_allclose(whole["reward"][~over], whole["accuracy"][~over])
    np.testing.assert_allclose(whole["reward"][over], (whole["accuracy"] * 150 / whole["cost"])[over], rtol=1e-6)
    some = search(space, score, 150.0, (0.0, -1.0), 24)
    again = search(space, score, 150.0, (0.0, -1.0), 24)
    np.testing.assert_array_equal(some["choices"], again["choices"])
    assert len({tuple(c) for c in some["choices"].tolist()}) == 24
    assert some["reward"].max() == whole["reward"].max()  # evolution finds the best with 24 of 64
    best = front(whole["cost"], whole["accuracy"])
    assert (np.diff(whole["cost"][best]) > 0).all() and (np.diff(whole["accuracy"][best]) > 0).all()
    for i in range(64):
        assert any(whole["cost"][k] <= whole["cost"][i] and whole["accuracy"][k] >= whole["accuracy"][i] for k in best)


@pytest.mark.parametrize("variant", ["supernet", pytest.param("differentiable", marks=pytest.mark.slow)])
def test_the_winner_is_in_the_state_and_resume_is_exact(variant, tmp_path, monkeypatch):
    if variant == "supernet":
        scheme = supernet.build(parts("slim"), search_steps=4, randoms=1)
    else:
        scheme = architecture_search.build(parts("mixed"), search_steps=4, start="inherit")
    results = checks.resumes_exactly(scheme, tmp_path, monkeypatch, stop=5, sources=SOURCES)
    settings = checks.Settings(batch_size=16, seed=0, log_every=2, eval_every=4, eval_batch_size=16)
    state = checks.last_state(scheme, SOURCES, settings, tmp_path / "parts")
    if variant == "supernet":
        search = state.extra["search"]
        best = search["choices"][np.lexsort((search["cost"], -search["reward"]))[0]]
        np.testing.assert_array_equal(state.extra["choice"], best)
        assert search["choices"].shape == (4, 2) and (search["cost"] > 0).all()
        points = results["sections"][0]["lines"]["Pareto front"]
        assert points == sorted(points)
    else:
        np.testing.assert_array_equal(np.sort(state.extra["choice"], 1), [[0, 0, 1]])
        search = state.extra["search"]
        assert (np.diff(search["cost"]) <= 0).all() and state.extra["choice"].argmax(1) in search["choices"]
        rows = results["sections"][1]["rows"]
        assert [row[1] for row in rows] == sorted({row[1] for row in rows}) and len(rows) >= 1
    # The winner started from the supernet's parameters, which stay as the search left them, and moved away.
    one, other = (jax.tree.leaves(state.params[g][g]) for g in ("student", "supernet"))
    assert any((a != b).any() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("start", ["inherit", "scratch"])
def test_the_winner_starts_as_it_is_told(start):
    scheme = supernet.build(parts("slim"), search_steps=4, randoms=0, start=start)
    first, _, _ = checks.steps(scheme, BATCH, count=0, stage=1)
    pairs = zip(*(jax.tree.leaves(first.params[group][group]) for group in ("student", "supernet")), strict=True)
    assert all((a == b).all() for a, b in pairs) == (start == "inherit")
    assert [phase.group for phase in scheme.stages[1].phases] == ["student", "plain"]


def test_bad_options_are_refused():
    slim, mixed = parts("slim"), parts("mixed")
    alone = parts("slim", roles=toy.roles())
    blind = parts("slim", sources={**SOURCES, "validation": None})
    for build, made, options, message in (
        (supernet.build, alone, {}, "config.roles.supernet"),
        (supernet.build, blind, {}, "config.data.validation"),
        (supernet.build, mixed, {}, "SlimCNN; the supernet is a MixedCNN"),
        (supernet.build, slim, dict(cost="flop"), "Did you mean 'flops'"),
        (supernet.build, slim, dict(candidates=1), "candidates are 2 or more"),
        (supernet.build, slim, dict(search_steps=-1), "0 or more"),
        (supernet.build, slim, dict(start="fresh"), "one of \\('inherit', 'scratch'\\)"),
        (architecture_search.build, slim, {}, "MixedCNN; the supernet is a SlimCNN"),
        (architecture_search.build, mixed, dict(budget=10.0), "budget=10"),
        (architecture_search.build, mixed, dict(penalty=-1.0), "penalty is 0 or more"),
        (architecture_search.build, mixed, dict(start="fresh"), "one of \\('inherit', 'scratch'\\)"),
        (architecture_search.build, dataclasses.replace(alone, sources=SOURCES), {}, "config.roles.supernet"),
    ):
        with pytest.raises(ValueError, match=message):
            build(made, **options)


def test_config(tmp_path):
    results = checks.run_tiny("architecture_search", "supernet", tmp_path)
    front, trained = results["sections"][1:]
    assert [row[0] for row in trained["rows"]] == ["winner", "plain student", "supernet"]
    assert [row[-1] for row in front["rows"]].count("winner") == 1
    assert set(checks.config_module("architecture_search").get_config().optimizers) == {"alpha"}
