"""Attention in blocks against the plain softmax: outputs and gradients, and memory that grows as the length."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.models.adapters import LinenModel
from kd_jax.models.language import blocked_attention, decoder_attention
from kd_jax.models.language import decoder_families as families
from kd_jax.models.language.blocked_attention import Seen, attend
from kd_jax.models.language.decoder import decoding
from kd_jax.models.language.decoder_attention import softmax_beside
from kd_jax.models.language.decoder_logits import softcapped

KEY = jax.random.key(0)
BATCH, HEADS, KV, WIDTH = 2, 4, 2, 8


def plain(q, k, v, visible, window, scale, softcap):
    q = q.reshape(BATCH, KV, HEADS // KV, *q.shape[2:])
    scores = softcapped(scale * jnp.einsum("bkgqd,bksd->bkgqs", q, k), softcap)
    mask = visible.mask(jnp.arange(k.shape[2]), window)[:, None, None]
    weights = jnp.where(mask, jax.nn.softmax(jnp.where(mask, scores, -1e30)), 0)  # 0 where nothing is seen
    return jnp.einsum("bkgqs,bksd->bkgqd", weights, v).reshape(BATCH, HEADS, -1, WIDTH).swapaxes(1, 2)


def seen_of(kind, length, keys):
    slots = jnp.arange(length)[None]
    segments = jnp.sort(jax.random.randint(KEY, (BATCH, length), 0, 4), axis=1)
    return {
        "causal": lambda: Seen(slots),
        "packed": lambda: Seen(slots, segments != 0, (segments, segments)),  # 0 at the left is padding
        "prompt": lambda: Seen(jnp.asarray([[3], [20]]) + slots, jnp.arange(keys)[None] >= jnp.asarray([[0], [9]])),
        "other": lambda: Seen(slots, jax.random.bernoulli(KEY, 0.7, (BATCH, keys)), causal=False),
    }[kind]()


@pytest.mark.parametrize("softcap", [0.0, 2.0])
@pytest.mark.parametrize(
    ("kind", "window"), [("causal", None), ("causal", 5), ("packed", 9), ("prompt", None), ("other", None)]
)
def test_outputs_and_gradients_are_those_of_the_softmax(kind, window, softcap, monkeypatch):
    """To 2e-5 in float32, with lengths that no block divides."""
    monkeypatch.setattr(blocked_attention, "BLOCK", 16)
    length, keys = 37, 37 if kind in ("causal", "packed") else 61
    shapes = [(BATCH, HEADS, length, WIDTH), (BATCH, KV, keys, WIDTH), (BATCH, KV, keys, WIDTH)]
    arrays = [jax.random.normal(jax.random.fold_in(KEY, i), s) for i, s in enumerate(shapes)]
    visible, weights = seen_of(kind, length, keys), jax.random.normal(KEY, (BATCH, length, HEADS, WIDTH))

    def run(fn, window, *arrays):
        out = fn(*arrays, visible, window, 0.3, softcap)
        return jnp.sum(out * weights), out

    results = [
        jax.jit(jax.value_and_grad(partial(run, fn), argnums=(1, 2, 3), has_aux=True))(w, *arrays)
        for fn, w in ((plain, window), (attend, window), (attend, window and jnp.int32(window)))
    ]
    for other in results[1:]:
        jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5), other, results[0])


@pytest.mark.parametrize("kind", ["causal", "prompt"])
def test_sinks_are_in_both_forms(kind, monkeypatch):
    """One more score a head, whose share goes nowhere: outputs, and gradients by it too."""
    monkeypatch.setattr(blocked_attention, "BLOCK", 16)
    keys = 37 if kind == "causal" else 61
    shapes = [(BATCH, HEADS, 37, WIDTH), (BATCH, KV, keys, WIDTH), (BATCH, KV, keys, WIDTH), (HEADS,)]
    arrays = [2 * jax.random.normal(jax.random.fold_in(KEY, i), s) for i, s in enumerate(shapes)]
    visible, weights = seen_of(kind, 37, keys), jax.random.normal(KEY, (BATCH, 37, HEADS, WIDTH))

    def square(q, k, v, sinks):
        k, v = (jnp.repeat(x, HEADS // KV, 1) for x in (k, v))
        scores = jnp.where(visible.mask(jnp.arange(keys), 9)[:, None], 0.3 * jnp.einsum("bhqd,bhsd->bhqs", q, k), -1e30)
        return jnp.einsum("bhqs,bhsd->bqhd", softmax_beside(scores, sinks), v)

    def run(fn, *arrays):
        out = fn(*arrays)
        return jnp.sum(out * weights), out

    forms = square, lambda q, k, v, sinks: attend(q, k, v, visible, 9, 0.3, sinks=sinks)
    results = [
        jax.jit(jax.value_and_grad(partial(run, fn), argnums=(0, 1, 2, 3), has_aux=True))(*arrays) for fn in forms
    ]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5), *results)


def network(**options):
    return families.gemma2(50, 16, 2, 4, kv_heads=2, hidden=16, attention_softcap=3.0, windows=(20, 0), **options)


@pytest.mark.parametrize("options", [{}, {"scan": True}, {"scan": True, "remat": "nothing_saveable"}])
def test_a_network_in_blocks_is_the_network(options, monkeypatch):
    """Packed rows with padding at the end; logits, gradients and a cached prompt."""
    model = LinenModel(network(**options))
    tokens = jax.random.randint(KEY, (2, 50), 0, 50)
    segments = (jnp.arange(50)[None] // jnp.asarray([[18], [25]]) + 1) * (jnp.arange(50)[None] < 46)
    params, _ = model.init(KEY, tokens)

    def loss(params):
        logits = model.apply(params, {}, tokens, segments, train=False, key=KEY)[0].logits
        return jnp.mean(logits[:, :46] ** 2)

    def prompt(params):
        network = decoding(model.module)
        return network.step(params, tokens, network.start(params, 2, 60), segments > 0)[0][:, :46]

    expected = jax.jit(jax.value_and_grad(loss))(params), jax.jit(prompt)(params)
    monkeypatch.setattr(blocked_attention, "BLOCK", 16)
    monkeypatch.setattr(decoder_attention, "BLOCK", 16)
    in_blocks = jax.jit(lambda p: jax.value_and_grad(loss)(p))(params), jax.jit(lambda p: prompt(p))(params)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-5), in_blocks, expected)


def memory(length, taps=()):
    """Temporary bytes of a gradient, and the program."""
    model = LinenModel(families.llama(50, 16, 1, 2, hidden=16))
    tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
    params, _ = jax.eval_shape(model.init, KEY, tokens)

    def loss(params, tokens):
        outputs, _ = model.apply(params, {}, tokens, train=True, key=KEY, taps=(*taps, "final"))
        return outputs.features["final"].sum() + sum(outputs.features[tap].sum() for tap in taps)

    program = jax.jit(jax.grad(loss)).lower(params, tokens).compile()
    return program.memory_analysis().temp_size_in_bytes, program.as_text()


def test_memory_grows_as_the_length_and_scores_exist_where_a_term_reads_them():
    (short, _), (long, text) = memory(1024), memory(4096)
    assert long < 5 * short and "4096,4096" not in text
    read = memory(1024, ("layer0/attention/scores",))
    assert "1024,1024" in read[1] and read[0] > 1024 * 1024 * 4


def test_sixteen_bits_stay_within_their_rounding():
    shapes = [(BATCH, HEADS, 300, WIDTH), (BATCH, KV, 300, WIDTH), (BATCH, KV, 300, WIDTH)]
    arrays = [jax.random.normal(jax.random.fold_in(KEY, i), s) for i, s in enumerate(shapes)]
    visible = Seen(jnp.arange(300)[None])
    exact = jax.jit(plain, static_argnums=(4, 5, 6))(*arrays, visible, None, 0.3, 0.0)
    low = jax.jit(attend, static_argnums=(4, 5, 6))(*(x.astype(jnp.bfloat16) for x in arrays), visible, None, 0.3, 0.0)
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(jnp.float32), exact, atol=3e-2)
