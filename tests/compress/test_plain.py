"""Wrappers of a chain come off: rounded weights as floats and multiplied factors answer alike, and leave the house."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.compress.lowrank import factorise
from kd_jax.compress.plain import multiplied, unrounded
from kd_jax.compress.plan import network_of
from kd_jax.compress.rounding import quantise
from kd_jax.compress.transformers import prune
from kd_jax.models.adapters import LinenModel
from kd_jax.models.language import decoder_families as families
from kd_jax.models.language.bert import encoder
from kd_jax.models.language.pretrained import save
from kd_jax.models.language.pretrained_decoders import save as save_decoder

KEY = jax.random.key(0)
TOKENS = jnp.asarray([[5, 6, 7, 8, 9]], jnp.int32)
MODEL = LinenModel(families.llama(11, width=16, depth=2, heads=4, hidden=24, kv_heads=2, tied=True))


def answer(model, params):
    return np.asarray(model.apply(params, {}, TOKENS, train=False, key=KEY)[0].logits)


def params_of(model):
    return jax.tree.map(lambda x: 5 * x, jax.jit(model.init)(KEY, TOKENS)[0])


@pytest.mark.parametrize("bits", [8, 4])
def test_rounded_weights_are_floats_that_answer_alike(bits):
    step = quantise(network_of(MODEL, (TOKENS,)), bits, pattern="(kernel|embedding)$", keep="embedding")
    params = params_of(MODEL)
    model, rounded = unrounded(step.model, params)
    assert model is MODEL
    np.testing.assert_array_equal(answer(model, rounded), answer(step.model, params))
    kernel = np.asarray(rounded["layer0"]["mlp"]["up"]["kernel"])[:, 0]
    assert len(np.unique(kernel)) <= 2**bits - 1


def test_factors_are_multiplied():
    step = factorise(network_of(MODEL, (TOKENS,)), 0.3, "mlp")
    params, _ = step.transform(jax.tree.map(np.asarray, params_of(MODEL)), {}, {})  # as the scheme calls it
    model, whole = multiplied(step.model, params)
    assert model is MODEL and whole["layer0"]["mlp"]["up"]["kernel"].shape == (16, 24)
    np.testing.assert_allclose(answer(model, whole), answer(step.model, params), atol=1e-4)


def test_what_has_no_wrapper_stays():
    params = params_of(MODEL)
    assert unrounded(MODEL, params) == (MODEL, params) and multiplied(MODEL, params) == (MODEL, params)
    network = network_of(MODEL, (TOKENS,))
    rounded = quantise(network, 8, activations=8).model
    assert unrounded(rounded, params)[0] is rounded


def test_pruned_networks_are_folders_of_transformers(tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    step = prune(network_of(MODEL, (TOKENS,)), heads=2, hidden=10, width=12, layers=1, score="magnitude")
    params = params_of(MODEL)
    less, _ = step.transform(params, {}, step.scorer(params, {}, batches=[], loss=None))
    save_decoder(tmp_path / "decoder", step.model, less)
    network = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "decoder").eval()
    with torch.no_grad():
        theirs = network(torch.from_numpy(np.array(TOKENS)).long()).logits.numpy()
    np.testing.assert_allclose(answer(step.model, less), theirs, atol=1e-4)


def test_encoders_are_such_folders_where_heads_and_width_are_pruned_alike(tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model = LinenModel(encoder(30, 16, 2, 4, 24, 12, head="classes", num_classes=3, dropout=0.0))
    network = network_of(model, (TOKENS,))
    params = params_of(model)

    def pruned(**units):
        step = prune(network, **units, score="magnitude")
        return step.model, step.transform(params, {}, step.scorer(params, {}, batches=[], loss=None))[0]

    with pytest.raises(ValueError, match="prune heads and width alike"):
        save(tmp_path / "refused", *pruned(heads=3))
    alike, less = pruned(heads=0.75, width=0.75, hidden=10, layers=1)
    save(tmp_path / "encoder", alike, less)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "encoder").eval()
    with torch.no_grad():
        expected = theirs(torch.from_numpy(np.array(TOKENS)).long()).logits.numpy()
    np.testing.assert_allclose(answer(alike, less), expected, atol=1e-4)
