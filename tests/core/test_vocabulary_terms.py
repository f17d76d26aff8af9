"""Fused losses as terms of the one step: a toy language model with a nested head and one with a tied embedding."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from kd_jax.core.bind import bind, init_state
from kd_jax.core.step import make_train_step
from kd_jax.core.terms import hyper_of
from kd_jax.losses import response, task
from kd_jax.losses import vocabulary as voc
from kd_jax.models.adapters import LinenModel
from kd_jax.system import parallel
from kd_jax.types import Call, Phase, Role, Scheme, Stage, Term

CLASSES = 54
KEY = jax.random.key(0)


class Decoder(nn.Module):
    """Embed -> Dense -> (final) -> logits; taps "final" and "model/head"."""

    width: int
    tied: bool = False

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(CLASSES, self.width, name="embed")
        x = nn.LayerNorm(name="final")(jnp.tanh(nn.Dense(self.width, name="mixer")(embed(tokens))))
        return embed.attend(x) if self.tied else Head(name="model")(x)


class Head(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(CLASSES, name="head")(x)


INPUTS = ("student.features:final", "params.student.embed")
TARGETS = ("teacher.features:final", "params.teacher.model.head")
PLAIN = {
    "jsd": Term(response.jsd_loss, ("student.logits",), ("teacher.logits",), 0.7, {"beta": 0.3}, where="batch.real"),
    "ce": Term(task.cross_entropy_loss, ("student.logits",), ("batch.next",), 0.3, where="batch.real"),
}
FUSED = {
    "jsd": Term(voc.fused_jsd_loss, INPUTS, TARGETS, 0.7, {"beta": 0.3, "chunk": 10}, where="batch.real"),
    "ce": Term(voc.fused_cross_entropy_loss, INPUTS, ("batch.next",), 0.3, {"chunk": 10}, where="batch.real"),
}
MATRICES = {  # the same leaves, named one by one
    "jsd": Term(
        voc.fused_jsd_loss,
        ("student.features:final", "params.student.embed.embedding"),
        ("teacher.features:final", "params.teacher.model.head.kernel"),
        0.7,
        {"beta": 0.3, "student_transposed": True},
        {"teacher_bias": "params.teacher.model.head.bias"},
        where="batch.real",
    ),
    "ce": FUSED["ce"],
}


def batch():
    tokens = jax.random.randint(KEY, (8, 7), 0, CLASSES)
    real = jnp.arange(7)[None] < jnp.array([7, 3, 5, 7, 1, 2, 6, 7])[:, None]
    return {"tokens": tokens[:, :-1], "next": tokens[:, 1:], "real": real[:, 1:]}


def step_with(terms, mesh=None, rules=None):
    """(parameters after one step of plain descent, metrics, the program)"""
    inputs = ("batch.tokens",)
    roles = {
        "student": Role(LinenModel(Decoder(8, tied=True)), inputs, group="student"),
        "teacher": Role(LinenModel(Decoder(12)), inputs),
    }
    calls = (Call("student", inputs), Call("teacher", inputs, train=False))
    stage = Stage(1, (Phase("student", calls, terms, optax.sgd(1.0)),))
    scheme, shapes = bind(Scheme(roles, (stage,)), toy.shapes(batch()))
    mesh = mesh or toy.mesh()
    with jax.set_mesh(mesh):
        shardings = parallel.state_shardings(
            jax.eval_shape(lambda k: init_state(scheme, shapes, k, {}), KEY), rules or {}, mesh
        )
        state = jax.jit(lambda k: init_state(scheme, shapes, k, {}), out_shardings=shardings)(KEY)
        data = jax.device_put(batch(), parallel.batch_sharding(mesh))
        step = jax.jit(make_train_step(scheme, scheme.stages[0]))
        program = step.lower(state, data, hyper_of(scheme.stages[0]), KEY).compile()
        after, metrics = program(state, data, hyper_of(scheme.stages[0]), KEY)
    moved = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), after.params, state.params)
    return moved, jax.device_get(metrics), program


@pytest.mark.parametrize("terms", [FUSED, MATRICES], ids=["layers", "matrices"])
def test_a_step_equals_that_of_the_plain_losses(terms):
    expected, metrics, plain = step_with(PLAIN)
    gradients, others, program = step_with(terms)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(gradients), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.max(np.abs(b)), err_msg=str(path))
    assert np.any(gradients["student"]["student"]["embed"]["embedding"])
    for name in metrics:
        np.testing.assert_allclose(others[name], metrics[name], rtol=1e-5)
    if terms is FUSED:  # the model's own logits, which no term reads, are not computed either
        assert f"8,6,{CLASSES}" in plain.as_text() and f"8,6,{CLASSES}" not in program.as_text()


def test_a_step_on_a_mesh_equals_that_on_one_device():
    """Tokens over data and fsdp, the classes of a tied embedding and of the teacher's head over model."""
    expected, metrics, _ = step_with(PLAIN)
    rules = {
        "student": (("embedding", ("model", "fsdp")),),
        "teacher": (("head/kernel", (None, "model")), ("head/bias", ("model",))),
    }
    terms = {
        name: dataclasses.replace(term, kwargs={**term.kwargs, "vocabulary_axis": "model"})
        for name, term in FUSED.items()
    }
    gradients, others, _ = step_with(terms, toy.mesh(2, 2, 2), rules)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * np.max(np.abs(b))), gradients, expected)
    np.testing.assert_allclose(others["jsd"], metrics["jsd"], rtol=1e-5)
