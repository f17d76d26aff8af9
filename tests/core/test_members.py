"""Many runs as one program: every member is the run of its own, whatever the mesh and the way it is mapped."""

import dataclasses
import json

import chex
import jax
import numpy as np
import pytest
import toy

from kd_jax.core.many import Members, obstacle, stack
from kd_jax.core.step import answered, make_prepared_step, make_train_step
from kd_jax.core.terms import hyper_of
from kd_jax.schemes import offline
from kd_jax.system.checkpoint import load_tree
from kd_jax.system.signals import Stopped
from kd_jax.train import loop
from kd_jax.train.finish import exported
from kd_jax.types import Role

SOURCES = {"train": toy.source(), "validation": toy.source(21, "validation"), "test": toy.source(30, "test")}
SETTINGS = loop.Settings(batch_size=16, seed=0, log_every=3, eval_every=4, eval_batch_size=24, view_seed=5)
POINTS = ((0, 2.0, 1.0, 1.0), (1, 2.0, 1.0, 1.0), (1, 8.0, 0.3, 0.5), (7, 1.0, 2.0, 2.0))  # seed, T, weight, rate
TEACHER = toy.net(width=8)
LOADED = jax.jit(TEACHER.init)(jax.random.key(99), np.zeros((1, toy.FEATURES), np.float32))


def scheme(temperature: float = 2.0, weight: float = 1.0, **net):
    roles = {**toy.roles(dropout=0.2, **net), "teacher": Role(TEACHER, initial=LOADED)}
    kd = dataclasses.replace(toy.kd(weight), kwargs={"temperature": temperature})
    return offline.build(toy.parts(roles, {"ce": toy.ce(), "kd": kd}, 10))


def hypers(points=POINTS):
    hypers = []
    for _, temperature, weight, rate in points:
        hyper = hyper_of(scheme(temperature, weight).stages[0])
        hyper["student"]["learning_rate_scale"] = np.float32(rate)
        hypers.append((hyper,))
    return stack(hypers)


def many(how: str, points=POINTS) -> Members:
    return Members(tuple(p[0] for p in points), hypers(points), how)


def network(directory):
    shapes = jax.eval_shape(
        scheme().roles["student"].model.init, jax.random.key(0), np.zeros((1, toy.FEATURES), np.float32)
    )
    return load_tree(directory / "student", exported(*shapes))


def alone(point, directory, monkeypatch):
    """The run of one point, by itself."""
    seed, temperature, weight, rate = point
    monkeypatch.setattr(toy, "sgd", lambda *_: __import__("optax").sgd(0.1 * rate, momentum=0.9))
    settings = dataclasses.replace(SETTINGS, seed=seed)
    return loop.fit(scheme(temperature, weight), SOURCES, settings, directory, toy.mesh(), "alone")


@pytest.fixture(scope="module")
def singles(tmp_path_factory):
    directory, patch = tmp_path_factory.mktemp("singles"), pytest.MonkeyPatch()
    results = [alone(point, directory / str(i), patch) for i, point in enumerate(POINTS)]
    patch.undo()
    return directory, results


@pytest.mark.parametrize(
    ("how", "sizes", "repeat"),
    [
        ("vmap", (), 1),
        ("unroll", (2,), 1),
        ("map", (8,), 2),
        ("vmap", (8,), 1),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("map", (), 1), ("vmap", (2, 2), 1))),
    ],
)
def test_every_member_is_the_run_of_its_own(tmp_path, singles, how, sizes, repeat):
    # 4 members on 2 or 4 devices and 8 on 8: whole ones on each. Of 4 on 8 devices the batch is split instead.
    members = many(how, POINTS * repeat)
    results = loop.fit(scheme(), SOURCES, SETTINGS, tmp_path, toy.mesh(*sizes), "many", members)
    assert bool(members.split_ways(toy.mesh(*sizes))) == (sizes not in ((), (8,)) or repeat == 2)
    assert len(results["members"]) == len(POINTS) * repeat
    for i, single in enumerate(singles[1] * repeat):
        for which in ("last", "best"):
            member = results["members"][i][which]
            assert member["step"] == single[which]["step"]
            for split in ("validation", "test"):
                chex.assert_trees_all_close(member[split]["student"], single[which][split]["student"], rtol=2e-4)
            theirs = singles[0] / str(i % len(POINTS)) / "export" / which
            ours = tmp_path / "export" / str(i) / which
            chex.assert_trees_all_close(network(ours), network(theirs), rtol=1e-4, atol=1e-5)
    steps = [(r["best"]["step"]) for r in singles[1]]
    assert len(set(steps)) > 1, "the case where best steps differ is tested"
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    train = [line["loss"] for line in lines if line["kind"] == "train"]
    assert len(train[-1]) == len(POINTS) * repeat and len(set(train[-1])) >= len(POINTS)


def test_several_steps_a_dispatch_end_in_the_same_bytes(tmp_path):
    for size in (1, 2):
        settings = dataclasses.replace(SETTINGS, steps_per_dispatch=size)
        loop.fit(scheme(), SOURCES, settings, tmp_path / str(size), toy.mesh(2), "many", many("vmap"))
    one, two = tmp_path / "1", tmp_path / "2"
    assert (one / "metrics.jsonl").read_bytes() == (two / "metrics.jsonl").read_bytes()
    for i in range(len(POINTS)):
        chex.assert_trees_all_equal(*(network(d / "export" / str(i) / "last") for d in (one, two)))


def test_frozen_networks_answer_once_for_all_members():
    calls = []

    class Counted:
        init = TEACHER.init

        def apply(self, *args, **kwargs):
            calls.append(args[2].shape)
            return TEACHER.apply(*args, **kwargs)

    plain = scheme()
    counted = dataclasses.replace(plain, roles={**plain.roles, "teacher": Role(Counted(), initial=LOADED)})
    for how in ("vmap", "map", "unroll"):
        with jax.set_mesh(toy.mesh()):
            checkpoints = type("", (), {"restore_newest": lambda *_: None})()
            run = loop.begin(counted, SOURCES, SETTINGS, toy.mesh(), checkpoints, many(how))
            calls.clear()
            program = jax.jit(run.members.train_step(run.scheme, run.scheme.stages[0], run.mesh))
            program.trace(run.state, toy.batch(), run.hyper(0), run.keys)
        assert calls == [(16, toy.FEATURES)]


def test_a_step_from_answers_is_the_step():
    batch, keys = toy.batch(), jax.random.key(3)
    from kd_jax.core.bind import bind, init_state, loaded_variables

    bound, inputs = bind(scheme(), toy.shapes(batch))
    state = init_state(bound, inputs, keys, loaded_variables(bound))
    stage = bound.stages[0]
    step, after = (jax.jit(make(bound, stage)) for make in (make_train_step, make_prepared_step))
    prepared, answers = jax.jit(lambda s, b: answered(bound, stage, s, b, keys))(state, batch)
    assert [{*said} for said in answers] == [{"teacher"}]
    hyper = hyper_of(stage)
    expected = step(state, batch, hyper, keys)
    chex.assert_trees_all_close(expected, after(state, prepared, hyper, keys, answers), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("how", ["vmap", "map"])
def test_stopped_and_resumed(tmp_path, monkeypatch, how):
    loop.fit(scheme(), SOURCES, SETTINGS, tmp_path / "whole", toy.mesh(2), "many", many(how))
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(loop.Signals, "stop_at", lambda self, step: step == 5)
        loop.fit(scheme(), SOURCES, SETTINGS, tmp_path / "parts", toy.mesh(2), "many", many(how))
    resumed = loop.fit(scheme(), SOURCES, SETTINGS, tmp_path / "parts", toy.mesh(2), "many", many(how))
    assert resumed["members"] == json.loads((tmp_path / "whole" / "done.json").read_text())["members"]
    assert (tmp_path / "parts" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


def test_a_member_that_diverges_leaves_the_others_alone(tmp_path):
    points = (POINTS[0], (0, 2.0, 1.0, float("inf")))
    results = loop.fit(scheme(), SOURCES, SETTINGS, tmp_path, toy.mesh(), "many", many("vmap", points))
    good, bad = (r["last"]["test"]["student"] for r in results["members"])
    assert np.isfinite(good["nll"]) and not np.isfinite(bad["nll"])


def test_what_cannot_share_a_program_is_told():
    plain = scheme()
    stage = dataclasses.replace(plain.stages[0], on_enter=lambda state: state)
    assert obstacle(plain, {"teacher": (("kernel", "fsdp"),)}) == ""
    assert "in Python" in obstacle(dataclasses.replace(plain, stages=(stage,)), {})
    assert "student is sharded" in obstacle(plain, {"student": (("kernel", "fsdp"),)})
    with pytest.raises(ValueError, match="vmap, map, unroll, not 'vmpa'.*'vmap'"):
        many("vmpa")
    with pytest.raises(ValueError, match="3 seeds"):
        Members((0, 1, 2), hypers())
