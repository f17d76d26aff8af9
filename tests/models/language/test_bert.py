"""Encoders: shapes, taps, padding, positions, bottlenecks, folders; parity with PyTorch is in tests/parity."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.models.adapters import LinenModel, tap_shapes
from kd_jax.models.from_teacher import layers, principal_axes
from kd_jax.models.language.bert import encoder
from kd_jax.models.language.pretrained import encoder_of, kind_of, load, save
from kd_jax.models.safetensors_io import read_config

KEY = jax.random.key(0)
SIZES = dict(vocabulary=30, width=8, depth=2, heads=2, positions=12, dropout=0.0)
TOKENS = np.array([[5, 6, 7, 8, 9], [5, 6, 7, 0, 0]], np.int32)


@functools.cache
def made(**options):
    model = LinenModel(encoder(**{**SIZES, "head": "hidden", **options}))
    params, _ = jax.jit(model.init)(KEY, jnp.asarray(TOKENS))
    rng = np.random.default_rng(0)
    return model, jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32), params)


@functools.partial(jax.jit, static_argnames=("model", "train"))  # eagerly, every operation compiles by itself
def run(model, params, *inputs, train=False):
    return model.apply(params, {}, *inputs, train=train, key=KEY)[0]


def test_taps_have_the_shapes_that_losses_want():
    taps = tap_shapes(made(head="classes", num_classes=3)[0], TOKENS)
    shapes = {name: value.shape for name, value in taps.items()}
    assert shapes["embeddings"] == shapes["layer1"] == shapes["layer0/attention/keys_joined"] == (2, 5, 8)
    assert shapes["layer1/attention/values"] == (2, 2, 5, 4)
    assert shapes["layer0/attention/scores"] == shapes["layer0/attention/probabilities"] == (2, 2, 5, 5)
    assert shapes["embedding"] == (2, 8) and shapes["head"] == (2, 3)


@pytest.mark.parametrize(
    "options", [dict(head="sentence"), dict(head="sentence", counted_positions=True, pad=0, token_types=1)]
)
def test_padding_changes_nothing(options):
    model, params = made(**options)
    whole = run(model, params, TOKENS).logits
    alone = run(model, params, TOKENS[1:, :3]).logits
    np.testing.assert_allclose(whole[1:], alone, atol=1e-5)
    other = TOKENS.copy()
    other[1, 3:] = 9
    if not model.module.counted_positions:  # RoBERTa counts what is not padding, whatever the mask says
        np.testing.assert_allclose(run(model, params, other, TOKENS != 0).logits[1], whole[1], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1.0, atol=1e-5)


def test_a_text_without_a_token_is_finite():
    model, params = made(head="sentence")

    def loss(params):
        return run(model, params, np.zeros((1, 4), np.int32)).logits.sum()

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    assert value == 0 and all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))


def test_types_and_dropout_and_half_precision():
    model, params = made(head="tokens")
    plain = run(model, params, TOKENS).logits
    assert plain.shape == (2, 5, 30)
    assert (run(model, params, TOKENS, TOKENS != 0, np.ones_like(TOKENS)).logits != plain).any()
    half = LinenModel(encoder(**SIZES, head="tokens", dtype="bfloat16"))
    outputs = run(half, params, TOKENS)
    assert outputs.logits.dtype == jnp.float32
    np.testing.assert_allclose(outputs.logits, plain, atol=0.1)
    dropping = LinenModel(encoder(**{**SIZES, "dropout": 0.5}, head="tokens"))
    assert (run(dropping, params, TOKENS, train=True).logits != plain).any()
    np.testing.assert_array_equal(run(dropping, params, TOKENS).logits, plain)


def test_a_probe_leaves_the_embedding_alone():
    model, params = made(head="sentence", num_classes=3, probe=True)
    grads = jax.jit(jax.grad(lambda p: jnp.sum(run(model, p, TOKENS).logits ** 2)))(params)
    changed = {path[0].key for path, x in jax.tree.leaves_with_path(grads) if np.any(x != 0)}
    assert changed == {"head"}


def test_a_bottleneck_is_narrow_inside_only():
    model, params = made(bottleneck=4, stack=2)
    shapes = {name: value.shape for name, value in tap_shapes(model, TOKENS).items()}
    assert shapes["layer0"] == (2, 5, 8) and shapes["layer0/attention/queries_joined"] == (2, 5, 4)
    assert {n for n in params["layer0"] if n.startswith("mlp")} == {"mlp1", "mlp1_0", "mlp2", "mlp2_0"}
    assert run(model, params, TOKENS).logits.shape == (2, 5, 8)


@pytest.mark.parametrize(
    ("options", "tokens", "message"),
    [
        ({}, np.zeros((2, 13), np.int32), "13 tokens long; this encoder has positions for 12"),
        (dict(counted_positions=True, pad=1), np.zeros((2, 11), np.int32), "positions for 10"),
        ({}, np.zeros((2, 3), np.float32), "takes token ids"),
        (dict(heads=3), TOKENS, "width=8 must be a multiple of heads=3"),
        (dict(head="clases"), TOKENS, "Did you mean 'classes'"),
        (dict(activation="glu"), TOKENS, "Did you mean 'gelu'"),
        (dict(head="classes"), TOKENS, "needs num_classes"),
    ],
)
def test_what_does_not_fit_is_said(options, tokens, message):
    model = LinenModel(encoder(**{**SIZES, "head": "hidden", **options}))
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, KEY, tokens)


KINDS = {
    "bert": {},
    "roberta": dict(counted_positions=True, pad=1, token_types=1, epsilon=1e-5),
    "distilbert": dict(token_types=0, pooler_activation="relu"),
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_folder_holds_the_whole_network(kind, tmp_path):
    for head in ("tokens", "classes"):
        model, params = made(head=head, num_classes=3 * (head == "classes"), **KINDS[kind])
        assert kind_of(model.module) == kind
        save(tmp_path / head, model, params, class_names=("a", "b", "c") if head == "classes" else ())
        again = encoder_of(str(tmp_path / head), head, model.module.num_classes)
        assert again == model.module.clone(parent=again.parent)
        loaded, _ = load(LinenModel(again), KEY, str(tmp_path / head))
        jax.tree.map(np.testing.assert_array_equal, loaded, jax.device_get(params))
    assert read_config(tmp_path / "classes")["id2label"] == {"0": "a", "1": "b", "2": "c"}


def test_what_a_folder_lacks_is_drawn_only_if_asked_for(tmp_path):
    model, params = made(head="sentence")
    save(tmp_path, model, params)
    assert json.loads((tmp_path / "modules.json").read_text())[1]["path"] == "1_Pooling"
    shallow = LinenModel(encoder_of(str(tmp_path), "classes", 3, depth=1))
    with pytest.raises(ValueError, match="missing: 'classifier.weight'(.|\n)*missing: 'bert.pooler.dense.weight'"):
        load(shallow, KEY, str(tmp_path))
    loaded, _ = load(shallow, KEY, str(tmp_path), fresh=("head/", "pooler/"))
    assert np.std(loaded["head"]["kernel"]) > 0 and "layer1" not in loaded
    np.testing.assert_array_equal(loaded["layer0"]["mlp1"]["kernel"], params["layer0"]["mlp1"]["kernel"])
    config = read_config(tmp_path)
    for change, message in (
        ({"model_type": "robert"}, "Did you mean 'roberta'"),
        ({"hidden_act": "swish2"}, "activation 'swish2'"),
        ({"position_embedding_type": "relative_key"}, "absolute positions"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=message):
            encoder_of(str(tmp_path))


def test_a_student_starts_from_every_second_layer():
    teacher = (made(depth=4)[1], {})
    student = made(depth=2)[0]
    copied, _ = layers(student, KEY, teacher)
    for ours, theirs in (("layer0", "layer0"), ("layer1", "layer2"), ("words", "words"), ("norm", "norm")):
        jax.tree.map(np.testing.assert_array_equal, copied[ours], teacher[0][theirs])
    copied, _ = layers(student, KEY, teacher, layers=(3, 1))
    jax.tree.map(np.testing.assert_array_equal, copied["layer0"], teacher[0]["layer3"])
    with pytest.raises(ValueError, match="needs 2 of the teacher's 4, numbers from 0 to 3"):
        layers(student, KEY, teacher, layers=(1, 4))


def test_a_narrow_student_starts_from_principal_axes():
    rows = np.random.default_rng(0).normal(size=(30, 3)) @ np.random.default_rng(1).normal(size=(3, 8))
    teacher = jax.tree.map(lambda x: x, made(depth=4)[1]) | {"words": {"embedding": jnp.asarray(rows, jnp.float32)}}
    copied, _ = layers(made(depth=2, width=4)[0], KEY, (teacher, {}))
    words = np.asarray(copied["words"]["embedding"])
    np.testing.assert_allclose(words @ words.T, rows @ rows.T, rtol=1e-3, atol=1e-3)  # rank 3 fits into 4
    axes = principal_axes(jnp.asarray(rows), 4)
    np.testing.assert_allclose(axes.T @ axes, np.eye(4), atol=1e-5)
    positions = np.asarray(teacher["positions"]["embedding"] @ axes)
    np.testing.assert_allclose(np.abs(copied["positions"]["embedding"])[:, :3], np.abs(positions)[:, :3], atol=1e-3)
    with pytest.raises(ValueError, match="8 columns have no 9 axes"):
        principal_axes(jnp.asarray(rows), 9)
