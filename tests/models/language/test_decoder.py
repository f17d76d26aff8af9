"""Decoders: cached decoding against the full forward, packing, padding, scan and remat against plain layers."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_decoders import MODULES, SMALL, VOCABULARY, params_of, tokens_of

from kd_jax.models.adapters import LinenModel, tap_shapes
from kd_jax.models.language import decoder_families as families
from kd_jax.models.language.decoder import decoding
from kd_jax.models.language.decoder_parts import Options, segment_positions
from kd_jax.system import precision

KEY = jax.random.key(0)


@pytest.mark.parametrize("name", MODULES)
def test_cached_decoding_equals_the_full_forward(name):
    """Left-padded prompts of different lengths, then token by token, with slots of each row's own and common ones."""
    module, params, tokens = MODULES[name], params_of(MODULES[name]), tokens_of(3, 9)
    segments = jnp.asarray([[1] * 9, [0, 1, 1] + [1] * 6, [0, 0, 1] + [1] * 6])
    network = decoding(module)

    @jax.jit
    def full(params):
        return module.apply({"params": params}, tokens, segments)

    @partial(jax.jit, static_argnums=1)
    def cached(params, own_slots):
        cache = network.start(params, 3, 10)
        if own_slots:
            cache = type(cache)(cache.layers, cache.valid, jnp.zeros(3, jnp.int32))
        logits, cache = network.step(params, tokens[:, :3], cache, segments[:, :3] == 1)
        all_logits = [logits]
        for i in range(3, 9):
            logits, cache = network.step(params, tokens[:, i : i + 1], cache, None, True)
            all_logits.append(logits)
        return jnp.concatenate(all_logits, 1)

    expected = full(params)
    assert expected.shape == (3, 9, VOCABULARY) and expected.std() > 0.3
    for own_slots in (False, True):
        real = segments[..., None] != 0
        np.testing.assert_allclose(cached(params, own_slots) * real, expected * real, atol=2e-5)


def test_packed_texts_do_not_see_one_another_and_padding_changes_nothing():
    module, params = MODULES["gemma2"], params_of(MODULES["gemma2"])
    run = jax.jit(lambda tokens, segments=None: module.apply({"params": params}, tokens, segments))
    first, second = tokens_of(1, 4, 1), tokens_of(1, 3, 2)
    packed = jnp.concatenate([first, second, jnp.zeros((1, 2), jnp.int32)], 1)
    segments = jnp.asarray([[1] * 4 + [2] * 3 + [0] * 2])
    np.testing.assert_array_equal(segment_positions(segments)[0, :7], [0, 1, 2, 3, 0, 1, 2])
    logits = run(packed, segments)
    np.testing.assert_allclose(logits[:, :4], run(first), atol=2e-5)
    np.testing.assert_allclose(logits[:, 4:7], run(second), atol=2e-5)
    assert np.isfinite(logits).all() and not np.allclose(run(packed)[:, 4:7], run(second), atol=1e-2)


def test_scanned_and_rematerialised_layers_compute_the_same():
    plain = MODULES["gemma2"]
    params = params_of(plain)
    layers = [params[f"layer{i}"] for i in range(2)]
    stacked = {k: v for k, v in params.items() if not k.startswith("layer")}
    stacked["layers"] = jax.tree.map(lambda *x: jnp.stack(x), *layers)
    tokens = tokens_of(2, 6)

    def loss(module, params):
        return (module.apply({"params": params}, tokens) ** 2).mean()

    value, grads = jax.jit(jax.value_and_grad(partial(loss, plain)))(params)
    for changes in ({"scan": True}, {"scan": True, "remat": "nothing_saveable"}, {"remat": "dots_saveable"}):
        module = type(plain)(Options(**{**vars(plain.options), **changes}))
        same_params = stacked if "scan" in changes else params
        other, other_grads = jax.jit(jax.value_and_grad(partial(loss, module)))(same_params)
        np.testing.assert_allclose(other, value, rtol=1e-5)
        if "scan" in changes:
            unstacked = other_grads.pop("layers")
            other_grads |= {f"layer{i}": jax.tree.map(lambda x, i=i: x[i], unstacked) for i in range(2)}
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), other_grads, grads)


@pytest.mark.parametrize("name", ["gemma2", "qwen3"])  # qwen3 scans its layers, whose kernels are stacked
def test_teachers_in_fewer_bits(name):
    module, params, tokens = MODULES[name], params_of(MODULES[name]), tokens_of(4, 8)
    run = jax.jit(lambda p: jax.nn.log_softmax(module.apply({"params": precision.restored(p)}, tokens)))
    exact = run(params)
    entropy = -(jnp.exp(exact) * exact).sum(-1).mean()
    for dtype in ("bfloat16", "int8"):
        rounded = run(precision.stored(params, dtype))
        kl = (jnp.exp(exact) * (exact - rounded)).sum(-1).mean()
        assert 0 < kl < 1e-3 * entropy


def test_taps_and_dropout_and_types():
    model = LinenModel(families.llama(VOCABULARY, **SMALL, kv_heads=2, dropout=0.5, dtype="bfloat16"))
    x = jax.ShapeDtypeStruct((2, 5), jnp.int32)
    shapes = tap_shapes(model, x)
    assert {k: shapes[k].shape for k in ("layer1", "final", "layer0/mlp")} == {
        "layer1": (2, 5, 16),
        "final": (2, 5, 16),
        "layer0/mlp": (2, 5, 16),
    }
    assert shapes["layer0/attention/queries"].shape == (2, 4, 5, 4)
    assert shapes["layer0/attention/keys"].shape == (2, 2, 5, 4)
    assert shapes["layer0/attention/scores"].shape == (2, 4, 5, 5)
    assert shapes["layer1"].dtype == jnp.bfloat16 and shapes["layer0/attention/scores"].dtype == jnp.float32
    params, stats = model.init(KEY, jnp.zeros((2, 5), jnp.int32))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")} and not stats
    tokens = tokens_of(2, 5)
    run = jax.jit(lambda train, key: model.apply(params, {}, tokens, train=train, key=key)[0].logits, static_argnums=0)
    assert run(False, KEY).dtype == jnp.float32
    assert (run(True, KEY) != run(True, jax.random.key(1))).any() and (run(True, KEY) != run(False, KEY)).any()
    scanned = LinenModel(families.llama(VOCABULARY, **SMALL, scan=True))
    shapes = tap_shapes(scanned, x)
    assert shapes["layers"].shape == (2, 2, 5, 16) and shapes["layers/attention/scores"].shape == (2, 2, 4, 5, 5)


def test_the_head_stands_where_losses_look_for_it_and_unread_logits_cost_nothing():
    """A loss on the tap "final" and the head's matrix needs no logits: they are not computed."""
    module = families.llama(5000, width=8, depth=1, heads=2, hidden=8)
    tied = jax.eval_shape(families.qwen2(50, **SMALL).init, KEY, jnp.zeros((1, 2), jnp.int32))["params"]
    assert tied["embed"]["embedding"].shape == (50, 16) and "head" not in tied
    model, tokens = LinenModel(module), jnp.zeros((4, 64), jnp.int32)
    params, _ = jax.eval_shape(model.init, KEY, tokens)
    assert params["head"]["embedding"].shape == (5000, 8)

    def loss(params, with_logits):
        outputs, _ = model.apply(params, {}, tokens, train=True, key=KEY, taps=("final",))
        value = (outputs.features["final"] ** 2).mean() + params["head"]["embedding"][0].sum()
        return value + (outputs.logits.mean() if with_logits else 0), outputs

    def memory(with_logits):
        value_and_grad = jax.value_and_grad(partial(loss, with_logits=with_logits), has_aux=True)
        step = jax.jit(lambda params: value_and_grad(params)[1])
        return step.lower(params).compile().memory_analysis().temp_size_in_bytes

    logits = 4 * 64 * 5000 * 4
    assert memory(False) < logits / 4 and memory(True) > logits


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"heads": 3}, "width=16 is no multiple of heads=3"),
        ({"kv_heads": 3}, "no multiple of kv_heads=3"),
        ({"norm": "rsm"}, "Did you mean 'rms'"),
        ({"remat": "dots_savable"}, "Did you mean 'dots_saveable'"),
        ({"positions": "learned"}, "max_length"),
        ({"head_width": 5}, "even head_width"),
    ],
)
def test_bad_options_are_named(options, text):
    with pytest.raises(ValueError, match=text):
        families.llama(VOCABULARY, **{**SMALL, **options})


def test_too_many_tokens_for_learned_positions():
    module = MODULES["gpt2"]
    with pytest.raises(ValueError, match="max_length=12"):
        jax.eval_shape(module.init, KEY, jnp.zeros((1, 13), jnp.int32))
    with pytest.raises(ValueError, match="max_length=12"):
        decoding(module).start({}, 1, 13)
