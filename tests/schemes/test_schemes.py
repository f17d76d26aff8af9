"""The types carry every scheme: tiny ones of each kind run through the same step, on one device and on a mesh.

These are sketches for the framework's sake; the schemes that users run live in kd_jax/schemes.
"""

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
from kd_jax.losses import response, task
from kd_jax.models.adapters import LinenModel
from kd_jax.system import parallel
from kd_jax.types import Call, Phase, Role, Scheme, Stage, Term

KEY = jax.random.key(0)


def kd(student: str, teacher: str) -> Term:
    return Term(response.kd_loss, (f"{student}.logits",), (f"{teacher}.logits",), 1.0, {"temperature": 2.0})


def ce(student: str) -> Term:
    return Term(task.cross_entropy_loss, (f"{student}.logits",), ("batch.label",))


def one_stage(roles, *phases, **kwargs):
    return Scheme(roles, (Stage(6, phases, kwargs.pop("post_update", None)),), task=toy.TASK, **kwargs)


def online():
    """Two peers in one group, each taught by labels and by the other one."""
    roles = {n: Role(toy.net(), group="peers") for n in ("a", "b")}
    terms = {"ce_a": ce("a"), "ce_b": ce("b"), "a_from_b": kd("a", "b"), "b_from_a": kd("b", "a")}
    return one_stage(roles, Phase("peers", (Call("a"), Call("b")), terms, toy.sgd()), evaluate=("a", "b")), {"peers"}


def ema_self():
    """A teacher that is the running average of the student; it has no optimizer, but it is saved."""
    roles = {
        "student": Role(toy.net(), group="student"),
        "teacher": Role(toy.net(), group="average", initial="student"),
    }

    def average(state, context):
        mixed = jax.tree.map(
            lambda t, s: 0.9 * t + 0.1 * s, state.params["average"]["teacher"], state.params["student"]["student"]
        )
        return state.replace(params={**state.params, "average": {"teacher": mixed}})

    forward = (Call("student"), Call("teacher", train=False))
    phase = Phase("student", forward, {"ce": ce("student"), "kd": kd("student", "teacher")}, toy.sgd())
    return one_stage(roles, phase, post_update=average), {"student", "average"}


def two_teachers():
    """Response from the mean of two frozen teachers."""
    roles = {"student": Role(toy.net(), group="student"), "t1": Role(toy.net(width=8)), "t2": Role(toy.net(width=6))}

    def mean_kd(student, first, second, *, temperature):
        return response.kd_loss(student, (first + second) / 2, temperature=temperature)

    terms = {"kd": Term(mean_kd, ("student.logits",), ("t1.logits", "t2.logits"), 1.0, {"temperature": 2.0})}
    forward = (Call("student"), Call("t1", train=False), Call("t2", train=False))
    return one_stage(roles, Phase("student", forward, terms, toy.sgd())), {"student"}


def adversarial():
    """A discriminator learns to tell logits of teacher and student apart, the student to fool it."""
    roles = toy.roles() | {"discriminator": Role(toy.net(classes=1), group="discriminator")}
    log_sigmoid = jax.nn.log_sigmoid

    def tell(fake, real):
        return -(log_sigmoid(real) + log_sigmoid(-fake))[:, 0]

    watch = (
        Call("student"),
        Call("teacher", train=False),
        Call("discriminator", ("student.logits",), name="on_student"),
        Call("discriminator", ("teacher.logits",), name="on_teacher"),
    )
    spot = Phase("discriminator", watch, {"tell": Term(tell, ("on_student.logits", "on_teacher.logits"))}, toy.sgd())
    fool = {
        "ce": ce("student"),
        "fool": Term(lambda fake: -log_sigmoid(fake)[:, 0], ("on_student.logits",), weight=0.1),
    }
    return one_stage(roles, spot, Phase("student", watch[:3], fool, toy.sgd())), {"student", "discriminator"}


class Generator(nn.Module):
    """Draws its own noise, as dropout does; the batch tells it how many examples are wanted."""

    @nn.compact
    def __call__(self, like, train: bool):
        noise = jax.random.normal(self.make_rng("params"), (like.shape[0], 5))
        return nn.Dense(toy.FEATURES)(nn.relu(nn.Dense(8)(noise)))


def data_free():
    """A generator seeks inputs on which student and teacher differ: there the teacher is an input, not a target."""
    roles = toy.roles() | {"generator": Role(LinenModel(Generator()), group="generator")}
    forward = (
        Call("generator"),
        Call("student", ("generator.logits",)),
        Call("teacher", ("generator.logits",), train=False),
    )

    def agreement(student, teacher):
        return -jnp.abs(student - teacher).mean(-1)

    seek = Phase("generator", forward, {"agree": Term(agreement, ("student.logits", "teacher.logits"))}, toy.sgd())
    learn = Phase("student", forward, {"kd": kd("student", "teacher")}, toy.sgd())
    return one_stage(roles, seek, learn), {"student", "generator"}


def train(scheme, mesh):
    batch = toy.batch()
    scheme, inputs = bind(scheme, toy.shapes(batch))
    with jax.set_mesh(mesh):
        state = init_state(scheme, inputs, KEY, {})
        shardings = parallel.state_shardings(state, {}, mesh)
        first, state = jax.device_get(state), jax.device_put(state, shardings)
        batch = jax.device_put(batch, parallel.batch_sharding(mesh))
        step = jax.jit(make_train_step(scheme, scheme.stages[0]))
        history = []
        for _ in range(scheme.stages[0].steps):
            state, metrics = step(state, batch, hyper_of(scheme.stages[0]), KEY)
            history.append({k: float(total / count) for k, (total, count) in metrics.items()})
    return first, jax.device_get(state), history


@pytest.mark.parametrize("make", [online, ema_self, two_teachers, adversarial, data_free])
def test_scheme(make):
    scheme, groups = make()
    first, last, history = train(scheme, toy.mesh())
    moved = {
        g
        for g in first.params
        if any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (first.params[g], last.params[g])), strict=True))
    }
    assert moved == groups
    chex.assert_trees_all_equal(first.frozen, last.frozen)
    assert set(last.opt) == {p.group for p in scheme.stages[0].phases}
    watched = "student/kd" if make is data_free else "student/loss" if make is adversarial else "loss"
    assert make is data_free or history[-1][watched] < history[0][watched]
    assert np.isfinite(list(history[-1].values())).all()
    _, spread, others = train(scheme, toy.mesh(4, 2))
    chex.assert_trees_all_close(last.params, spread.params, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(history[-1][watched], others[-1][watched], rtol=1e-4)


def test_the_teacher_passes_gradients_on_to_the_generator():
    # With a blanket stop_gradient on teacher outputs the generator would follow the student's half only.
    batch = toy.batch()
    scheme, inputs = bind(data_free()[0], toy.shapes(batch))
    state = init_state(scheme, inputs, KEY, {})
    phase = scheme.stages[0].phases[0]
    from kd_jax.core.step import forward

    def through(name):
        def value(params):
            context, _ = forward(scheme, phase, state, params, batch, KEY)
            return context[name].logits.sum()

        return jax.grad(value)(state.params["generator"])

    for name in ("student", "teacher"):
        assert any(g.any() for g in jax.tree.leaves(through(name)))
