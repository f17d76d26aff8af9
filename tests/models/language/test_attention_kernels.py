"""Kernels of accelerators: when they are called, and that they compute the attention of the plain forms."""

from __future__ import annotations

from functools import partial

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.models.adapters import LinenModel
from kd_jax.models.language import attention_kernels, decoder_attention
from kd_jax.models.language import decoder_families as families
from kd_jax.models.language.attention_kernels import with_splash
from kd_jax.models.language.blocked_attention import Seen, attend

KEY = jax.random.key(0)
BATCH, HEADS, KV, LENGTH, WIDTH = 2, 4, 2, 150, 16


def test_a_gpu_takes_cudnn_where_it_computes_the_same(monkeypatch):
    """Which call is made, and that it is the same attention in JAX's own form; no GPU runs here."""
    real, calls = jax.nn.dot_product_attention, []

    def called(*arrays, implementation, **options):
        calls.append((implementation, options))
        return real(*arrays, implementation="xla", **options)

    model = LinenModel(families.mistral(50, 16, 1, 2, hidden=16, windows=(100,), dtype="bfloat16"))
    tokens = jax.random.randint(KEY, (1, 300), 0, 50)
    params, _ = model.init(KEY, tokens)

    def run(*inputs):
        return model.apply(params, {}, *inputs, train=False, key=KEY)[0].logits

    expected = run(tokens)
    monkeypatch.setattr(jax.nn, "dot_product_attention", called)
    monkeypatch.setattr(attention_kernels.jax, "default_backend", lambda: "gpu")
    np.testing.assert_allclose(run(tokens), expected, atol=2e-2)
    assert [(kind, options["local_window_size"]) for kind, options in calls] == [("cudnn", (99, 0))]
    run(tokens, jnp.ones((1, 300), jnp.int32))
    assert len(calls) == 1, "segments need the mask of the square, which cuDNN is not given"


def arrays(dtype=jnp.float32):
    shapes = [(BATCH, HEADS, LENGTH, WIDTH), *[(BATCH, KV, LENGTH, WIDTH)] * 2]
    return [jax.random.normal(jax.random.fold_in(KEY, i), s, dtype) for i, s in enumerate(shapes)]


def segments_of(packed):
    """Two texts and padding at the end, in places that no block begins at."""
    if not packed:
        return None
    return (jnp.arange(LENGTH)[None] // jnp.asarray([[70], [90]]) + 1) * (jnp.arange(LENGTH)[None] < 140)


def value_and_gradients(attention, *inputs):
    weights = jax.random.normal(KEY, (BATCH, LENGTH, HEADS, WIDTH))

    def run(*inputs):
        out = attention(*inputs)
        return jnp.sum(out * weights), out

    return jax.jit(jax.value_and_grad(run, argnums=(0, 1, 2), has_aux=True))(*inputs)


@pytest.mark.parametrize(
    ("packed", "window", "softcap"), [(False, None, 0.0), (False, 9, 0.0), (True, None, 2.0), (True, 40, 0.0)]
)
def test_splash_computes_attention_in_blocks(packed, window, softcap):
    """Interpreted: outputs and gradients to 2e-5 in float32, of a length that no block divides, heads sharing keys."""
    segments = segments_of(packed)
    visible = Seen(jnp.arange(LENGTH)[None], *(() if segments is None else (segments != 0, (segments, segments))))
    expected = value_and_gradients(lambda *qkv: attend(*qkv, visible, window, 0.3, softcap), *arrays())
    splash = partial(with_splash, segments=segments, window=window, scale=0.3, softcap=softcap, interpret=True)
    got = value_and_gradients(splash, *arrays())
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5), got, expected)


def test_splash_on_a_mesh_is_that_of_one_device():
    """Rows over two axes, heads over a third; the batch or the heads alone where they alone divide."""
    splash = partial(with_splash, segments=segments_of(True), window=None, scale=0.3, interpret=True)
    expected = value_and_gradients(splash, *arrays())
    for shape in ((2, 1, 2), (1, 2, 1), (4, 1, 2), (1, 1, 8)):
        types = (jax.sharding.AxisType.Auto,) * 3
        with jax.set_mesh(
            jax.make_mesh(shape, ("data", "fsdp", "model"), types, devices=jax.devices()[: np.prod(shape)])
        ):
            got = value_and_gradients(splash, *arrays())
        jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5), got, expected)


def test_a_tpu_takes_splash_where_it_computes_the_same(monkeypatch):
    """Which networks call it, that theirs are the logits of the blocks, and not for a cache; no TPU runs here."""
    calls = []

    def called(*inputs):
        calls.append(inputs[3:])
        return with_splash(*inputs, interpret=True)

    model = LinenModel(families.mistral(50, 16, 1, 2, hidden=16, windows=(100,), dtype="bfloat16"))
    tokens = jax.random.randint(KEY, (1, 300), 0, 50)
    params, _ = model.init(KEY, tokens)

    def run(*inputs):
        return model.apply(params, {}, *inputs, train=False, key=KEY)[0].logits

    packed = (jnp.arange(300)[None] // 110 + 1) * (jnp.arange(300)[None] < 290)
    expected = run(tokens), run(tokens, packed)[:, :290]
    monkeypatch.setattr(decoder_attention, "with_splash", called)
    monkeypatch.setattr(attention_kernels.jax, "default_backend", lambda: "tpu")
    got = run(tokens), run(tokens, packed)[:, :290]
    jax.tree.map(partial(np.testing.assert_allclose, atol=3e-2), got, expected)
    assert [(segments is None, window) for segments, window, *_ in calls] == [(True, 100), (False, 100)]
    cached = Seen(jnp.arange(300)[None], jnp.ones((1, 300), bool))
    assert not attention_kernels.fused_on_tpu(model.module.options, cached, None), "slots of a cache are not a text"
    whole = families.mistral(50, 16, 1, 2, hidden=16).options
    assert not attention_kernels.fused_on_tpu(whole, Seen(cached.slots), None), "float32 keeps its products"


def test_the_call_lowers_for_a_tpu():
    """As a kernel of the device, forward and backward, at the size of a head of Llama 3."""
    shapes = [jax.ShapeDtypeStruct((1, heads, 1024, 128), jnp.bfloat16) for heads in (4, 2, 2)]
    segments = jax.ShapeDtypeStruct((1, 1024), jnp.int32)

    def loss(q, k, v, segments):
        return with_splash(q, k, v, segments, 512, 0.1, 30.0).astype(jnp.float32).sum()

    program = jax.export.export(jax.jit(jax.grad(loss, argnums=(0, 1, 2))), platforms=["tpu"])(*shapes, segments)
    assert program.mlir_module().count("tpu_custom_call") >= 3
