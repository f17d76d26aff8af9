"""Encoder-decoders: cached decoding against the full forward, padding of the source, beams."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.models.adapters import LinenModel, tap_shapes
from kd_jax.models.language import seq2seq
from kd_jax.models.language.beam_search import beam_search
from kd_jax.models.language.generation import generate

KEY = jax.random.key(0)
SIZES = {"width": 16, "depth": 2, "heads": 4, "kv_heads": 2, "source_depth": 1, "hidden": 16}
SOURCE = jnp.asarray([[3, 4, 5, 6], [7, 2, 0, 0]])
MASK = jnp.asarray([[True] * 4, [True, True, False, False]])


@pytest.mark.parametrize("scan", [False, True])
def test_cached_decoding_beams_and_padding(scan):
    module = seq2seq.seq2seq(7, 9, **SIZES, scan=scan, qk_norm=scan)
    params = jax.jit(lambda key: module.init(key, SOURCE, SOURCE)["params"])(KEY)
    params = jax.tree.map(lambda x: x * 8 if x.ndim > 1 else x, params)
    target = jax.random.randint(KEY, (2, 5), 0, 7)
    network = seq2seq.decoding(module)

    @jax.jit
    def run(params, source):
        full = module.apply({"params": params}, source, target, MASK)
        cache, steps = seq2seq.encoded(module, params, source, MASK, 6), []
        for i in range(5):
            logits, cache = network.step(params, target[:, i : i + 1], cache, None, i % 2 == 0)
            steps.append(logits)
        begin, options = jnp.ones((2, 1), jnp.int32), {"length": 5, "end": 0}
        cache = seq2seq.encoded(module, params, source, MASK, 6)
        greedy = generate(network, params, begin, None, KEY, temperature=0, cache=cache, **options)
        beams = [beam_search(network, params, begin, None, beams=n, cache=cache, **options) for n in (1, 3)]
        return full, jnp.concatenate(steps, 1), greedy, *beams

    full, steps, greedy, one, three = run(params, SOURCE)
    assert full.std() > 0.3
    np.testing.assert_allclose(steps, full, atol=2e-5)
    np.testing.assert_array_equal(one.tokens[:, 0], greedy.tokens)
    assert (three.scores[:, 0] >= one.scores[:, 0] - 1e-5).all()
    padded_otherwise = run(params, jnp.where(MASK, SOURCE, 8))
    np.testing.assert_allclose(padded_otherwise[0], full, atol=2e-5)
    assert (jnp.abs(run(params, SOURCE + 1)[0] - full).max((1, 2)) > 0.1).all(), "the source is read"


def test_taps_and_what_generation_needs():
    model = LinenModel(seq2seq.seq2seq(7, 9, **SIZES))
    shapes = tap_shapes(model, SOURCE, SOURCE[:, :3])
    assert shapes["memory"].shape == (2, 4, 16) and shapes["decoder/final"].shape == (2, 3, 16)
    assert {"encoder/layer0", "decoder/layer1/cross/probabilities", "decoder/layer1/mlp"} <= set(shapes)
    assert shapes["decoder/layer1/cross/probabilities"].shape == (2, 4, 3, 4)
    run = partial(generate, seq2seq.decoding(model.module), {}, SOURCE, None, KEY, length=2)
    with pytest.raises(ValueError, match="cache=seq2seq.encoded"):
        run()
