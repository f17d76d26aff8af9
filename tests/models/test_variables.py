"""The parameters of a teacher in every form that their users hold them in."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import freeze

from kd_jax.models.adapters import FunctionModel, LinenModel, NNXModel
from kd_jax.models.variables import variables_from

X = jnp.ones((2, 3))


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.BatchNorm(use_running_average=not train, name="norm")(nn.Dense(4, name="dense")(x))
        self.sow("intermediates", "seen", x)
        return nn.Dense(2, name="head")(x)


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)])
        self.norm, self.dropout = nnx.BatchNorm(4, rngs=rngs), nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, x):
        return self.layers[1](self.dropout(self.norm(self.layers[0](x))))


def shapes(model):
    return jax.eval_shape(model.init, jax.random.key(0), X)


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_linen_forms():
    variables = Net().init(jax.random.key(3), X)
    model = LinenModel(Net())
    wanted = variables["params"], {"batch_stats": variables["batch_stats"]}
    forms = (
        variables,
        freeze(variables),
        wanted,
        list(wanted),
        (variables["params"], variables["batch_stats"]),
        {"params": variables["params"], "batch_stats": variables["batch_stats"]},
    )
    for form in forms:
        assert_same(variables_from(form, shapes(model)), wanted)


def test_nnx_forms():
    model, module = NNXModel(lambda rngs: NnxNet(rngs)), NnxNet(nnx.Rngs(5))
    wanted = model.init(jax.random.key(0), X)
    state = nnx.state(module)
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    forms = (module, state, nnx.split(module), (graph, params, rest), (params, rest), nnx.to_pure_dict(params | rest))
    forms += ((nnx.to_pure_dict(params), nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))),)
    for form in forms[:5] + forms[6:]:
        params, stats = variables_from(form, shapes(model))
        assert jax.tree.structure((params, stats)) == jax.tree.structure(wanted)
        np.testing.assert_array_equal(params["layers"]["1"]["kernel"], module.layers[1].kernel[...])
        np.testing.assert_array_equal(stats["norm"]["mean"], module.norm.mean[...])


def test_plain_parameters():
    model = FunctionModel(lambda key, x: [jnp.zeros((3, 2)), jnp.zeros(2)], lambda p, x: x @ p[0] + p[1])
    params = [jnp.ones((3, 2)), jnp.ones(2)]
    for form in (params, (params, {})):
        assert_same(variables_from(form, shapes(model)), (params, {}))


def test_what_does_not_fit_is_named():
    variables = Net().init(jax.random.key(3), X)
    wanted = shapes(LinenModel(Net()))
    head = {"head": variables["params"]["head"]}
    with pytest.raises(ValueError, match="without dense/bias, dense/kernel, norm/bias, norm/scale and 2 more"):
        variables_from({"params": head}, wanted)
    with pytest.raises(ValueError, match="and beside it params/more/kernel"):
        more = {**variables["params"], "more": head["head"] | {}}
        more["more"] = {"kernel": more["more"]["kernel"]}
        variables_from({**variables, "params": more}, wanted)
    with pytest.raises(ValueError, match=r"of other shapes: head/bias is \(5,\), not \(2,\)"):
        wide = {**variables["params"], "head": {"kernel": jnp.zeros((4, 2)), "bias": jnp.zeros(5)}}
        variables_from({**variables, "params": wide}, wanted)
    with pytest.raises(ValueError, match="they are a str; expected"):
        variables_from("weights.npz", wanted)
