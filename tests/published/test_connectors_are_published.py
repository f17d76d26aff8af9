"""Connectors begin and compute as the authors' do: first weights, number types; warm-ups rise by epoch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.config import compose, knowledge
from kd_jax.models import connectors, cross_layer, method_connectors

KEY = jax.random.key(0)


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def test_ofd_starts_normal_with_variance_2_over_the_teachers_channels():
    student, teacher = shape(2, 4, 4, 64), shape(2, 4, 4, 128)
    fields = compose("ofd")["ofd_stage3"]["connector"]
    model = connectors.conv1x1(student, teacher, **fields["kwargs"])
    params, _ = model.init(KEY, jnp.zeros(student.shape))
    kernel = np.asarray(params["dense"]["kernel"])
    assert kernel.std() == pytest.approx((2 / 128) ** 0.5, rel=0.05)
    assert np.abs(kernel).max() > 3 * kernel.std()  # not uniform, which ends at 1.7 of its deviations


def test_a_transposed_convolution_has_the_fan_in_of_its_outputs():
    """As torch.nn.ConvTranspose2d: the paraphraser's decoder, from 2 channels to 32 in its second layer."""
    model = method_connectors.factor_paraphraser(shape(2, 4, 4, 32), rate=1 / 16)
    params, _ = model.init(KEY, jnp.zeros((2, 4, 4, 32)))
    bounds = {name: float(np.abs(params[name]["kernel"]).max()) for name in ("encoder1", "decoder1")}
    assert params["encoder1"]["kernel"].shape[-2:] == (32, 2) and params["decoder1"]["kernel"].shape[-2:] == (2, 32)
    for name, bound in bounds.items():  # both from 32 channels of 9 values: the encoder's inputs, the decoder's outputs
        assert 0.97 * (9 * 32) ** -0.5 < bound <= (9 * 32) ** -0.5, name


BUILDERS = {
    "linear": (connectors.linear, [(4, 6), (4, 5)]),
    "conv1x1": (connectors.conv1x1, [(4, 4, 4, 6), (4, 4, 4, 5)]),
    "conv_regressor": (connectors.conv_regressor, [(4, 4, 4, 6), (4, 4, 4, 5)]),
    "simkd_projector": (method_connectors.simkd_projector, [(4, 4, 4, 6), (4, 4, 4, 5)]),
    "vid_regressor": (method_connectors.vid_regressor, [(4, 4, 4, 6), (4, 4, 4, 5)]),
    "factor_translator": (method_connectors.factor_translator, [(4, 4, 4, 6), (4, 4, 4, 5)]),
    "information_embedding": (method_connectors.information_embedding, [(4, 6), (4, 5)]),
}


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_connectors_compute_in_float32_or_in_the_wider_type_of_the_input(name, dtype):
    build, sizes = BUILDERS[name]
    with jax.enable_x64(True):
        inputs = jnp.ones(sizes[0], dtype)
        model = build(*(shape(*size, dtype=dtype) for size in sizes))
        params, stats = model.init(KEY, inputs)
        params = jax.tree.map(lambda x: x.astype(jnp.promote_types(dtype, jnp.float32)), params)
        out = jax.eval_shape(lambda: model.apply(params, stats, inputs, train=True, key=KEY)[0].logits)
    assert {x.dtype for x in jax.tree.leaves(out)} == {jnp.dtype("float64" if dtype == "float64" else "float32")}


def test_semantic_calibration_too():
    sizes = [(4, 4, 4, 6), (4, 4, 4, 5)]
    with jax.enable_x64(True):
        inputs = [jnp.ones(size, jnp.float64) for size in sizes]
        model = cross_layer.semantic_calibration(*(shape(*s) for s in (*sizes, sizes[1])), stages=1)
        params, stats = model.init(KEY, *inputs)
        params = jax.tree.map(lambda x: x.astype(jnp.float64), params)
        out = jax.eval_shape(lambda: model.apply(params, stats, *inputs, train=True, key=KEY)[0].logits)
    assert {x.dtype for x in jax.tree.leaves(out)} == {jnp.dtype("float64")}


@pytest.mark.parametrize(("method", "term", "first"), [("dkd", "kd", 1), ("review_kd", "review", 0)])
def test_warm_ups_rise_by_epoch(method, term, first):
    """Of 240 epochs of 10 steps: min(epoch / 20, 1), epochs counted from 1 by mdistiller, from 0 by ReviewKD."""
    fields = compose(method)
    weight = knowledge.make_terms(fields, total_steps=2400, examples=1)[term].weight
    for step in (0, 9, 10, 95, 199, 200, 2399):
        expected = fields[term]["weight"] * min((step // 10 + first) / 20, 1.0)
        assert float(weight(jnp.int32(step))) == pytest.approx(expected, rel=1e-6), step
