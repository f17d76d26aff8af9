"""Rounded weights and activations: the integers, their gradient, and the bytes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from kd_jax.models import quantised
from kd_jax.models.adapters import FunctionModel
from kd_jax.models.quantised import Quantised, pack, packed_bytes, rounded_params, step_sizes, unpack

KEY = jax.random.key(0)
KERNEL = jax.random.normal(KEY, (3, 3, 2, 5)) * jnp.array([[[[1e-3, 1.0, 2.0, 0.0, 50.0]]]])
X = jax.random.normal(jax.random.key(1), (6, toy.FEATURES))


def bits(weights, activations=32):
    return jnp.asarray([weights, activations], jnp.float32)


def applied(model, params, stats, x, *more):
    return jax.jit(lambda p, s, *x: model.apply(p, s, *x, train=False, key=KEY)[0].logits)(params, stats, x, *more)


@pytest.mark.parametrize("number", [2, 4, 8])
def test_weights_are_integers_times_the_step_with_the_least_error(number):
    top = 2 ** (number - 1) - 1
    step = np.asarray(step_sizes(KERNEL, number))
    assert step.shape == (1, 1, 1, 5)
    rounded = np.asarray(rounded_params({"kernel": KERNEL}, jnp.float32(number))["kernel"])
    codes = rounded / step
    np.testing.assert_allclose(codes, np.round(codes), atol=1e-4)
    assert np.abs(np.round(codes)).max() == top
    kernel = np.asarray(KERNEL, np.float64).reshape(-1, 5)
    for channel, largest in enumerate(np.abs(kernel).max(0)):
        steps = [(largest or 1.0) * cut / (top + 0.5) for cut in quantised.CUTS]
        errors = [
            ((kernel[:, channel] - s * np.clip(np.round(kernel[:, channel] / s), -top, top)) ** 2).sum() for s in steps
        ]
        error = ((kernel[:, channel] - rounded.reshape(-1, 5)[:, channel]) ** 2).sum()
        np.testing.assert_allclose(error, min(errors), rtol=1e-3, atol=1e-12)
    assert (rounded[..., 3] == 0).all()


def test_32_bits_change_nothing_and_the_gradient_passes_straight():
    params = {"kernel": KERNEL, "bias": jnp.arange(5.0)}
    chex.assert_trees_all_equal(rounded_params(params, jnp.float32(32)), params)
    weights = jax.tree.map(lambda x: jax.random.normal(KEY, x.shape), params)

    def value(params):
        rounded = rounded_params(params, jnp.float32(2))
        return sum(jax.tree.leaves(jax.tree.map(lambda a, b: (a * b).sum(), rounded, weights)))

    chex.assert_trees_all_close(jax.grad(value)(params), weights)


def test_kept_kernels_have_eight_bits_and_only_kernels_are_rounded():
    model = Quantised(toy.net(), keep="head")
    params, _ = model.init(KEY, X, bits(2))
    rounded = rounded_params(params, jnp.float32(2), keep="head")
    assert len(np.unique(rounded["hidden"]["kernel"][:, 0])) <= 3
    assert len(np.unique(rounded["head"]["kernel"][:, 0])) > 3
    assert rounded["hidden"]["bias"] is params["hidden"]["bias"]


def test_all_numbers_of_bits_are_one_program():
    model, traces = Quantised(toy.net(), activations=True), []
    params, stats = model.init(KEY, X, bits(8))

    @jax.jit
    def logits(bits):
        traces.append(1)
        return model.apply(params, stats, X, bits, train=False, key=KEY)[0].logits

    exact = applied(model.model, params, stats, X)
    errors = [float(jnp.abs(logits(bits(n, a)) - exact).max()) for n, a in ((32, 32), (8, 32), (8, 8), (4, 8), (2, 4))]
    assert len(traces) == 1 and errors[0] < 1e-6
    assert 0 < errors[1] < 0.05 and 0 < errors[2] < 0.1 and errors[1] < errors[3] < errors[4]


def test_activations_are_rounded_row_by_row_where_a_kernel_reads_them():
    x = X.at[0].mul(1000)
    rounded = quantised.rounded_input(x, jnp.float32(4))
    chex.assert_trees_all_equal(rounded[1:], quantised.rounded_input(x[1:], jnp.float32(4)))
    np.testing.assert_allclose(rounded, x, atol=float(jnp.abs(x).max()) / 14 + 1e-6)
    for row, values in zip(np.asarray(x), np.asarray(rounded), strict=True):
        codes = values / (np.abs(row).max() / 7)
        np.testing.assert_allclose(codes, np.round(codes), atol=1e-4)
    gradient = jax.grad(lambda x: (quantised.rounded_input(x, jnp.float32(4)) * X).sum())(x)
    chex.assert_trees_all_close(gradient, X)
    # Only the inputs of the two dense layers: what BatchNorm gets stays as the layer made it.
    model = Quantised(toy.net(), activations=True)
    params, stats = model.init(KEY, X, bits(32))
    outputs, _ = model.apply(params, stats, X, bits(32, 4), train=False, key=KEY, taps=("hidden",))
    by_hand = quantised.rounded_input(X, jnp.float32(4)) @ params["hidden"]["kernel"] + params["hidden"]["bias"][None]
    chex.assert_trees_all_close(outputs.features["hidden"], by_hand, rtol=1e-5)


@pytest.mark.parametrize("number", [2, 4, 8])
def test_packed_bytes_give_the_same_logits(number, tmp_path):
    model = Quantised(toy.net(width=5), keep="head")
    params, stats = model.init(jax.random.key(3), X, bits(8))
    params["hidden"]["kernel"] = params["hidden"]["kernel"].at[:, 1].set(0.0)
    packed = pack(params, number, keep="head")
    assert packed["hidden/kernel:codes"].dtype == np.uint8
    assert packed["hidden/kernel:codes"].size == -(-toy.FEATURES * 5 * number // 8)
    assert packed["head/kernel:codes"].size == 5 * toy.CLASSES
    floats = 4 * sum(x.size for x in jax.tree.leaves(params)) - 4 * 5 * (toy.FEATURES + toy.CLASSES)
    integers = packed["hidden/kernel:codes"].size + 5 * toy.CLASSES
    assert packed_bytes(params, number, keep="head") == floats + integers + 4 * (5 + toy.CLASSES)
    assert packed_bytes(params, 32) == 4 * sum(x.size for x in jax.tree.leaves(params))
    np.savez(tmp_path / "student.npz", **packed)
    shapes = jax.eval_shape(lambda: params)
    with np.load(tmp_path / "student.npz") as file:
        restored = unpack(file, shapes, number, keep="head")
    expected = applied(model, params, stats, X, bits(number))
    np.testing.assert_array_equal(expected, applied(model.model, restored, stats, X))


def test_what_cannot_be_rounded_is_said():
    model = Quantised(toy.net(), pattern="weight$")
    params, stats = model.init(KEY, X, bits(8))
    with pytest.raises(ValueError, match="No parameter matches 'weight\\$'.*hidden/kernel"):
        model.apply(params, stats, X, bits(8), train=False, key=KEY)
    with pytest.raises(ValueError, match="2, 4, 8 bits are packed into bytes, not of 3"):
        pack(params, 3)
    plain = FunctionModel(lambda key, x: {"kernel": jnp.ones((x.shape[1], 3))}, lambda p, x: x @ p["kernel"])
    weights = Quantised(plain)
    params, stats = weights.init(KEY, X, bits(8))
    assert weights.apply(params, stats, X, bits(2), train=False, key=KEY)[0].logits.shape == (6, 3)
    with pytest.raises(ValueError, match="where a Linen or NNX layer has a 'kernel'"):
        Quantised(plain, activations=True).apply(params, stats, X, bits(8, 8), train=False, key=KEY)


@pytest.mark.parametrize("number", [2, 4, 8])
def test_uncut_steps_and_integers_are_those_of_qwix(number):
    qwix = pytest.importorskip("qwix")
    kernel = KERNEL.at[..., 3].set(1.0)
    theirs = qwix.quantize(kernel, {2: "int2", 4: jnp.int4, 8: jnp.int8}[number], channelwise_axes=[3])
    step, top = step_sizes(kernel, number, cuts=(1.0,)), 2 ** (number - 1) - 1
    np.testing.assert_allclose(step, theirs.scale, rtol=1e-6)
    # qwix lets a negative largest weight take one integer more, -2^(bits - 1); here the integers are symmetric.
    np.testing.assert_array_equal(
        quantised.levels(kernel, step, number), np.clip(np.asarray(theirs.qvalue, np.float32), -top, top)
    )
