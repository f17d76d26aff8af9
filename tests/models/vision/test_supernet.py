"""Sub-networks: what is masked is not there, what is chosen is the network of its own size, and costs are its costs."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from kd_jax.models.adapters import LinenModel
from kd_jax.models.vision import supernet_costs
from kd_jax.models.vision.supernet import mixed_cnn, mixed_variables, slim_cnn, slim_params
from kd_jax.models.vision.supernet_costs import architecture_weights, operation_cost, space_of

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (4, 4, 4, 1))
SLIM = LinenModel(slim_cnn(3, widths=((2, 3), (2, 4, 5))))
KINDS = ("conv3", "skip", "separable3", "conv1")
MIXED = LinenModel(mixed_cnn(3, widths=(2, 4, 4), kinds=KINDS))


def initialised(model, *inputs):
    params, stats = model.init(KEY, *inputs)
    return jax.tree.map(lambda p: p + 0.1 * jax.random.uniform(KEY, p.shape), (params, stats))


@pytest.fixture(scope="module")
def slim():
    params, stats = initialised(SLIM, X, jnp.zeros(2, int))
    assert stats == {}  # no averages: a sub-network is scored as it stands

    @jax.jit
    def logits(x, choice, key):
        return [SLIM.apply(params, {}, x, choice, train=train, key=key)[0].logits for train in (False, True)]

    return params, lambda x, *choice, key=KEY: logits(x, jnp.asarray(choice), key)


def test_a_masked_network_is_the_network_of_that_size(slim):
    params, logits = slim
    for choice, widths in (((0, 1), (2, 4)), ((1, 0), (3, 2))):
        small = slim_cnn(3, widths=widths)
        expected = LinenModel(small).apply(slim_params(params, widths), {}, X, train=False, key=KEY)[0].logits
        chex.assert_trees_all_close(logits(X, *choice)[0], expected, rtol=1e-4, atol=1e-5)
        chex.assert_trees_all_equal_shapes(jax.eval_shape(small.init, KEY, X)["params"], slim_params(params, widths))


def test_minus_one_is_the_last_width_and_in_training_a_random_one(slim):
    _, logits = slim
    chex.assert_trees_all_equal(logits(X, -1, -1)[0], logits(X, 1, 2)[0])
    every = {logits(X, i, j)[1].tobytes(): (i, j) for i in range(2) for j in range(3)}
    drawn = [every[logits(X, -1, -1, key=jax.random.key(i))[1].tobytes()] for i in range(40)]
    assert set(drawn) == {(i, j) for i in range(2) for j in range(3)}
    assert logits(X, 0, -1, key=jax.random.key(3))[1].tobytes() in {b for b, (i, _) in every.items() if i == 0}


def test_the_gradient_of_a_narrow_network_leaves_the_other_channels_alone(slim):
    params, _ = slim
    choice = jnp.array([0, 0])
    gradient = jax.grad(lambda p: (SLIM.apply(p, {}, X, choice, train=True, key=KEY)[0].logits ** 2).sum())(params)
    kernel = np.asarray(gradient["block1"]["conv"]["kernel"])
    assert (kernel[:, :, 2:] == 0).all() and (kernel[..., 2:] == 0).all() and kernel[:, :, :2, :2].any()
    assert not np.asarray(gradient["head"]["kernel"])[2:].any()


def test_an_example_is_normalised_by_itself(slim):
    _, logits = slim
    chex.assert_trees_all_close(logits(X, 1, 2)[0][:1], logits(X.at[1:].set(9.0), 1, 2)[0][:1], rtol=1e-5)


def test_a_mixture_with_one_weight_is_that_operation_alone():
    params, stats = initialised(MIXED, X, jnp.zeros((2, 4)))
    apply = jax.jit(lambda w: MIXED.apply(params, stats, X, w, train=False, key=KEY, taps=("*",))[0])
    for chosen in (("conv3", "skip"), ("separable3", "conv1")):
        weights = jnp.asarray([[float(k == kind) for k in KINDS] for kind in chosen])
        small = LinenModel(mixed_cnn(3, widths=(2, 4, 4), kinds=tuple((k,) for k in chosen)))
        small_stats = {name: mixed_variables(collection, chosen) for name, collection in stats.items()}
        expected = small.apply(mixed_variables(params, chosen), small_stats, X, train=False, key=KEY)[0].logits
        chex.assert_trees_all_close(apply(weights).logits, expected, rtol=1e-4, atol=1e-5)
    outputs = apply(jnp.full((2, 4), 0.25))
    assert outputs.features["block0"].shape == (4, 4, 4, 2) and outputs.features["block1"].shape == (4, 2, 2, 4)
    each = [outputs.features[f"block2/{kind}"] for kind in KINDS]
    chex.assert_trees_all_close(outputs.features["block2"], sum(each) / 4, rtol=1e-5, atol=1e-6)


def test_costs_are_those_of_the_networks():
    slim_space = space_of(SLIM, (4, 4, 1), "parameters")
    flops = space_of(SLIM, (4, 4, 1), "flops")
    for choice, widths in (((0, 0), (2, 2)), ((1, 2), (3, 5))):
        params = jax.eval_shape(slim_cnn(3, widths=widths).init, KEY, X)["params"]
        assert slim_space.cost(choice) == sum(p.size for p in jax.tree.leaves(params))
        assert flops.cost(choice) == 2 * (9 * widths[0] * 16 + 9 * widths[0] * widths[1] * 4 + widths[1] * 3)
    mixed_space = space_of(MIXED, (4, 4, 1), "parameters")
    table, fixed = mixed_space.table(), mixed_space.cost((0, 0, 0))
    for choice in ((0, 0, 3), (0, 2, 1), (0, 1, 1)):
        kinds = tuple((KINDS[k],) for k in choice[1:])
        params = jax.eval_shape(mixed_cnn(3, widths=(2, 4, 4), kinds=kinds).init, KEY, X)["params"]
        assert mixed_space.cost(choice) == sum(p.size for p in jax.tree.leaves(params))
        assert mixed_space.cost(choice) == fixed + table[[0, 1], choice[1:]].sum()
    assert slim_space.options == (("2", "3"), ("2", "4", "5")) and mixed_space.options == (("conv3",), KINDS, KINDS)


def test_latency_is_the_sum_of_measured_layers(monkeypatch):
    assert operation_cost("conv3", 2, 3, 4, 4, "latency") > 0
    assert operation_cost("skip", 2, 3, 4, 4, "latency") == 0
    monkeypatch.setattr(
        supernet_costs, "latency", lambda operation, i, o, h, w: {"head": 7.0}.get(operation, i * o * h)
    )
    assert space_of(SLIM, (4, 4, 1), "latency").cost((1, 1)) == 3 * 4 + 3 * 4 * 2 + 7


def test_alpha_starts_even():
    alpha = architecture_weights(space_of(MIXED, (4, 4, 1), "flops"))
    params, _ = alpha.init(KEY)
    weights = alpha.apply(params, {}, train=True, key=KEY)[0].logits
    np.testing.assert_allclose(weights, np.full((2, 4), 0.25))


def test_bad_networks_are_refused():
    for build, kwargs, message in (
        (slim_cnn, dict(widths=((4, 2), 4)), "positive and rise"),
        (slim_cnn, dict(widths=((), 4)), "positive and rise"),
        (mixed_cnn, dict(kinds=("conv3", "con1")), "no operation 'con1'. Did you mean 'conv1'"),
        (mixed_cnn, dict(widths=(8, 4), kinds=("conv3",)), "do not fall"),
        (mixed_cnn, dict(widths=(4, 4, 4), kinds=(("conv3",),)), "2 blocks mix"),
    ):
        with pytest.raises(ValueError, match=message):
            build(3, **kwargs)
    for model in (SLIM, MIXED):
        with pytest.raises(ValueError, match="as second input"):
            model.init(KEY, X)
    with pytest.raises(ValueError, match="no cost 'parameter'. Did you mean 'parameters'"):
        space_of(SLIM, (4, 4, 1), "parameter")
    with pytest.raises(ValueError, match="Costs exist for .* not of Net"):
        space_of(toy.net(), (4, 4, 1), "flops")
