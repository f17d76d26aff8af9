"""gpt-oss against PyTorch `transformers`: read, written, differentiated, in blocks, and packed in four bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from packed_folders import pack  # noqa: E402

from kd_jax.models.adapters import LinenModel  # noqa: E402
from kd_jax.models.language import blocked_attention, decoder_attention  # noqa: E402
from kd_jax.models.language.decoder import decoding  # noqa: E402
from kd_jax.models.language.generation import generate  # noqa: E402
from kd_jax.models.language.pretrained_decoders import decoder_of, load, save  # noqa: E402
from kd_jax.models.streamed import Reading  # noqa: E402

KEY = jax.random.key(0)
SIZES = dict(
    vocab_size=40,
    hidden_size=32,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    num_local_experts=6,
    num_experts_per_tok=4,
    sliding_window=5,
    max_position_embeddings=512,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
    swiglu_limit=1.5,  # that some numbers reach
)
EAGER = {"attn_implementation": "eager"}


def theirs(folder, **changes):
    torch.manual_seed(0)
    network = transformers.AutoModelForCausalLM.from_config(transformers.GptOssConfig(**SIZES | changes), **EAGER)
    for value in network.parameters():
        value.data = 0.3 * torch.randn_like(value)
    network.eval().save_pretrained(folder)
    return network


def text(length=12):
    return np.random.default_rng(0).integers(3, 40, (2, length)).astype(np.int32)


def logits_of(network, tokens):
    with torch.no_grad():
        return network.eval()(torch.tensor(tokens).long()).logits.float().numpy()


def both(folder, network, tokens, **changes):
    """(our module, its parameters, our logits and the gradient of their mean square, theirs)."""
    module = decoder_of(str(folder), **changes)
    params, _ = load(LinenModel(module), KEY, str(folder))

    def loss(p):
        logits = module.apply({"params": p}, tokens)
        return (logits**2).mean(), logits

    gradient, logits = jax.jit(jax.grad(loss, has_aux=True))(params)
    expected = network(torch.tensor(tokens).long()).logits
    (expected**2).mean().backward()
    return module, params, logits, gradient, expected.detach().numpy()


def check_gradients(layer, block):
    """Of every kind of parameter that other families lack."""
    attention, experts = block.self_attn, block.mlp.experts
    np.testing.assert_allclose(layer["attention"]["sinks"], attention.sinks.grad, atol=1e-4)
    np.testing.assert_allclose(layer["attention"]["out"]["bias"], attention.o_proj.bias.grad, atol=1e-4)
    np.testing.assert_allclose(layer["mlp"]["router"]["bias"], block.mlp.router.bias.grad, atol=1e-4)
    for kind in ("", "_bias"):
        in_turn = getattr(experts, f"gate_up_proj{kind}").grad.numpy()
        np.testing.assert_allclose(layer["mlp"]["experts"][f"gate{kind}"], in_turn[..., ::2], atol=1e-4)
        np.testing.assert_allclose(layer["mlp"]["experts"][f"up{kind}"], in_turn[..., 1::2], atol=1e-4)
        down = getattr(experts, f"down_proj{kind}").grad.numpy()
        np.testing.assert_allclose(layer["mlp"]["experts"][f"down{kind}"], down, atol=1e-4)


@pytest.mark.parametrize("scan", [False, True])
def test_random_networks_agree_and_return(scan, tmp_path):
    network, tokens = theirs(tmp_path / "theirs"), text()
    module, params, logits, gradient, expected = both(tmp_path / "theirs", network, tokens, scan=scan)
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    layer = jax.tree.map(lambda x: x[0], gradient["layers"]) if scan else gradient["layer0"]
    check_gradients(layer, network.model.layers[0])
    streamed, _ = load(LinenModel(module), KEY, str(tmp_path / "theirs"), reading=Reading())
    jax.tree.map(np.testing.assert_array_equal, params, streamed)

    save(tmp_path / "ours", module, params, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    again, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", output_loading_info=True, **EAGER
    )
    assert type(again) is type(network)
    assert not any(report[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    np.testing.assert_allclose(logits_of(again, tokens), expected, atol=1e-5)


def test_blocks_have_sinks_too(tmp_path, monkeypatch):
    """A text of many blocks: outputs and gradients of transformers."""
    for place in (blocked_attention, decoder_attention):
        monkeypatch.setattr(place, "BLOCK", 16)
    network = theirs(tmp_path)
    _, _, logits, gradient, expected = both(tmp_path, network, text(45))
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    for i in range(2):
        check_gradients(gradient[f"layer{i}"], network.model.layers[i])


def test_greedy_texts_agree(tmp_path):
    network = theirs(tmp_path)
    module = decoder_of(str(tmp_path), scan=True)
    params, _ = load(LinenModel(module), KEY, str(tmp_path))
    prompt = text(4)
    prompt[1, :2] = 0  # padding
    run = jax.jit(lambda p: generate(decoding(module), p, prompt, prompt > 0, KEY, length=8, temperature=0, end=-1))
    fixed = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": 39}
    with torch.no_grad():
        padded = torch.tensor(prompt).long()
        expected = network.generate(padded, attention_mask=(padded > 0).long(), **fixed).numpy()[:, 4:]
    np.testing.assert_array_equal(run(params).tokens, expected)


def test_packed_experts_are_read_and_written_plain(tmp_path):
    theirs(tmp_path / "packed")
    pack(tmp_path / "packed")
    network = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "packed", quantization_config=transformers.Mxfp4Config(dequantize=True), dtype=torch.float32, **EAGER
    )
    tokens, folder = text(), str(tmp_path / "packed")
    module = decoder_of(folder)
    params, _ = load(LinenModel(module), KEY, folder)
    experts = network.model.layers[1].mlp.experts
    assert len(np.unique(experts.down_proj.detach())) > 20
    np.testing.assert_array_equal(params["layer1"]["mlp"]["experts"]["down"], experts.down_proj.detach().float())
    logits = jax.jit(lambda p: module.apply({"params": p}, tokens))(params)
    np.testing.assert_allclose(logits, logits_of(network, tokens), atol=1e-4)
    streamed, _ = load(LinenModel(module), KEY, folder, reading=Reading(dtype="file"))
    assert streamed["layer0"]["mlp"]["experts"]["gate"].dtype == jnp.bfloat16
    jax.tree.map(np.testing.assert_array_equal, params, jax.tree.map(lambda x: x.astype(jnp.float32), streamed))
