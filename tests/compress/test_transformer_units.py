"""Pruned transformers: masked and sliced agree, scores say what they promise, KV groups stay whole."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_decoders
from flax import traverse_util
from masked_units import masked

from kd_jax.compress.heads import grouped, highest, staying
from kd_jax.compress.plan import network_of
from kd_jax.compress.transformer_units import sizes_of, sliced, smaller, target, unscanned
from kd_jax.compress.transformers import prune
from kd_jax.compress.unit_scores import scores
from kd_jax.models.adapters import LinenModel
from kd_jax.models.language import decoder_families as families
from kd_jax.models.language.bert import encoder
from kd_jax.models.vision.vit import vit
from kd_jax.types import Outputs

KEY = jax.random.key(0)
SIZES = dict(width=16, depth=3, heads=4, hidden=12)
TOKENS = np.array([[5, 6, 7, 8, 9], [5, 6, 7, 0, 0]], np.int32)
MODULES = {
    "llama": families.llama(11, **SIZES, kv_heads=2),
    "llama_scan": families.llama(11, **SIZES, kv_heads=4, scan=True, tied=True),
    "qwen3": families.qwen3(11, **SIZES, kv_heads=1, qkv_bias=True, head_width=6),
    "gpt2": families.gpt2(11, **SIZES, max_length=12),
    "bert": encoder(11, **SIZES, positions=12, head="classes", num_classes=3, dropout=0.0),
    "sentence": encoder(11, **SIZES, positions=12, head="sentence", num_classes=3, dropout=0.0),
    "mlm": encoder(11, **SIZES, positions=12, head="tokens", dropout=0.0),
}
HEADS = {"llama": dict(heads=2), "llama_scan": dict(heads=3), "qwen3": dict(heads=2), "gpt2": dict(heads=1)}
LEFT = {name: {**HEADS.get(name, dict(heads=3)), "hidden": 7, "layers": 2, "width": 10} for name in MODULES}


@functools.cache
def params_of(name):
    module = MODULES[name]
    params = jax.jit(lambda key: module.init(key, jnp.asarray(TOKENS), train=False)["params"])(KEY)
    rng = np.random.default_rng(0)  # no two units alike, and norms with scales and biases of their own
    return jax.tree.map(lambda x: 4 * x + 0.1 * rng.normal(size=x.shape).astype(np.float32), params)


def cross_entropy(outputs, batch):
    logits = jax.nn.log_softmax(outputs.logits)
    return -jnp.take_along_axis(logits, batch["label"][..., None], -1).mean()


def batches_of(name, count=2):
    rng = np.random.default_rng(1)
    shape = (3,) if name in ("bert", "sentence") else (3, 5)
    classes = 3 if name in ("bert", "sentence") else 11
    batches = []
    for _ in range(count):
        tokens = jnp.asarray(rng.integers(1, 11, (3, 5)), jnp.int32)
        mask = jnp.asarray([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]], jnp.int32)
        batches.append(((tokens, mask), {"label": jnp.asarray(rng.integers(0, classes, shape), jnp.int32)}))
    return batches


@pytest.mark.parametrize("name", MODULES)
def test_masked_and_sliced_agree(name):
    module, params = MODULES[name], params_of(name)
    step = prune(network_of(LinenModel(module), (jnp.asarray(TOKENS),)), **LEFT[name], score="magnitude")
    measured = step.scorer(params, {}, batches=[], loss=None)
    stay = staying(sizes_of(module), target(module, LEFT[name]), measured)
    less, stats = step.transform(params, {}, measured)
    assert stats == {}
    shapes = jax.eval_shape(step.model.init, KEY, jnp.asarray(TOKENS))[0]
    assert jax.tree.map(lambda x: x.shape, less) == jax.tree.map(lambda x: x.shape, shapes)
    plain, whole = unscanned(module, params)
    with masked(plain, stay):
        expected = plain.apply({"params": whole}, TOKENS, train=False)
    answer = step.model.apply(less, {}, TOKENS, train=False, key=KEY)[0].logits
    np.testing.assert_allclose(answer, expected, atol=1e-5, rtol=1e-5)
    assert np.abs(answer - module.apply({"params": params}, TOKENS, train=False)).max() > 1e-3


@pytest.mark.parametrize("name", ["llama_scan", "bert"])
def test_slicing_works_on_shapes_alone(name):
    step = prune(network_of(LinenModel(MODULES[name]), (jnp.asarray(TOKENS),)), **LEFT[name])
    measured = jax.eval_shape(
        lambda p: step.scorer(p, {}, batches=batches_of(name), loss=cross_entropy), params_of(name)
    )
    less = jax.eval_shape(lambda p, s: step.transform(p, {}, s)[0], params_of(name), measured)
    shapes = jax.eval_shape(step.model.init, KEY, jnp.asarray(TOKENS))[0]
    assert jax.tree.map(lambda x: x.shape, less) == jax.tree.map(lambda x: x.shape, shapes)


def test_heads_go_evenly_from_kv_groups_or_with_them():
    now = sizes_of(families.llama(11, width=16, depth=1, heads=8, hidden=8, kv_heads=4))
    scores_of_heads = jnp.asarray([1.0, 9.0, 8.0, 2.0, 3.0, 3.5, 0.0, 0.5])
    module = families.llama(11, width=16, depth=1, heads=8, hidden=8, kv_heads=4)
    groups, heads = grouped(scores_of_heads, now, target(module, {"heads": 4}))
    assert groups.tolist() == [0, 1, 2, 3] and heads.tolist() == [1, 2, 5, 7]
    groups, heads = grouped(scores_of_heads, now, target(module, {"heads": 4, "kv_heads": 2}))
    assert groups.tolist() == [0, 1] and heads.tolist() == [0, 1, 2, 3]
    groups, heads = grouped(scores_of_heads, now, target(module, {"heads": 6}))
    assert groups.tolist() == [0, 1, 2] and heads.tolist() == [0, 1, 2, 3, 4, 5]


def test_of_equal_scores_the_first_stay():
    assert highest(jnp.asarray([2.0, 1.0, 2.0, 2.0]), 2).tolist() == [0, 2]


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_taylor_is_the_gradient_of_a_gate(name):
    """The gate of an FFN unit multiplies its answer: the same as the rows of the matrix that reads it."""
    module, params = MODULES[name], params_of(name)
    model, batches = LinenModel(module), batches_of(name, 1)
    measured = scores(model, "taylor", params, {}, batches, cross_entropy)
    down = ("layer1", "mlp", "down", "kernel") if name == "llama" else ("layer1", "mlp2", "kernel")

    def gated(gate):
        flat = traverse_util.flatten_dict(params)
        flat[down] = flat[down] * gate[:, None]
        inputs, batch = batches[0]
        logits = module.apply({"params": traverse_util.unflatten_dict(flat)}, *inputs, train=False)
        return cross_entropy(Outputs(logits), batch)

    gates = jax.grad(gated)(jnp.ones(12))
    assert np.all(measured["hidden"][1] >= np.square(gates) - 1e-9)  # its other arrays add squares
    assert np.corrcoef(measured["hidden"][1], np.square(gates))[0, 1] > 0.5


def test_activation_scores_are_those_of_the_definition():
    module, params = MODULES["llama"], params_of("llama")
    batches = batches_of("llama", 2)
    measured = scores(LinenModel(module), "activation", params, {}, batches, cross_entropy)
    assert {k: v.shape for k, v in measured.items()} == {
        "heads": (3, 4),
        "hidden": (3, 12),
        "width": (16,),
        "layers": (3,),
    }
    squares, changes = 0.0, []
    for inputs, _ in batches:
        outputs, _ = LinenModel(module).apply(
            params,
            {},
            *inputs,
            train=False,
            key=KEY,
            taps=("layer0", "layer1", "layer1/attention/probabilities", "layer1/attention/values"),
        )
        real = np.asarray(inputs[1] != 0, np.float32)
        taps = {k: np.asarray(v, np.float64) for k, v in outputs.features.items()}
        values = np.repeat(taps["layer1/attention/values"], 2, axis=1)  # two heads read each group
        answers = taps["layer1/attention/probabilities"] @ values  # [batch, heads, tokens, head width]
        sizes = np.linalg.norm(answers, axis=-1) * real[:, None]
        squares = squares + ((sizes.sum(-1) / real.sum(1)[:, None]) ** 2).sum(0)
        x, y = taps["layer0"], taps["layer1"]
        cosine = (x * y).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)
        changes.append(((1 - cosine) * real).sum() / real.sum())
    np.testing.assert_allclose(measured["heads"][1], np.sqrt(squares), rtol=1e-4)
    np.testing.assert_allclose(measured["layers"][1], np.mean(changes), rtol=1e-4)


def test_perplexity_is_the_loss_without_the_layer():
    module, params = MODULES["llama"], params_of("llama")
    batches = batches_of("llama", 1)
    measured = scores(LinenModel(module), "perplexity", params, {}, batches, cross_entropy)
    left = target(module, {"layers": 2})
    now = sizes_of(module)
    without = staying(now, left, {"layers": jnp.asarray([1.0, 0.0, 1.0])})
    less = sliced(module, params, without)
    logits = smaller(module, left).apply({"params": less}, *batches[0][0], train=False)
    np.testing.assert_allclose(measured["layers"][1], cross_entropy(Outputs(logits), batches[0][1]), rtol=1e-5)


def test_a_unit_without_weights_goes_first():
    module, params = MODULES["llama"], params_of("llama")
    down = params["layer2"]["mlp"]["down"]["kernel"].at[4].set(0.0)
    up = params["layer2"]["mlp"]["up"]["kernel"].at[:, 4].set(0.0)
    gate = params["layer2"]["mlp"]["gate"]["kernel"].at[:, 4].set(0.0)
    mlp = {"down": {"kernel": down}, "up": {"kernel": up}, "gate": {"kernel": gate}}
    dead = {**params, "layer2": {**params["layer2"], "mlp": mlp}}
    for score in ("magnitude", "taylor", "activation"):
        measured = scores(LinenModel(module), score, dead, {}, batches_of("llama", 1), cross_entropy)
        assert int(np.argmin(measured["hidden"][2])) == 4 and float(measured["hidden"][2][4]) == 0.0


def test_scanned_layers_have_the_scores_of_single_ones():
    scanned, params = MODULES["llama_scan"], params_of("llama_scan")
    plain, single = unscanned(scanned, params)
    for score in ("magnitude", "taylor", "activation", "perplexity"):
        one = scores(LinenModel(scanned), score, params, {}, batches_of("llama", 1), cross_entropy)
        other = scores(LinenModel(plain), score, single, {}, batches_of("llama", 1), cross_entropy)
        for unit in one:
            np.testing.assert_allclose(one[unit], other[unit], rtol=1e-4, atol=1e-6)


def test_ffn_units_and_blocks_of_a_vit():
    module = vit(3, patch=4, width=16, depth=3, heads=2, hidden=12, pool="mean")
    images = jax.random.normal(KEY, (3, 8, 8, 1))
    model = LinenModel(module)
    params = jax.jit(model.init)(KEY, images)[0]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: 2 * x + 0.1 * rng.normal(size=x.shape).astype(np.float32), params)
    batches = [((images,), {"label": jnp.asarray([0, 1, 2])})]
    for score in ("magnitude", "taylor", "activation"):
        step = prune(network_of(model, (images,)), hidden=0.5, layers=2, score=score)
        measured = step.scorer(params, {}, batches=batches, loss=cross_entropy)
        less, _ = step.transform(params, {}, measured)
        stay = staying(sizes_of(module), target(module, {"hidden": 6, "layers": 2}), measured)
        with masked(module, stay):
            expected = module.apply({"params": params}, images, train=False)
        answer = step.model.apply(less, {}, images, train=False, key=KEY)[0].logits
        np.testing.assert_allclose(answer, expected, atol=1e-5)
    with pytest.raises(ValueError, match="a ViT has no 'heads' to prune"):
        prune(network_of(model, (images,)), heads=1)


def test_families_without_rules_are_named():
    with pytest.raises(ValueError, match="no rule reaches those of a Dense"):
        prune(network_of(LinenModel(nn.Dense(3)), (jnp.ones((1, 2)),)), heads=1)
    with pytest.raises(ValueError, match="bottleneck=8"):
        small = encoder(11, **SIZES, positions=12, head="hidden", bottleneck=8)
        prune(network_of(LinenModel(small), (jnp.asarray(TOKENS),)), heads=1)
    with pytest.raises(ValueError, match="scale_embedding"):
        prune(network_of(LinenModel(tiny_decoders.MODULES["gemma2"]), (jnp.asarray(TOKENS),)), width=8)
    with pytest.raises(ValueError, match=r"windows=\(2, 0\) are not alike"):
        prune(network_of(LinenModel(tiny_decoders.MODULES["gemma2"]), (jnp.asarray(TOKENS),)), layers=1)
