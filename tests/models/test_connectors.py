from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_values import filled

from kd_jax.models.connectors import auto, conv1x1, conv_regressor, linear, resize
from kd_jax.models.method_connectors import (
    embed_pair,
    factor_paraphraser,
    factor_translator,
    mgd_generator,
    review_kd_fusion,
    simkd_projector,
    vid_regressor,
)
from kd_jax.types import Model

KEY = jax.random.key(0)


def shape(*dims):
    return jax.ShapeDtypeStruct(dims, jnp.float32)


def value(s, seed=1):
    return jax.random.normal(jax.random.key(seed), s.shape)


def run(model, *inputs, train=True, key=KEY, taps=()):
    assert isinstance(model, Model)

    params, stats = filled(model, *inputs)
    outputs, new = jax.jit(partial(model.apply, train=train, key=key, taps=taps))(params, stats, *inputs)
    assert jax.tree.structure(stats) == jax.tree.structure(new)
    return outputs, params


MAP, VECTOR, TOKENS = shape(2, 8, 8, 3), shape(2, 5), shape(2, 4, 5)


@pytest.mark.parametrize(
    ("builder", "student", "teacher"),
    [
        (linear, VECTOR, shape(2, 7)),
        (linear, TOKENS, shape(2, 4, 6)),
        (conv1x1, MAP, shape(2, 8, 8, 6)),
        (conv1x1, MAP, shape(2, 4, 4, 6)),
        (conv1x1, MAP, shape(2, 3, 12, 6)),
        (conv_regressor, MAP, shape(2, 4, 4, 6)),
        (conv_regressor, MAP, shape(2, 16, 16, 6)),
        (conv_regressor, MAP, shape(2, 8, 8, 6)),
        (conv_regressor, MAP, shape(2, 5, 6, 6)),
        (auto, MAP, MAP),
        (auto, MAP, shape(2, 4, 4, 6)),
        (auto, VECTOR, shape(2, 9)),
        (auto, TOKENS, TOKENS),
        (simkd_projector, MAP, shape(2, 4, 4, 6)),
        (mgd_generator, MAP, shape(2, 4, 4, 6)),
        (factor_translator, MAP, shape(2, 4, 4, 6)),
    ],
)
def test_result_has_the_teachers_shape(builder, student, teacher):
    model = builder(student, teacher)
    params, stats = jax.eval_shape(model.init, KEY, student)
    out = jax.eval_shape(lambda p, s, x: model.apply(p, s, x, train=True, key=KEY)[0].logits, params, stats, student)
    assert out.shape == teacher.shape and out.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((params, stats)))


@pytest.mark.parametrize(
    ("builder", "student", "teacher", "message"),
    [
        (linear, MAP, shape(2, 4, 4, 3), "last axis only"),
        (linear, VECTOR, MAP, "last axis only"),
        (conv1x1, VECTOR, MAP, r"conv1x1 connects maps .*student \(2, 5\)"),
        (conv_regressor, shape(2, 3, 3, 4), MAP, "conv1x1 resizes"),
        (resize, VECTOR, MAP, "resize connects maps"),
        (auto, VECTOR, MAP, "last axis only"),
        (simkd_projector, VECTOR, MAP, "connects maps"),
        (vid_regressor, VECTOR, MAP, "two maps or two vectors"),
    ],
)
def test_shapes_that_do_not_fit(builder, student, teacher, message):
    with pytest.raises(ValueError, match=message):
        builder(student, teacher)


def test_conv1x1_is_exact_on_known_values():
    model = conv1x1(shape(1, 4, 4, 1), shape(1, 2, 2, 1))
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    params = {"dense": {"kernel": jnp.array([[2.0]]), "bias": jnp.array([1.0])}}
    out = model.apply(params, {}, x, train=True, key=KEY)[0].logits
    np.testing.assert_allclose(out[0, :, :, 0], 2 * np.array([[2.5, 4.5], [10.5, 12.5]]) + 1)


def test_resize_bins_overlap_when_sizes_do_not_divide():
    out, params = run(resize(shape(1, 5, 1, 1), shape(1, 3, 1, 9)), jnp.arange(5.0).reshape(1, 5, 1, 1))
    assert params == {}
    np.testing.assert_allclose(out.logits[0, :, 0, 0], [0.5, 2.0, 3.5])
    up, _ = run(resize(shape(1, 2, 1, 1), shape(1, 4, 1, 9)), jnp.array([0.0, 4.0]).reshape(1, 2, 1, 1))
    np.testing.assert_allclose(up.logits[0, :, 0, 0], [0.0, 1.0, 3.0, 4.0])


def test_conv_regressor_and_norm_of_conv1x1():
    out, params = run(conv_regressor(MAP, shape(2, 4, 4, 6)), value(MAP))
    assert params["conv"]["kernel"].shape == (3, 3, 3, 6)
    assert (out.logits >= 0).all() and (out.logits == 0).any()
    out, params = run(conv1x1(MAP, shape(2, 8, 8, 6), norm=True), value(MAP))
    assert set(params["dense"]) == {"kernel"}
    np.testing.assert_allclose(out.logits.mean((0, 1, 2)), params["norm"]["bias"], atol=1e-5)
    np.testing.assert_allclose(out.logits.std((0, 1, 2)), params["norm"]["scale"], rtol=1e-3)


@pytest.mark.parametrize(("student", "teacher"), [(MAP, shape(2, 4, 4, 6)), (VECTOR, shape(2, 6))])
def test_vid_regressor(student, teacher):
    out, params = run(vid_regressor(student, teacher), value(student))
    mean, raw = out.logits
    assert mean.shape == teacher.shape and raw.shape == (6,)
    initial = vid_regressor(student, teacher).init(KEY, value(student))[0]["raw_scale"]
    np.testing.assert_allclose(jax.nn.softplus(initial) + 1e-5, 5.0, rtol=1e-6)
    assert params["dense2"]["kernel"].shape == (6, 6) and set(params["dense0"]) == {"kernel"}


def test_review_kd_fusion():
    students = shape(2, 8, 8, 3), shape(2, 4, 4, 4), shape(2, 5)
    teachers = shape(2, 8, 8, 6), shape(2, 2, 2, 7), shape(2, 9)
    model = review_kd_fusion(*students, *teachers, width=4)

    params, stats = filled(model, *students)
    outputs = jax.jit(lambda *values: model.apply(params, stats, *values, train=False, key=KEY)[0].logits)
    shallow, middle, deep = (value(s, i) for i, s in enumerate(students))
    out = outputs(shallow, middle, deep)
    assert [o.shape for o in out] == [t.shape for t in teachers]
    assert "attention2" not in params and params["attention0"]["kernel"].shape == (8, 2)
    # What is deep reaches the shallow results, and not the other way round.
    assert not np.allclose(outputs(shallow, middle, deep + 1)[0], out[0])
    np.testing.assert_array_equal(outputs(shallow + 1, middle, deep)[1], out[1])
    with pytest.raises(ValueError, match="n maps of the student"):
        review_kd_fusion(*students)


@pytest.mark.parametrize("mask", ["channel", "pixel"])
def test_mgd_masks_in_training_from_the_key(mask):
    x = value(shape(2, 4, 4, 16))
    model, everything = (mgd_generator(x, x, ratio=ratio, mask=mask) for ratio in (0.5, 1.0))

    params, stats = filled(model, x)

    @jax.jit
    def outputs(x, key):
        masked = model.apply(params, stats, x, train=True, key=key)[0].logits
        whole, nothing = (model.apply(params, stats, v, train=False, key=key)[0].logits for v in (x, 0 * x))
        return masked, whole, nothing, everything.apply(params, stats, x, train=True, key=key)[0].logits

    masked, whole, nothing, all_masked = outputs(x, KEY)
    assert (masked != whole).any() and (masked != outputs(x, jax.random.key(2))[0]).any()
    np.testing.assert_array_equal(masked, outputs(x, KEY)[0])
    np.testing.assert_allclose(all_masked, nothing, rtol=1e-6)
    with pytest.raises(ValueError, match="'channel' or 'pixel'"):
        mgd_generator(MAP, MAP, mask="row")


def test_factor_paraphraser_and_translator_meet():
    teacher = shape(2, 4, 4, 6)
    out, _ = run(factor_paraphraser(teacher), value(teacher), taps=("factor",))
    factor = out.features["factor"]
    assert out.logits.shape == teacher.shape and factor.shape == (2, 4, 4, 3)
    translated, _ = run(factor_translator(MAP, shape(*factor.shape)), value(MAP))
    assert translated.logits.shape == factor.shape


def test_embed_pair():
    student, teacher = MAP, shape(2, 7)
    out, params = run(embed_pair(student, teacher, dim=4), value(student), value(teacher))
    for x in out.logits:
        assert x.shape == (2, 4)
        np.testing.assert_allclose((x * x).sum(-1), 1, rtol=1e-5)
    assert params["student"]["kernel"].shape == (192, 4) and params["teacher"]["kernel"].shape == (7, 4)
    raw, _ = run(embed_pair(student, teacher, dim=4, normalize=False), value(student), value(teacher))
    assert not np.allclose((raw.logits[0] ** 2).sum(-1), 1)

    def loss(x):
        model = embed_pair(student, teacher, dim=4)
        zeros = jax.tree.map(jnp.zeros_like, params)
        return model.apply(zeros, {}, x, value(teacher), train=True, key=KEY)[0].logits[0].sum()

    assert np.isfinite(jax.jit(jax.grad(loss))(value(student))).all(), "zero embeddings must not make NaN gradients"


@pytest.mark.parametrize(("size", "expected"), [(16, 8), (4, 4)])
def test_the_smaller_map_counts(size, expected):
    """A smaller map of the student is not enlarged: the loss pools the teacher's."""
    teacher = shape(2, size, size, 6)
    for builder in (simkd_projector, vid_regressor):
        out, _ = run(builder(MAP, teacher), value(MAP))
        (first, *_) = out.logits if isinstance(out.logits, tuple) else (out.logits,)
        assert first.shape == (2, expected, expected, 6)
