"""The fused losses on a mesh: tokens over "data", classes over "model"; equal to one device, and nothing gathered."""

from __future__ import annotations

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from kd_jax.losses import vocabulary as voc

TOKENS, CLASSES = (8, 12), 64
LABELS = jnp.arange(96).reshape(TOKENS) % CLASSES


def draw(classes=CLASSES):
    rng = np.random.default_rng(0)
    shapes = ((*TOKENS, 6), (6, CLASSES), (CLASSES,), (*TOKENS, 10), (classes, 10))
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def placed(arrays, mesh):
    specs = (("data",), (None, "model"), ("model",), ("data",), ("model",))
    return [jax.device_put(x, NamedSharding(mesh, PartitionSpec(*s))) for x, s in zip(arrays, specs, strict=True)]


def program(fused, weights=1.0, **options):
    """Values and gradients by all arrays and the temperature, if it has one."""
    temperature = {} if fused is cross_entropy else {"temperature": jnp.float32(1.7)}

    def total(arrays, temperature):
        hs, ws, bias, ht, wt = arrays
        kwargs = dict(student_bias=bias, teacher_transposed=True, student_softcap=3.0, chunk=5) | options
        values = fused(hs, ws, ht, wt, where=LABELS % 5 > 0, **temperature, **kwargs)
        return jnp.sum(values * weights) / 70, values

    run = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    return lambda arrays: run.lower(arrays, temperature).compile(), temperature


def cross_entropy(hs, ws, ht, wt, *, teacher_transposed, **options):
    del ht, wt, teacher_transposed
    return voc.fused_cross_entropy_loss(hs, ws, LABELS, smoothing=0.1, **options)


LOSSES = {
    "kd": voc.fused_kd_loss,
    "jsd": functools.partial(voc.fused_jsd_loss, beta=0.3),
    "total_variation": voc.fused_total_variation_loss,
    "cross_entropy": cross_entropy,
}


def compare(values, expected):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5 * float(jnp.max(jnp.abs(y))) + 1e-12), values, expected
    )


@pytest.mark.parametrize("name", LOSSES)
def test_equal_to_one_device(name):
    make, temperature = program(LOSSES[name])
    expected = make(draw())(draw(), temperature)
    mesh = toy.mesh(2, 1, 4)
    with jax.set_mesh(mesh):
        make, _ = program(LOSSES[name], vocabulary_axis="model")
        arrays = placed(draw(), mesh)
        compiled = make(arrays)
        values = compiled(arrays, temperature)
    compare(jax.device_get(values), expected)
    assert not gathered_logits(compiled.as_text())


def test_a_mesh_of_explicit_axes_takes_the_fused_losses():
    """jax.make_mesh's default, with and without classes that are sharded."""
    make, temperature = program(voc.fused_kd_loss)
    expected = make(draw())(draw(), temperature)
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        for axis in (None, "model"):
            make, _ = program(voc.fused_kd_loss, vocabulary_axis=axis)
            compare(jax.device_get(make(placed(draw(), mesh))(placed(draw(), mesh), temperature)), expected)


def gathered_logits(text: str) -> list[str]:
    """Collectives that move an array with an axis of classes (of all or one device's) instead of summing it."""
    moves = r"(all-gather|all-to-all|collective-permute)(-start)?\("
    lines = [line for line in text.splitlines() if re.search(moves, line)]
    return [line for line in lines if re.search(rf"\b({CLASSES}|{CLASSES // 4})\b", line.split("metadata")[0])]


def test_a_gather_of_logits_would_be_seen():
    mesh = toy.mesh(2, 1, 4)
    with jax.set_mesh(mesh):
        hs, ws, *_ = placed(draw(), mesh)
        whole = jax.jit(lambda h, w: h @ w, out_shardings=NamedSharding(mesh, PartitionSpec("data")))
        assert gathered_logits(whole.lower(hs, ws).compile().as_text())


def test_values_of_the_others_are_equal_to_one_device():
    def values(axis=None):
        hs, ws, _, ht, wt = draw()
        options = dict(teacher_transposed=True, vocabulary_axis=axis)
        losses = (voc.fused_reverse_kl_loss, voc.fused_skew_kl_loss, voc.fused_skew_reverse_kl_loss)
        return [loss(hs, ws, ht, wt, **options) for loss in losses]

    expected = jax.jit(values)()
    with jax.set_mesh(toy.mesh(2, 1, 4)):
        compare(jax.device_get(jax.jit(values, static_argnums=0)("model")), expected)


def test_tokens_alone_and_cotangents_that_differ():
    """Every device has all classes; the sums are taken a second time, in the backward pass."""
    weights = jnp.cos(jnp.arange(96.0)).reshape(TOKENS)
    make, temperature = program(voc.fused_kd_loss, weights)
    expected = make(draw())(draw(), temperature)
    for sizes, axis in (((8,), None), ((2, 2, 2), "model")):
        mesh = toy.mesh(*sizes)
        with jax.set_mesh(mesh):
            make, _ = program(voc.fused_kd_loss, weights, vocabulary_axis=axis)
            arrays = placed(draw(), mesh)
            compare(jax.device_get(make(arrays)(arrays, temperature)), expected)


def test_sharded_vocabularies_of_two_sizes():
    hs, ws, bias, ht, wt = draw(classes=72)
    expected = voc.fused_kd_loss(hs, ws, ht, wt, teacher_transposed=True, vocabulary="slice")
    with jax.set_mesh(toy.mesh(2, 1, 4)):
        options = dict(teacher_transposed=True, vocabulary_axis="model")
        losses = jax.jit(lambda: voc.fused_kd_loss(hs, ws, ht, wt, vocabulary="slice", **options))()
        np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-6)
        with pytest.raises(ValueError, match="vocabulary_axis='modle'.*'model'"):
            voc.fused_jsd_loss(hs, ws, ht, wt[:64], teacher_transposed=True, vocabulary_axis="modle")
        with pytest.raises(ValueError, match='72 classes.*"pad" cannot be sharded'):
            voc.fused_jsd_loss(hs, ws, ht, wt, vocabulary="pad", **options)
        with pytest.raises(ValueError, match="63 classes.*4 ways over 'model'"):
            voc.fused_jsd_loss(hs, ws[:, :63], ht, wt[:63], **options)
        with pytest.raises(ValueError, match=r"84 tokens \(7, 12\).*8 ways"):
            voc.fused_jsd_loss(hs[:7, :], ws, ht[:7, :], wt[:64], teacher_transposed=True, token_axes=("data", "model"))
