"""Adversarial distillation: its losses, discriminators, phases, and what keeps it from diverging."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scheme_checks
import toy
from jax.test_util import check_grads

from kd_jax.core.bind import bind, init_state
from kd_jax.core.step import make_train_step
from kd_jax.core.terms import hyper_of
from kd_jax.losses import adversarial as losses
from kd_jax.models import discriminators
from kd_jax.models.adapters import as_model
from kd_jax.models.connectors import Projection
from kd_jax.schemes import adversarial
from kd_jax.types import Role

RNG = np.random.default_rng(0)
CONFIG = scheme_checks.config_module("adversarial")
FEATURES = dict(fake="student.features:hidden", real="teacher.features:hidden", through="projection")
OPTIONS = {
    "features": dict(FEATURES, kind="hinge", condition=("teacher.logits",), penalty="real", spectral=True),
    "critic": dict(kind="wasserstein", n_critic=2, penalty="between"),
}


def make_tx(steps, group="student"):
    """As in configs/adversarial.py: a discriminator diverges under momentum 0.9."""
    return optax.adam(0.01, b1=0.5) if group == "discriminator" else toy.sgd()


def make_parts(spectral=False, steps=6, terms=None, **changes):
    more = {
        "discriminator": Role(as_model(discriminators.mlp((8,), spectral)), group="discriminator"),
        "projection": Role(as_model(Projection(8)), group="student"),
    }
    terms = {"ce": toy.ce(), "kd": toy.kd()} if terms is None else terms
    return dataclasses.replace(toy.parts({**toy.roles(), **more, **changes}, terms, steps), make_tx=make_tx)


def build(spectral=False, **options):
    return adversarial.build(make_parts(spectral), **options)


@pytest.mark.parametrize("name", OPTIONS)
def test_scheme(name):
    scheme = build(**OPTIONS[name])
    first, last, history = scheme_checks.steps(scheme, count=6)
    assert scheme_checks.moved(first, last) == {"student", "discriminator"}
    assert history[-1]["student/ce"] < history[0]["student/ce"]
    assert 0 <= history[-1]["discriminator/told_apart"] <= 1
    assert ("discriminator/penalty" in history[0]) == ("penalty" in OPTIONS[name])
    scheme_checks.same_on_eight_devices(scheme, last, count=6)


def test_every_update_belongs_to_one_network():
    asked = []

    def make_tx(steps, group="student"):
        asked.append((steps, group))
        return optax.sgd(0.1) if group == "discriminator" else optax.sgd(0.0)

    scheme = adversarial.build(dataclasses.replace(make_parts(), make_tx=make_tx), n_critic=3)
    assert [phase.group for phase in scheme.stages[0].phases] == ["discriminator"] * 3 + ["student"]
    assert asked == [(18, "discriminator"), (6, "student")]
    first, last, history = scheme_checks.steps(scheme, count=4)
    assert scheme_checks.moved(first, last) == {"discriminator"}
    assert history[-1]["discriminator/tell"] < history[0]["discriminator/tell"]
    assert (first.stats["student"]["batch_stats"]["norm"]["mean"] == 0).all()
    assert (last.stats["student"]["batch_stats"]["norm"]["mean"] != 0).all()  # from the student's own phase


def test_the_student_follows_the_discriminator_to_the_teacher():
    def gap(scheme, state):
        scheme, _ = bind(scheme, toy.shapes(toy.batch()))
        answers = []
        for name, params, stats in (
            ("teacher", *state.frozen["teacher"]),
            ("student", state.params["student"]["student"], state.stats["student"]),
        ):
            train = name == "student"
            out, _ = scheme.roles[name].model.apply(params, stats, toy.batch()["image"], train=train, key=toy_key)
            answers.append(out.logits.mean(0))
        return float(jnp.abs(answers[0] - answers[1]).sum())

    toy_key = jax.random.key(0)
    scheme = adversarial.build(make_parts(terms={}, steps=40), weight=1.0, penalty="real", penalty_weight=1.0)
    first, last, _ = scheme_checks.steps(scheme, count=40)
    assert gap(scheme, last) < 0.7 * gap(scheme, first)


def test_stable_over_seeds():
    # A heavy adversarial weight and a fast discriminator: with the penalty every seed still learns its labels.
    parts = make_parts(terms={"ce": toy.ce()})
    scheme = adversarial.build(parts, weight=1.0, penalty="real", n_critic=2)
    scheme, inputs = bind(scheme, toy.shapes(toy.batch()))
    step = jax.jit(make_train_step(scheme, scheme.stages[0]))
    for seed in range(4):
        key = jax.random.key(seed)
        state = init_state(scheme, inputs, key, {})
        history = []
        for _ in range(60):
            state, metrics = step(state, toy.batch(seed=seed), hyper_of(scheme.stages[0]), key)
            history.append({k: float(total / count) for k, (total, count) in metrics.items()})
        assert all(np.isfinite(list(values.values())).all() for values in history)
        assert history[-1]["student/ce"] < 0.7 * history[0]["student/ce"]
        assert history[-1]["student/fool"] < 2


def test_resume(tmp_path, monkeypatch):
    scheme_checks.resumes_exactly(build(**{**OPTIONS["critic"], "n_critic": 1}), tmp_path, monkeypatch, stop=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(kind="hing"), "Did you mean 'hinge'"),
        (dict(penalty="reel"), "Did you mean 'real'"),
        (dict(n_critic=0), "at least 1"),
        (dict(fake="teacher.logits"), "fake is a value of the student"),
        (dict(real="student.logits"), "real is not"),
        (dict(through="projektion"), "Did you mean 'projection'"),
        (dict(through="teacher"), "group 'student'"),
        ({**FEATURES, "through": ""}, r"\(16, 4\).*\(16, 8\).*through"),
        (dict(condition=("teacher.features:hiden",)), "hidden"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        bind(build(**options), toy.shapes(toy.batch()))


def test_bad_roles():
    parts = make_parts()
    roles = {name: role for name, role in parts.roles.items() if name != "discriminator"}
    with pytest.raises(ValueError, match=r"config\.roles\.discriminator"):
        adversarial.build(dataclasses.replace(parts, roles=roles))
    with pytest.raises(ValueError, match="'between' is taken"):
        adversarial.build(make_parts(between=parts.roles["projection"]))


def test_gradient_penalty():
    at = RNG.normal(size=(5, 2, 3)).astype(np.float32)
    w = RNG.normal(size=(2, 3)).astype(np.float32)
    penalty = jax.jit(
        lambda w, at, c: losses.gradient_penalty(lambda x: jnp.sum(x * x * w[None], (1, 2)), at, centre=c)
    )
    for centre in (0.0, 1.0):
        expected = [(np.sqrt(((2 * x * w) ** 2).sum()) - centre) ** 2 for x in at]
        np.testing.assert_allclose(penalty(w, at, centre), expected, rtol=1e-5)
        check_grads(lambda w, c=centre: penalty(w, at, c).sum(), (w,), 1, ["rev"], atol=1e-2, rtol=1e-2)
        flat = jax.grad(lambda w, c=centre: penalty(w, 0 * at, c).sum())(w)  # a slope of 0 has no direction
        assert np.isfinite(flat).all()
    # Scores of patches count with their mean.
    patches = losses.gradient_penalty(lambda x: x * w[None], at, centre=0.0)
    np.testing.assert_allclose(patches, np.full(5, ((w / 6) ** 2).sum()), rtol=1e-5)


def test_wasserstein():
    fake, real = RNG.normal(size=(2, 4, 3)).astype(np.float32)
    values = losses.wasserstein_discriminator_loss(fake, real)
    np.testing.assert_allclose(values, fake.mean(1) - real.mean(1), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"\(4, 3\).*\(2, 3\)"):
        losses.wasserstein_discriminator_loss(fake, real[:2])


def test_discriminators():
    key, x, c = jax.random.key(0), jnp.ones((3, 4, 4, 2)), jnp.ones((3, 5))
    for module, inputs, shape in (
        (discriminators.mlp((8, 4)), (x, c), (3,)),
        (discriminators.patches((6,)), (x,), (3, 4, 4)),
        (discriminators.patches((6,), spectral=True), (x,), (3, 4, 4)),
    ):
        model = as_model(module)
        params, stats = model.init(key, *inputs)
        assert model.apply(params, stats, *inputs, train=True, key=key)[0].logits.shape == shape
    model = as_model(discriminators.patches())
    with pytest.raises(ValueError, match=r"maps .*\(3, 5\)"):
        model.init(key, c)


def test_spectral_norm_bounds_the_slope():
    model = as_model(discriminators.mlp((8, 8), spectral=True))
    x = jnp.asarray(RNG.normal(size=(6, 4)), jnp.float32)
    params, stats = model.init(jax.random.key(0), x)
    params = jax.tree.map(lambda p: 10 * p, params)
    apply = jax.jit(lambda s: model.apply(params, s, x, train=True, key=jax.random.key(0))[1])
    for _ in range(30):
        stats = apply(stats)

    def score(x):
        return model.apply(params, stats, x, train=False, key=jax.random.key(0))[0].logits

    steep = np.sqrt(losses.gradient_penalty(score, x, centre=0.0))
    assert steep.max() < 1.05
    chex.assert_trees_all_equal(stats, model.apply(params, stats, x, train=False, key=jax.random.key(0))[1])


@pytest.mark.slow
@pytest.mark.parametrize("variant", CONFIG.VARIANTS)
def test_config(variant, tmp_path):
    scheme_checks.run_tiny("adversarial", variant, tmp_path)
