"""Gradient accumulation: n microbatches make the update of the whole batch, whatever the masks leave of each."""

import dataclasses

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from kd_jax.core.bind import bind, init_state
from kd_jax.core.step import make_train_step
from kd_jax.core.terms import hyper_of
from kd_jax.losses import relation, representation, response
from kd_jax.models.adapters import LinenModel
from kd_jax.schemes import offline
from kd_jax.system import parallel
from kd_jax.types import Role, Term

KEY = jax.random.key(0)


class Plain(nn.Module):
    """No BatchNorm, no dropout: rows do not see one another."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(toy.CLASSES, name="head")(nn.tanh(nn.Dense(6, name="hidden")(x)))


def build(accumulate=1, terms=None, post_update=None, batch=None):
    roles = {"student": Role(LinenModel(Plain()), group="student"), "teacher": Role(toy.net(width=8))}
    sure = dataclasses.replace(toy.kd(0.5), where="batch.sure")
    scheme = offline.build(toy.parts(roles, terms or {"ce": toy.ce(), "kd": toy.kd(2.0), "sure": sure}))
    if post_update:
        stage = dataclasses.replace(scheme.stages[0], post_update=post_update)
        scheme = dataclasses.replace(scheme, stages=(stage,), extra={"seen": jnp.zeros((32, toy.CLASSES))})
    return bind(scheme, toy.shapes(batch), accumulate)


def uneven(rows=32):
    """Labelled rows first, as the loop's batches have them, and weights that leave some microbatches nothing."""
    weights = jnp.where(jnp.arange(rows) % 4 == 1, jnp.linspace(0.1, 2.0, rows), 0.0)
    return toy.batch(rows) | {"labelled": jnp.arange(rows) < 5, "sure": weights}


def run(accumulate, mesh, batch, **options):
    scheme, inputs = build(accumulate, batch=batch, **options)
    stage = scheme.stages[0]
    with jax.set_mesh(mesh):
        state = jax.jit(lambda k: init_state(scheme, inputs, k, {}), out_shardings=parallel.replicated(mesh))(KEY)
        batch = jax.device_put(batch, parallel.batch_sharding(mesh))
        step = jax.jit(make_train_step(scheme, stage, accumulate), donate_argnums=0)
        for _ in range(3):
            state, metrics = step(state, batch, hyper_of(stage), KEY)
    return jax.device_get((state, metrics))


@pytest.fixture(scope="module")
def whole():
    return run(1, toy.mesh(), uneven())


@pytest.mark.parametrize(("parts", "sizes"), [(2, ()), (4, ()), (4, (8,)), (2, (4, 2))])
def test_equals_the_large_batch(whole, parts, sizes):
    state, metrics = run(parts, toy.mesh(*sizes), uneven())
    chex.assert_trees_all_close(state.params, whole[0].params, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(metrics, whole[1], rtol=1e-5, atol=1e-6)
    assert metrics["ce"][1] == 5 and metrics["kd"][1] == 32 and metrics["accuracy"][1] == 5


def test_half_the_batch_is_another_one(whole):
    half, _ = run(1, toy.mesh(), {k: v[:16] for k, v in uneven().items()})
    differs = jax.tree.map(lambda a, b: not np.allclose(a, b, atol=1e-4), half.params, whole[0].params)
    assert any(jax.tree.leaves(differs))


def test_the_mean_of_the_microbatches_would_be_another_update():
    """Four labels are in microbatch 0 and none in the others: a mean of means would count each as a quarter."""
    batch = uneven() | {"labelled": jnp.arange(32) % 4 == 0}
    (whole, _), (state, metrics) = (run(n, toy.mesh(), batch, terms={"ce": toy.ce()}) for n in (1, 4))
    chex.assert_trees_all_close(state.params, whole.params, rtol=1e-5, atol=1e-6)
    assert metrics["ce"][1] == 8


def test_the_hook_after_the_step_sees_the_rows_in_their_order():
    def remember(state, context):
        logits = state.extra["seen"].at[context["batch"]["index"]].set(context["student"].logits)
        return state.replace(extra={**state.extra, "seen": logits})

    batch = uneven()
    (whole, _), (state, _) = (run(n, toy.mesh(), batch, post_update=remember) for n in (1, 4))
    np.testing.assert_allclose(state.extra["seen"], whole.extra["seen"], rtol=1e-5, atol=1e-6)


RELATED = {
    "rkd": Term(relation.relation_loss, ("student.features:hidden",), ("teacher.features:hidden",)),
    "nce": Term(representation.info_nce_loss, ("student.logits",), ("teacher.logits",)),
    "dist": Term(response.dist_loss, ("student.logits",), ("teacher.logits",)),
}


@pytest.mark.parametrize("name", RELATED)
def test_terms_that_relate_examples_are_refused(name):
    terms = {"ce": toy.ce(), "kd": toy.kd(), name: RELATED[name]}
    build(1, terms, batch=uneven())
    with pytest.raises(ValueError, match=rf"\['student/{name}'\] relate"):
        build(2, terms, batch=uneven())


def test_batch_norm_sees_microbatches_and_its_averages_move_once_for_each():
    batch = toy.batch(32)
    scheme, inputs = bind(offline.build(toy.parts(toy.roles(), {"ce": toy.ce()})), toy.shapes(batch))
    state = init_state(scheme, inputs, KEY, {})
    hidden = batch["image"] @ state.params["student"]["student"]["hidden"]["kernel"]
    step = jax.jit(make_train_step(scheme, scheme.stages[0], 2))
    after, _ = step(state, batch, hyper_of(scheme.stages[0]), KEY)
    expected = 0.9 * (0.1 * hidden[0::2].mean(0)) + 0.1 * hidden[1::2].mean(0)
    np.testing.assert_allclose(after.stats["student"]["batch_stats"]["norm"]["mean"], expected, rtol=1e-5, atol=1e-6)
