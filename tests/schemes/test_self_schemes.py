"""Generations, progressive targets and the average teacher on toy data."""

import dataclasses
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from scheme_checks import config_module, moved, resumes_exactly, same_on_eight_devices, steps

from kd_jax.losses import response, self_distillation
from kd_jax.schemes import average_teacher, generations, progressive
from kd_jax.train.jobs import make_model, plan
from kd_jax.types import Role, Term


def parts(terms):
    roles = {"student": Role(toy.net(), group="student")}
    made = toy.parts(roles, terms, 4, train=toy.source(), validation=None, test=toy.source(16, "test"))
    return dataclasses.replace(made, make_tx=lambda n, group="": optax.sgd(optax.linear_schedule(0.2, 0.0, 2 * n)))


def kd(teacher, weight=1.0):
    return Term(response.kd_loss, ("student.logits",), (f"{teacher}.logits",), weight, {"temperature": 1.0})


def born_again(weight=1.0):
    return generations.build(parts({"ce": toy.ce(), "kd": kd("previous", weight)}), generations=3)


def averaged(**options):
    agree = Term(self_distillation.consistency_loss, ("student.logits",), ("average.logits",), 5.0)
    return average_teacher.build(parts({"ce": toy.ce(), "agree": agree}), **options)


def refined():
    options = {"predictions": "extra.predictions", "index": "batch.index"}
    term = Term(
        self_distillation.progressive_loss,
        ("student.logits",),
        ("batch.label",),
        1.0,
        {"alpha": 0.8},
        options,
        "batch.labelled",
    )
    return progressive.build(parts({"refined": term}))


def test_a_generation_learns_from_the_one_before():
    scheme = born_again()
    assert [set(stage.phases[0].terms) for stage in scheme.stages] == [{"ce"}, {"ce", "kd"}, {"ce", "kd"}]
    assert scheme.stages[1].phases is scheme.stages[2].phases  # compiled once
    assert scheme.evaluate == ("student", "gen0", "gen1", "gen0+gen1+student")
    first, last, history = steps(scheme, stage=1)
    assert moved(first, last) == {"student"} and history[-1]["loss"] < history[0]["loss"] and history[0]["kd"] > 0
    same_on_eight_devices(scheme, last, stage=1)


def test_entering_a_generation_keeps_the_finished_one():
    scheme = born_again()
    before, trained, _ = steps(scheme)
    after = jax.device_get(scheme.stages[1].on_enter(trained))
    finished, waiting = trained.params["student"]["student"], before.params["generations"]["gen0"]
    chex.assert_trees_all_equal(after.params["generations"]["gen0"], after.params["previous"]["previous"], finished)
    chex.assert_trees_all_equal(after.stats["gen0"], after.stats["previous"], trained.stats["student"])
    chex.assert_trees_all_equal(after.params["student"]["student"], waiting)
    chex.assert_trees_all_equal(after.stats["student"], before.stats["gen0"])
    assert jax.tree.leaves(trained.opt) == [3] and jax.tree.leaves(after.opt) == [0]  # the learning rate starts anew
    kernels = [before.params[g][r]["head"]["kernel"] for g, r in (("student", "student"), ("generations", "gen0"))]
    assert not np.array_equal(*kernels)  # every generation starts elsewhere


def test_schedules_start_anew_in_every_generation():
    scheme = born_again(weight=lambda step: step / 4)
    weight = scheme.stages[2].phases[0].terms["kd"].weight
    assert [float(weight(jnp.int32(s))) for s in (0, 3, 4, 10)] == [0.0, 0.75, 0.0, 0.5]


def test_generations_resume_at_a_boundary(tmp_path, monkeypatch):
    scheme = born_again()
    results = resumes_exactly(dataclasses.replace(scheme, stages=scheme.stages[:2]), tmp_path, monkeypatch, stop=4)
    assert set(results["last"]["test"]) == set(scheme.evaluate)


@pytest.mark.parametrize(
    ("terms", "count", "message"),
    [
        ({"ce": toy.ce()}, 3, "with and without 'previous.logits'"),
        ({"kd": kd("previous")}, 3, "with and without 'previous.logits'"),
        ({"ce": toy.ce(), "kd": kd("previous")}, 1, "at least 2"),
    ],
)
def test_generations_that_cannot_be(terms, count, message):
    with pytest.raises(ValueError, match=message):
        generations.build(parts(terms), generations=count)


def test_the_average_follows_the_student():
    scheme = averaged(decay=0.6)
    first, last, history = steps(scheme, count=4)
    assert moved(first, last) == {"student", "average"} and history[-1]["loss"] < history[0]["loss"]
    assert set(last.opt) == {"student"}
    chex.assert_trees_all_equal(first.params["average"]["average"], first.params["student"]["student"])
    same_on_eight_devices(scheme, last, count=4)
    for step, keep in ((0, 0.5), (1, 0.6), (9, 0.6)):  # at first the plain mean of all weights so far
        after = scheme.stages[0].post_update(last.replace(step=jnp.int32(step)), {})

        def mean(a, b, keep=keep):
            return keep * a + (1 - keep) * b

        params = jax.tree.map(mean, last.params["average"]["average"], last.params["student"]["student"])
        chex.assert_trees_all_close(after.params["average"]["average"], params, rtol=1e-6)
        stats = jax.tree.map(mean, last.stats["average"], last.stats["student"])
        chex.assert_trees_all_close(after.stats["average"], stats, rtol=1e-6)


def test_counters_are_not_averaged():
    mixed = average_teacher.mixed({"a": jnp.zeros(2), "n": jnp.int32(1)}, {"a": jnp.ones(2), "n": jnp.int32(5)}, 0.75)
    np.testing.assert_array_equal(mixed["a"], 0.25)
    assert mixed["n"] == 5 and mixed["n"].dtype == jnp.int32


def test_the_average_teaches_without_labels_on_a_view_of_its_own():
    batch = toy.batch()
    batch |= {"label": batch["label"] * 0 - 1, "labelled": jnp.zeros(16, bool), "other_image": 0.5 * batch["image"]}
    scheme = averaged(inputs=("batch.other_image",))
    assert scheme.stages[0].phases[0].forward[1].inputs == ("batch.other_image",)
    first, last, history = steps(scheme, batch, count=2)
    assert history[0]["ce"] == 0 < history[0]["agree"] and moved(first, last) == {"student", "average"}


def test_the_memory_resumes(tmp_path, monkeypatch):
    resumes_exactly(refined(), tmp_path, monkeypatch, stop=2)


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_a_decay_that_is_none(decay):
    with pytest.raises(ValueError, match=r"decay is in \[0, 1\)"):
        averaged(decay=decay)


@pytest.mark.parametrize(("module", "path"), [(average_teacher, "average.logits"), (progressive, "extra.predictions")])
def test_terms_must_use_what_the_scheme_makes(module, path):
    with pytest.raises(ValueError, match=f"No term reads '{path}'"):
        module.build(parts({"ce": toy.ce()}))


def test_a_name_that_the_scheme_needs():
    with pytest.raises(ValueError, match="made by the scheme"):
        made = parts({"kd": kd("average")})
        average_teacher.build(dataclasses.replace(made, roles={**made.roles, "average": Role(toy.net())}))


def test_answers_are_remembered_by_example():
    scheme = refined()
    batch = {**toy.batch(), "index": jnp.arange(16, dtype=jnp.int32) + 20}
    first, last, history = steps(scheme, batch, count=4)
    assert moved(first, last) == {"student"} and history[-1]["loss"] < history[0]["loss"]
    memory = last.extra["predictions"]
    assert memory.shape == (48, 3) and not memory[:20].any() and not memory[36:].any()
    np.testing.assert_allclose(memory[20:36].sum(-1), 1, rtol=1e-5)
    same_on_eight_devices(scheme, last, batch, count=4)


def test_of_two_answers_to_one_example_the_last_is_kept():
    rows = jnp.arange(8.0).reshape(4, 2)
    memory = progressive.written(jnp.full((5, 2), -1.0), jnp.array([3, 0, 3, 1]), rows)
    np.testing.assert_array_equal(memory, [[2, 3], [6, 7], [-1, -1], [4, 5], [-1, -1]])


def test_every_variant_of_the_config_can_be_planned():
    module = config_module("self_distillation")
    for variant in module.VARIANTS:
        config = module.get_config(f"{variant},tiny")
        source = dataclasses.replace(toy.source(), num_classes=10)
        sources = {"train": source, "validation": None, "test": source}
        names = ("student", "teacher") if config.teacher.model.name else ("student",)
        models = {name: make_model(config[name].model, source) for name in names}
        jobs = plan(config, Path("nowhere"), models, sources, dict.fromkeys(names[1:], sources))
        assert set(jobs) == {"baseline", *names}
    with pytest.raises(ValueError, match="mean_teacher"):
        module.get_config("mean_teachers")
