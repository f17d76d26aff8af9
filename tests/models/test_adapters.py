from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kd_jax.models.adapters import FunctionModel, LinenModel, NNXModel, as_model, print_taps, tap_shapes
from kd_jax.types import Model, Outputs

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (6, 5))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.relu(nn.Dense(7, name="dense")(x))


class Net(nn.Module):
    dropout: float = 0.5

    @nn.compact
    def __call__(self, x, train: bool):
        x = Block(name="block1")(x)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        self.sow("intermediates", "summary", x.mean(-1))
        return nn.Dense(3, name="head")(x)


def run(model, *inputs, train=False, key=KEY, taps=()):
    @jax.jit
    def both(key, *inputs):
        params, stats = model.init(KEY, *inputs)
        return model.apply(params, stats, *inputs, train=train, key=key, taps=taps)

    return both(key, *inputs)


def test_linen_taps_are_exactly_the_asked_modules():
    model = LinenModel(Net())
    assert isinstance(model, Model)
    outputs, _ = run(model, X, taps=("block1", "block1/dense", "summary"))
    assert set(outputs.features) == {"block1", "block1/dense", "summary"}
    np.testing.assert_array_equal(outputs.features["block1"], nn.relu(outputs.features["block1/dense"]))
    assert run(model, X)[0].features == {}
    every = run(model, X, taps=("*",))[0].features
    assert {"block1", "block1/dense", "norm", "head", "summary"} <= set(every) and "" not in every
    np.testing.assert_array_equal(every["head"], run(model, X)[0].logits)


@pytest.mark.parametrize("jit", [False, True])
def test_linen_unknown_tap_names_what_exists(jit):
    model = LinenModel(Net())
    params, stats = model.init(KEY, X)
    apply = lambda params, x: model.apply(params, stats, x, train=True, key=KEY, taps=("blok1",))[0]  # noqa: E731
    with pytest.raises(ValueError, match=r"no tap 'blok1'; did you mean 'block1'.*taps are: .*block1/dense.*head"):
        (jax.jit(apply) if jit else apply)(params, X)


def test_linen_module_that_ran_twice_is_an_error_and_not_in_star():
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x):
            shared = nn.Dense(5, name="shared")
            return shared(shared(x))

    with pytest.raises(ValueError, match="'shared' ran 2 times"):
        run(LinenModel(Twice()), X, taps=("shared",))
    assert run(LinenModel(Twice()), X, taps=("*",))[0].features == {}


def test_linen_tap_that_is_no_array_is_an_error():
    class Pair(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x, x

    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Pair(name="pair")(x)[0]

    with pytest.raises(ValueError, match="'pair' is a tuple"):
        run(LinenModel(Outer()), X, taps=("pair",))


def test_linen_state_changes_only_in_training_and_dropout_follows_the_key():
    model = LinenModel(Net())
    params, stats = model.init(KEY, X)
    assert set(stats) == {"batch_stats"}
    eval_outputs, same = model.apply(params, stats, X, train=False, key=KEY)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), stats, same))
    first, new = model.apply(params, stats, X, train=True, key=KEY)
    again, _ = model.apply(params, stats, X, train=True, key=KEY)
    other, _ = model.apply(params, stats, X, train=True, key=jax.random.key(5))
    hidden = nn.relu(X @ params["block1"]["dense"]["kernel"])
    np.testing.assert_allclose(new["batch_stats"]["norm"]["mean"], 0.01 * hidden.mean(0), rtol=1e-5)
    np.testing.assert_array_equal(first.logits, again.logits)
    assert not np.allclose(first.logits, other.logits) and not np.allclose(first.logits, eval_outputs.logits)


@pytest.mark.parametrize("flag", ["none", "deterministic", "training"])
def test_linen_flags(flag):
    class Plain(nn.Module):
        def __call__(self, x):
            return x

    class Deterministic(nn.Module):
        @nn.compact
        def __call__(self, x, deterministic: bool = True):
            return nn.Dropout(0.5)(x, deterministic=deterministic)

    class Training(nn.Module):
        @nn.compact
        def __call__(self, x, training: bool):
            return nn.Dropout(0.5, rng_collection="mine")(x, deterministic=not training)

    model = LinenModel({"none": Plain, "deterministic": Deterministic, "training": Training}[flag]())
    np.testing.assert_array_equal(run(model, X)[0].logits, X)
    assert bool((run(model, X, train=True)[0].logits == X).all()) == (flag == "none")


def test_linen_modules_that_return_more_than_logits():
    class Rich(nn.Module):
        kind: str

        @nn.compact
        def __call__(self, x):
            y = nn.Dense(2, name="head")(x)
            features = {"embedding": x}
            return {"outputs": Outputs(y, features), "pair": (y, features), "tuple": (y, y)}[self.kind]

    for kind in ("outputs", "pair"):
        outputs, _ = run(LinenModel(Rich(kind)), X, taps=("head", "embedding"))
        assert outputs.logits.shape == (6, 2) and set(outputs.features) == {"embedding", "head"}
    assert len(run(LinenModel(Rich("tuple")), X)[0].logits) == 2


def test_linen_state_that_grows_is_refused():
    class Sows(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.sow("losses", "l2", x.sum())
            return nn.Dense(2)(x)

    with pytest.raises(ValueError, match="state changed in training.*losses"):
        run(LinenModel(Sows()), X, train=True)


class NNXNet(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(5, 8, rngs=rngs), nnx.Linear(8, 8, rngs=rngs)])
        self.norm = nnx.BatchNorm(8, momentum=0.9, rngs=rngs)
        self.drops = nnx.List([nnx.Dropout(0.5, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)])
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        x = self.norm(self.layers[1](nnx.relu(self.layers[0](x))))
        return self.head(self.drops[0](x)) + self.drops[1](x)[:, :3]


def test_nnx_batchnorm_updates_and_resumes():
    model = NNXModel(NNXNet)
    params, stats = model.init(KEY, X)
    assert set(params) == {"layers", "norm", "head"} and set(stats) == {"norm"}
    assert set(params["layers"]) == {"0", "1"}
    step = jax.jit(lambda params, stats, key: model.apply(params, stats, X, train=True, key=key))
    hidden = nnx.relu(X @ params["layers"]["0"]["kernel"]) @ params["layers"]["1"]["kernel"]
    _, one = step(params, stats, KEY)
    np.testing.assert_allclose(one["norm"]["mean"], 0.1 * hidden.mean(0), rtol=1e-4, atol=1e-6)
    # A second object that never ran, given what was saved, goes on exactly: no state hides in the adapter.
    saved = jax.tree.map(np.asarray, (params, one))
    expected = step(params, one, jax.random.key(1))
    fresh = jax.jit(lambda p, s, key: NNXModel(NNXNet).apply(p, s, X, train=True, key=key))(*saved, jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, expected, fresh)
    still = model.apply(params, one, X, train=False, key=KEY)[1]
    jax.tree.map(np.testing.assert_array_equal, one, still)


def test_nnx_dropout_follows_the_key_and_differs_between_layers():
    class Drops(nnx.Module):
        def __init__(self, rngs):
            self.a, self.b = nnx.Dropout(0.5, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            return self.a(x), self.b(x)

    model = NNXModel(Drops)
    a, b = run(model, jnp.ones((4, 64)), train=True)[0].logits
    again = run(model, jnp.ones((4, 64)), train=True)[0].logits[0]
    other = run(model, jnp.ones((4, 64)), train=True, key=jax.random.key(3))[0].logits[0]
    np.testing.assert_array_equal(a, again)
    assert (a != b).any() and (a != other).any()
    np.testing.assert_array_equal(run(model, jnp.ones((4, 64)))[0].logits[0], 1.0)


def test_nnx_taps_also_of_inherited_calls_lists_and_sown_values():
    class Base(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(5, 3, rngs=rngs)

        def __call__(self, x):
            self.sow(nnx.Intermediate, "summary", x.mean(-1))
            return self.linear(x)

    class Inherits(Base):
        def __call__(self, x):
            return super().__call__(x) + 1

    class Outer(nnx.Module):
        def __init__(self, rngs):
            self.blocks = nnx.List([type("Child", (Base,), {})(rngs), Inherits(rngs)])

        def __call__(self, x):
            once = nnx.remat(lambda block, x: block(x))(self.blocks[1], x)
            return self.blocks[0](x) + once, type(self.blocks[0]).__name__ == "Child"

    model = NNXModel(Outer)
    taps = ("blocks/0", "blocks/1", "blocks/1/linear", "blocks/0/summary")
    outputs, _ = run(model, X, taps=taps)
    assert set(outputs.features) == set(taps)
    np.testing.assert_array_equal(outputs.features["blocks/1"], outputs.features["blocks/1/linear"] + 1)
    np.testing.assert_allclose(outputs.logits[0], outputs.features["blocks/0"] + outputs.features["blocks/1"])
    assert run(model, X)[0].logits[1] and run(model, X)[0].features == {}
    with pytest.raises(ValueError, match="no tap 'block/1'; did you mean 'blocks/1'"):
        run(model, X, taps=("block/1",))


def test_nnx_module_that_ran_twice():
    class Twice(nnx.Module):
        def __init__(self, rngs):
            self.shared = nnx.Linear(5, 5, rngs=rngs)

        def __call__(self, x):
            return self.shared(self.shared(x))

    with pytest.raises(ValueError, match="'shared' ran 2 times"):
        run(NNXModel(Twice), X, taps=("shared",))


def test_nnx_gradient_reaches_all_parameters_and_only_those():
    model = NNXModel(NNXNet)
    params, stats = model.init(KEY, X)

    def loss(params):
        outputs, _ = model.apply(params, stats, X, train=True, key=KEY, taps=("layers/0",))
        return (outputs.logits**2).mean() + (outputs.features["layers/0"] ** 2).mean()

    grads = jax.jit(jax.grad(loss))(params)
    assert jax.tree.structure(grads) == jax.tree.structure(params)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    assert np.abs(grads["layers"]["0"]["kernel"]).sum() > 0 and np.abs(grads["head"]["kernel"]).sum() > 0


def test_function_model():
    model = FunctionModel(lambda key, x: {"w": jax.random.normal(key, (x.shape[-1], 2))}, lambda p, x: x @ p["w"])
    assert isinstance(model, Model) and run(model, X)[0].logits.shape == (6, 2)

    def noisy(params, x, *, train, key):
        y = x + jax.random.normal(key, x.shape) if train else x
        return Outputs(y, {"input": x})

    model = FunctionModel(lambda key, x: {}, noisy)
    assert (run(model, X)[0].logits == X).all() and (run(model, X, train=True)[0].logits != X).any()
    assert set(run(model, X, taps=("input",))[0].features) == {"input"}
    with pytest.raises(ValueError, match="no tap 'output'.*taps are: input"):
        run(model, X, taps=("output",))


def test_as_model():
    assert isinstance(as_model(Net()), LinenModel)
    model = NNXModel(NNXNet)
    assert as_model(model) is model
    with pytest.raises(ValueError, match="got the class Net: call it"):
        as_model(Net)
    params, _ = as_model(NNXNet(nnx.Rngs(3))).init(jax.random.key(0), X)  # it starts at the parameters that it has
    expected, _ = NNXModel(lambda rngs: NNXNet(nnx.Rngs(3))).init(jax.random.key(0), X)
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    with pytest.raises(ValueError, match="FunctionModel"):
        as_model(lambda x: x)

    class Haiku:
        def init(self, rng, x): ...
        def apply(self, params, rng, x): ...

    with pytest.raises(ValueError, match="expected a Linen or NNX module"):
        as_model(Haiku())


def test_tap_shapes_and_print(capsys):
    shapes = tap_shapes(LinenModel(Net()), jax.ShapeDtypeStruct((6, 5), jnp.float32))
    assert shapes["block1"] == jax.ShapeDtypeStruct((6, 7), jnp.float32) and tap_shapes(Net(), X) == shapes
    assert "layers/0" in tap_shapes(NNXModel(NNXNet), X)
    print_taps(Net(), X)
    assert "block1/dense  float32[6, 7]" in capsys.readouterr().out
