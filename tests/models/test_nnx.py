"""NNX networks with adapters, rounded, checkpointed and tapped, as Linen ones are."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from kd_jax.config import base, knowledge, part, training
from kd_jax.models.adapters import LinenModel, NNXModel
from kd_jax.models.lora import lora
from kd_jax.models.quantised import Quantised, rounded_params
from kd_jax.models.remat import Remat
from kd_jax.train import run as train

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (6, 5))
TARGETS = r"blocks/\d/layers/0$|head"
WIDTH = 8


class Block(nnx.Module):
    def __init__(self, width, dropout, rngs):
        self.layers = nnx.List([nnx.Linear(width, width, rngs=rngs), nnx.Linear(width, width, rngs=rngs)])
        self.norm, self.drop = nnx.BatchNorm(width, momentum=0.5, rngs=rngs), nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, x):
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return self.drop(self.norm(x))


class Net(nnx.Module):
    """Blocks in a list, each with a list of layers, a BatchNorm and a Dropout."""

    def __init__(self, rngs, features=5, width=WIDTH, classes=3, depth=3, dropout=0.5):
        self.stem = nnx.Linear(features, width, rngs=rngs)
        self.blocks = nnx.List([Block(width, dropout, rngs) for _ in range(depth)])
        self.head = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, x):
        x = self.stem(x.reshape(len(x), -1))
        for block in self.blocks:
            x = block(x)
        return self.head(x)


PLAIN = NNXModel(Net)


@pytest.fixture(scope="module")
def variables():
    """Parameters, and BatchNorm averages that are not those of the first step."""
    params, stats = PLAIN.init(KEY, X)
    return params, jax.jit(lambda p, s: PLAIN.apply(p, s, X, train=True, key=KEY)[1])(params, stats)


def applied(model, params, stats, *inputs, train=False, taps=()):
    return jax.jit(lambda p, s, x: model.apply(p, s, *x, train=train, key=KEY, taps=taps))(params, stats, inputs)


def test_lora_begins_as_its_base_trains_few_numbers_and_merges(variables):
    params, stats = variables
    model = lora(PLAIN, rank=2, targets=TARGETS)
    adapters, fresh = model.init(KEY, X, params)
    assert jax.tree.structure(fresh) == jax.tree.structure(stats)
    shapes = {"/".join(k.key for k in p): x.shape for p, x in jax.tree.leaves_with_path(adapters)}
    inner = {f"blocks/{i}/layers/0/{n}": s for i in range(3) for n, s in (("a", (WIDTH, 2)), ("b", (2, WIDTH)))}
    assert shapes == {**inner, "head/a": (WIDTH, 2), "head/b": (2, 3)}
    expected, _ = applied(PLAIN, params, stats, X, taps=("blocks/1",))
    chex.assert_trees_all_close(applied(model, adapters, stats, X, params, taps=("blocks/1",))[0], expected)

    tx = optax.adam(3e-2)

    @jax.jit
    def step(adapters, stats, opt):
        def loss(adapters, params):
            outputs, new = model.apply(adapters, stats, X, params, train=True, key=KEY)
            return jnp.square(outputs.logits - 1).mean(), new

        (value, new), (grads, of_base) = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(adapters, params)
        updates, opt = tx.update(grads, opt)
        return optax.apply_updates(adapters, updates), new, opt, value, optax.tree.norm(of_base)

    opt, losses, moved = tx.init(adapters), [], stats
    for _ in range(8):
        adapters, moved, opt, value, of_base = step(adapters, moved, opt)
        losses.append(float(value))
        assert of_base == 0
    assert losses[-1] < 0.7 * losses[0] and not np.allclose(moved["blocks"]["0"]["norm"]["mean"], 0)
    merged = model.merged(adapters, params)
    taps = ("blocks/0/layers/0", "blocks/2")  # a tap of an adapted layer holds what the adapters add
    adapted, _ = applied(model, adapters, moved, X, params, taps=taps)
    chex.assert_trees_all_close(adapted, applied(PLAIN, merged, moved, X, taps=taps)[0], atol=1e-5)
    assert jnp.abs(adapted.logits - expected.logits).max() > 0.1


def test_lora_refuses_what_is_no_linear_layer(variables):
    params, stats = variables
    with pytest.raises(ValueError, match="chooses no layer.*'blocks/0/layers/1'"):
        lora(PLAIN, targets="blocks/0/layer/1").init(KEY, X, params)

    class Convolves(nnx.Module):
        def __init__(self, rngs):
            self.conv, self.head = nnx.Conv(1, 2, (3,), rngs=rngs), nnx.Linear(2, 3, rngs=rngs)

        def __call__(self, x):
            return self.head(self.conv(x[..., None]).mean(1))

    model = lora(NNXModel(Convolves), targets="conv")
    params, stats = NNXModel(Convolves).init(KEY, X)
    adapters, _ = model.init(KEY, X, params)
    with pytest.raises(ValueError, match=r"chooses \['conv'\], which did not run as linear layers.*head"):
        model.apply(adapters, stats, X, params, train=False, key=KEY)
    with pytest.raises(ValueError, match="not given: conv/bias, conv/kernel"):
        NNXModel(Convolves).apply({"head": params["head"]}, stats, X, train=False, key=KEY)
    with pytest.raises(ValueError, match="the parameter 'head/2/kernel' fits no module of Convolves"):
        NNXModel(Convolves).apply(
            {**params, "head": {**params["head"], "2": {"kernel": X}}}, stats, X, train=False, key=KEY
        )


def test_lora_in_layers_that_nnx_scans():
    class Scanned(nnx.Module):
        def __init__(self, rngs):
            make = nnx.vmap(lambda rngs: nnx.Linear(5, 5, rngs=rngs), in_axes=0, out_axes=0)
            self.layers = make(rngs.split(3))

        def __call__(self, x):
            return nnx.scan(lambda x, layer: layer(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, self.layers)

    plain, model = NNXModel(Scanned), lora(NNXModel(Scanned), rank=2, targets="layers")
    params, _ = plain.init(KEY, X)
    adapters, stats = model.init(KEY, X, params)
    assert adapters["layers"]["a"].shape == (3, 5, 2)
    adapters["layers"]["b"] = jax.random.normal(KEY, (3, 2, 5))
    adapted = applied(model, adapters, stats, X, params)[0].logits
    np.testing.assert_allclose(adapted, applied(plain, model.merged(adapters, params), {}, X)[0].logits, rtol=1e-4)
    assert not np.allclose(adapted, applied(plain, params, {}, X)[0].logits)


def test_rounded_weights_and_activations(variables):
    params, stats = variables
    model, exact = Quantised(PLAIN), applied(PLAIN, params, stats, X)[0].logits
    rounding = Quantised(PLAIN, activations=True)
    bits = lambda *numbers: jnp.asarray(numbers, jnp.float32)  # noqa: E731
    for each in (model, rounding):
        np.testing.assert_array_equal(applied(each, params, stats, X, bits(32, 32))[0].logits, exact)
    errors = []
    for number in (8, 4, 2):
        by_hand = rounded_params(params, jnp.float32(number))
        assert (by_hand["blocks"]["2"]["layers"]["1"]["kernel"] != params["blocks"]["2"]["layers"]["1"]["kernel"]).any()
        chex.assert_trees_all_equal(by_hand["blocks"]["2"]["norm"], params["blocks"]["2"]["norm"])
        outputs = applied(model, params, stats, X, bits(number, 32))[0].logits
        np.testing.assert_allclose(outputs, applied(PLAIN, by_hand, stats, X)[0].logits, rtol=1e-5, atol=1e-6)
        errors.append(float(jnp.abs(outputs - exact).max()))
    assert errors == sorted(errors) and errors[0] > 0
    step = np.abs(X).max(1, keepdims=True) / 7  # 4 bits: 7 steps to the largest value of an example
    stem = np.round(X / step) * step @ params["stem"]["kernel"] + params["stem"]["bias"][None]
    outputs, _ = applied(rounding, params, stats, X, bits(32, 4), taps=("stem",))
    np.testing.assert_allclose(outputs.features["stem"], stem, rtol=1e-5, atol=1e-6)
    assert 0 < jnp.abs(outputs.logits - exact).max() < 1

    class ByKeyword(Net):
        def __call__(self, x):
            return self.stem(inputs=x)

    with pytest.raises(ValueError, match="'stem' is called by keywords alone"):
        applied(Quantised(NNXModel(ByKeyword), activations=True), params, stats, X, bits(4, 4))


@pytest.mark.parametrize("modules", [r"blocks/\d$", ""])
def test_remat_gives_the_same_and_keeps_less(modules, variables):
    params, stats = variables
    x = jnp.tile(X, (40, 1))

    def loss(model, params):
        taps = ("blocks/0", "blocks/1/layers/0") if modules else ()
        outputs, new = model.apply(params, stats, x, train=True, key=KEY, taps=taps)
        return jnp.square(outputs.logits).mean() + sum(jnp.square(f).mean() for f in outputs.features.values()), new

    results, saved = {}, {}
    for name, model in (("plain", PLAIN), ("remat", Remat(PLAIN, modules, "nothing_saveable"))):
        results[name] = jax.jit(jax.value_and_grad(lambda p, m=model: loss(m, p), has_aux=True))(params)
        back = jax.eval_shape(lambda p, m=model: jax.vjp(lambda p: loss(m, p)[0], p)[1], params)
        saved[name] = sum(leaf.size for leaf in jax.tree.leaves(back))
    chex.assert_trees_all_close(results["remat"], results["plain"], rtol=1e-5, atol=1e-6)
    assert saved["remat"] < 0.6 * saved["plain"]
    with pytest.raises(ValueError, match="'block/0' matches no module. Did you mean 'blocks/0'"):
        loss(Remat(PLAIN, "block/0", "nothing_saveable"), params)


def test_rounded_and_checkpointed_at_once(variables):
    params, stats = variables
    bits = jnp.asarray([4.0, 4.0])
    model = Quantised(PLAIN, activations=True)
    both = Quantised(Remat(PLAIN, r"blocks/\d$", "nothing_saveable"), activations=True)
    expected, actual = (applied(m, params, stats, X, bits, train=True) for m in (model, both))
    chex.assert_trees_all_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_the_users_classes_are_left_alone(variables):
    before = Block.__call__, nnx.Linear.__call__
    applied(Quantised(PLAIN, activations=True), *variables, X, jnp.asarray([8.0, 8.0]), taps=("*",))
    assert (Block.__call__, nnx.Linear.__call__) == before
    assert type(Net(nnx.Rngs(0)).blocks[0]) is Block


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.relu(nn.Dense(6, name="hidden")(x))
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        return nn.Dense(3, name="head")(x)


def test_lora_on_any_linen_dense():
    plain, model = LinenModel(LinenNet()), lora(LinenNet(), rank=2, targets="hidden|head")
    params, stats = plain.init(KEY, X)
    stats = applied(plain, params, stats, X, train=True)[1]
    adapters, _ = model.init(KEY, X, params)
    np.testing.assert_array_equal(
        applied(model, adapters, stats, X, params)[0].logits, applied(plain, params, stats, X)[0].logits
    )
    adapters["hidden"]["b"] = jax.random.normal(KEY, (2, 6))
    for train_ in (False, True):
        adapted = applied(model, adapters, stats, X, params, train=train_)
        merged = applied(plain, model.merged(adapters, params), stats, X, train=train_)
        chex.assert_trees_all_close(adapted, merged, atol=1e-5)
    with pytest.raises(ValueError, match="chooses no layer"):
        lora(LinenNet()).init(KEY, X, params)


def digits(steps=60):
    config = base()
    config.train = training(batch_size=64, steps=steps, optimizer=dict(learning_rate=0.1))
    config.teacher.train = training(batch_size=64, steps=steps, optimizer=dict(learning_rate=0.1))
    config.terms = knowledge.compose("kd")
    config.log_every, config.eval_every = steps, steps
    config.report, config.examples, config.baseline = False, 0, False
    config.mesh.axes.data = 1
    return config


def network(width):
    return NNXModel(lambda rngs: Net(rngs, 64, width, 10, depth=1, dropout=0.1))


def test_a_run_with_a_checkpointed_nnx_student(tmp_path):
    config = digits()
    results = [train.run(config, tmp_path / "plain", teacher=network(16), student=network(8))]
    config.teacher.workdir = str(tmp_path / "plain" / "teacher")
    config.student.remat = dict(policy="nothing_saveable", modules=r"blocks/\d$")
    results.append(train.run(config, tmp_path / "remat", teacher=network(16), student=network(8)))
    plain, remat = (each["models"]["student"]["last"]["test"] for each in results)
    assert plain["accuracy"] > 0.5
    assert remat["nll"] == pytest.approx(plain["nll"], rel=1e-3)


def test_a_run_whose_student_is_the_nnx_teacher_with_adapters(tmp_path):
    config = digits(steps=20)
    config.report = True
    config.baseline = True
    config.terms = knowledge.compose("kd")
    config.teacher.train.steps = 60
    config.student.inputs = ("batch.image", "params.teacher")
    config.student.initial = part("models.lora.from_teacher")
    config.train.optimizer.learning_rate = 0.01
    student = lora(network(16), rank=2, targets="layers")
    models = train.run(config, tmp_path, teacher=network(16), student=student)["models"]
    assert models["student"]["parameters"] == 2 * 2 * 2 * 16  # two layers, each with A [16, 2] and B [2, 16]
    teacher, adapted = (models[name]["last"]["test"] for name in ("teacher", "student"))
    assert teacher["accuracy"] > 0.8 and adapted["agreement"] > 0.9
