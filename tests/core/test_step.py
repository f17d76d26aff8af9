"""Offline distillation through the one step: gradients, frozen teacher, traced hyper-parameters, connectors, meshes."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from kd_jax.core.bind import bind, init_state
from kd_jax.core.step import make_train_step
from kd_jax.core.terms import hyper_of
from kd_jax.losses import feature, relation
from kd_jax.models import connectors
from kd_jax.schemes import offline
from kd_jax.system import parallel
from kd_jax.types import Role, Term

KEY = jax.random.key(0)
HINT = Term(
    feature.feature_hint_loss, ("student.features:hidden",), ("teacher.features:hidden",), connector=connectors.auto
)
RKD = Term(relation.relation_loss, ("student.features:norm",), ("teacher.features:norm",), 0.1)


def build(terms, batch, **net):
    scheme = offline.build(toy.parts(toy.roles(**net), terms))
    return bind(scheme, toy.shapes(batch))


def run(scheme, inputs, batch, steps, mesh, rules=None):
    with jax.set_mesh(mesh):
        abstract = jax.eval_shape(lambda k: init_state(scheme, inputs, k, {}), KEY)
        shardings = parallel.state_shardings(abstract, rules or {}, mesh)
        state = jax.jit(lambda k: init_state(scheme, inputs, k, {}), out_shardings=shardings)(KEY)
        batch = jax.device_put(batch, parallel.batch_sharding(mesh))
        step = jax.jit(make_train_step(scheme, scheme.stages[0]), donate_argnums=0)
        losses = []
        for _ in range(steps):
            state, metrics = step(state, batch, hyper_of(scheme.stages[0]), KEY)
            losses.append(float(metrics["loss"][0]))
    return state, losses


def test_distills_into_student_and_connector_only():
    batch = toy.batch()
    scheme, inputs = build({"ce": toy.ce(), "kd": toy.kd(), "hint": HINT}, batch)
    before = init_state(scheme, inputs, KEY, {})
    after, losses = run(scheme, inputs, batch, 10, toy.mesh())
    assert losses[-1] < 0.8 * losses[0]
    chex.assert_trees_all_equal(before.frozen, after.frozen)
    assert set(after.params["student"]) == {"student", "hint/connector"} and set(after.opt) == {"student"}
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before.params["student"], after.params["student"])
    assert moved["student"]["hidden"]["kernel"] and all(jax.tree.leaves(moved["hint/connector"]))
    assert (after.stats["student"]["batch_stats"]["norm"]["mean"] != 0).any()


def test_loss_is_the_weighted_sum_of_masked_means():
    batch = toy.batch() | {"labelled": jnp.arange(16) < 5}
    scheme, inputs = build({"ce": toy.ce(), "kd": toy.kd(0.25)}, batch)
    state = init_state(scheme, inputs, KEY, {})
    _, metrics = jax.jit(make_train_step(scheme, scheme.stages[0]))(state, batch, hyper_of(scheme.stages[0]), KEY)
    assert metrics["ce"][1] == 5 and metrics["kd"][1] == 16 and metrics["accuracy"][1] == 5
    expected = metrics["ce"][0] / 5 + 0.25 * metrics["kd"][0] / 16
    np.testing.assert_allclose(metrics["loss"][0], expected, rtol=1e-6)


def test_hyper_parameters_are_traced():
    batch = toy.batch()
    scheme, inputs = build({"ce": toy.ce(), "kd": toy.kd()}, batch)
    state = init_state(scheme, inputs, KEY, {})
    step = jax.jit(chex.assert_max_traces(make_train_step(scheme, scheme.stages[0]), n=1))
    hyper = hyper_of(scheme.stages[0])
    losses = []
    for temperature, weight in ((2.0, 1.0), (8.0, 1.0), (2.0, 0.0)):
        kwargs = {"temperature": jnp.float32(temperature)}
        hyper["student"]["terms"]["kd"] = {"kwargs": kwargs, "weight": jnp.float32(weight)}
        losses.append(float(step(state, batch, hyper, KEY)[1]["loss"][0]))
    assert len(set(losses)) == 3


def test_schedules_follow_the_step():
    batch = toy.batch()
    warm = dataclasses.replace(toy.kd(), weight=lambda step: jnp.minimum(step / 4.0, 1.0))
    scheme, inputs = build({"kd": warm}, batch)
    step = jax.jit(make_train_step(scheme, scheme.stages[0]))
    state = init_state(scheme, inputs, KEY, {})
    _, metrics = step(state, batch, hyper_of(scheme.stages[0]), KEY)
    assert metrics["loss"][0] == 0 and metrics["kd"][0] > 0
    _, metrics = step(state.replace(step=jnp.int32(2)), batch, hyper_of(scheme.stages[0]), KEY)
    np.testing.assert_allclose(metrics["loss"][0], 0.5 * metrics["kd"][0] / 16, rtol=1e-6)


MODEL_RULES = {
    "student": (("hidden/kernel", (None, "model")), ("head/kernel", "fsdp")),
    "teacher": (("kernel", "fsdp"),),
}


def test_every_mesh_computes_the_same():
    batch = toy.batch()
    scheme, inputs = build({"ce": toy.ce(), "kd": toy.kd(), "hint": HINT, "rkd": RKD}, batch, width=8)
    one, losses = run(scheme, inputs, batch, 5, toy.mesh())
    for sizes in ((8,), (4, 2), (2, 2, 2)):
        many, others = run(scheme, inputs, batch, 5, toy.mesh(*sizes), MODEL_RULES)
        np.testing.assert_allclose(losses, others, rtol=1e-5)
        chex.assert_trees_all_close(jax.device_get(one.params), jax.device_get(many.params), rtol=1e-5, atol=1e-5)
    kernel = many.params["student"]["student"]["hidden"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (4, 4)
    momentum = many.opt["student"][0].trace["student"]["hidden"]["kernel"]
    assert momentum.sharding.is_equivalent_to(kernel.sharding, 2)


def test_relation_sees_the_global_batch():
    # Two examples a device: a relation loss on each device's own rows would be identically 0 there.
    batch = toy.batch()
    scheme, inputs = build({"rkd": RKD}, batch)
    _, losses = run(scheme, inputs, batch, 1, toy.mesh(8))
    assert losses[0] > 1e-3


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"kd": dataclasses.replace(toy.kd(), targets=("teacher.features:hiden",))}, "hidden"),
        ({"kd": dataclasses.replace(toy.kd(), targets=("techer.logits",))}, "'teacher'"),
        ({"hint": dataclasses.replace(HINT, connector=None)}, r"hint.*\(16, 4\).*\(16, 8\)"),
        ({"ce": toy.ce("batch.mask")}, "batch.mask"),
    ],
)
def test_wrong_terms_are_named_before_anything_runs(terms, message):
    with pytest.raises(ValueError, match=message):
        build({"ok": toy.kd(), **terms}, toy.batch())


def test_class_counts_that_differ_are_an_error():
    roles = toy.roles() | {"teacher": Role(toy.net(classes=5))}
    with pytest.raises(ValueError, match=r"kd.*\(16, 3\).*\(16, 5\)"):
        bind(offline.build(toy.parts(roles, {"kd": toy.kd()})), toy.shapes(toy.batch()))


def test_dropout_is_a_function_of_the_step():
    batch = toy.batch()
    scheme, inputs = build({"ce": toy.ce()}, batch, dropout=0.5)
    state = init_state(scheme, inputs, KEY, {})
    step = jax.jit(make_train_step(scheme, scheme.stages[0]))

    def loss(at, key=KEY):
        return float(step(state.replace(step=jnp.int32(at)), batch, hyper_of(scheme.stages[0]), key)[1]["loss"][0])

    assert loss(3) == loss(3) != loss(4)
    assert loss(3) != loss(3, jax.random.key(1))


def test_a_stage_may_replace_what_the_batch_holds_by_what_the_state_makes_of_it():
    batch = toy.batch()
    scheme, inputs = build({"ce": toy.ce()}, batch)
    state, stage = init_state(scheme, inputs, KEY, {}), scheme.stages[0]

    def shifted(state, batch, key):
        del key
        return {"label": (batch["label"] + state.step) % toy.CLASSES}

    def loss(pre_update, at):
        step = make_train_step(scheme, dataclasses.replace(stage, pre_update=pre_update))
        return float(step(state.replace(step=jnp.int32(at)), batch, hyper_of(stage), KEY)[1]["loss"][0])

    assert loss(shifted, 0) == loss(None, 0) != loss(shifted, 1)
    with pytest.raises(ValueError, match=r"'labels'.*'label'"):
        loss(lambda state, batch, key: {"labels": batch["label"]}, 0)
    with pytest.raises(ValueError, match=r"'label': int32\(16,\), not float32\(16,\)"):
        loss(lambda state, batch, key: {"label": batch["label"] * 1.0}, 0)
