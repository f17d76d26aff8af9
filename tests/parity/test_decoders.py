"""Decoders against PyTorch `transformers`: the same weights give the same logits and texts, read and written."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from kd_jax.models.adapters import LinenModel  # noqa: E402
from kd_jax.models.language import decoder_families as families  # noqa: E402
from kd_jax.models.language.decoder import decoding  # noqa: E402
from kd_jax.models.language.generation import generate, left_padded  # noqa: E402
from kd_jax.models.language.pretrained_decoders import decoder_of, load, save  # noqa: E402

KEY = jax.random.key(0)
SIZES = dict(
    vocab_size=40,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=24,
    head_dim=8,
    max_position_embeddings=64,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "rope_theta": 500.0,
    "original_max_position_embeddings": 16,
}
LAYERS = ["sliding_attention", "full_attention"]
LOCAL = {
    "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
}
THETA = {"rope_type": "default", "rope_theta": 50.0}
# name: (class, what config says beside the sizes, changes of ours)
CASES = {
    "llama": ("Llama", {"rope_parameters": LLAMA3}, {}),
    "llama_biases": ("Llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}, {"scan": True}),
    "mistral": ("Mistral", {"sliding_window": 3}, {"scan": True}),
    "qwen2": ("Qwen2", {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}, {}),
    "qwen3": ("Qwen3", {"tie_word_embeddings": True}, {}),
    "gemma": ("Gemma", {"num_key_value_heads": 1}, {}),
    "gemma2": ("Gemma2", {"sliding_window": 3, "query_pre_attn_scalar": 12, "attn_logit_softcapping": 5.0}, {}),
    "gemma3": (
        "Gemma3Text",
        {"sliding_window": 3, "query_pre_attn_scalar": 12, "layer_types": LAYERS, "rope_parameters": LOCAL},
        {"scan": True},
    ),
    "gemma3_by_pattern": ("Gemma3Text", {"sliding_window": 3, "num_hidden_layers": 6}, {}),
    "granite": (
        "Granite",
        {
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.7,
            "attention_multiplier": 0.5,
            "logits_scaling": 0.5,
            "head_dim": 4,
        },
        {},
    ),
    "olmo2": ("Olmo2", {"head_dim": 4}, {"scan": True}),
    "smollm3": ("SmolLM3", {"num_hidden_layers": 4, "head_dim": 4, "rope_parameters": THETA}, {"scan": True}),
    "gpt2": ("GPT2", {}, {"scan": True}),
}
GPT2_SIZES = dict(vocab_size=40, n_embd=16, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2)


def theirs(name):
    torch.manual_seed(0)
    kind, more, _ = CASES[name]
    config = getattr(transformers, f"{kind}Config")(**{**(GPT2_SIZES if kind == "GPT2" else SIZES), **more})
    network = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for value in network.parameters():  # larger, and no two equal: a swapped pair of norms or biases would be seen
        value.data += 0.2 * torch.randn_like(value)
    return network


def logits_of(network, tokens, mask):
    positions = (mask.cumsum(1) - 1).clip(0)
    with torch.no_grad():
        inputs = [torch.tensor(np.asarray(x)).long() for x in (tokens, mask, positions)]
        return network(inputs[0], attention_mask=inputs[1], position_ids=inputs[2]).logits.numpy()


@pytest.mark.parametrize("name", CASES)
def test_random_networks_agree_and_return(name, tmp_path):
    network = theirs(name)
    network.save_pretrained(tmp_path / "theirs")
    module = decoder_of(str(tmp_path / "theirs"), **CASES[name][2])
    params, _ = load(LinenModel(module), KEY, str(tmp_path / "theirs"))
    tokens = np.random.default_rng(0).integers(3, 40, (3, 9)).astype(np.int32)
    mask = np.arange(9)[None] >= np.array([0, 3, 0])[:, None]  # one row with padding on the left,
    mask[2, 6:] = False  # one on the right
    logits = jax.jit(lambda p: module.apply({"params": p}, tokens, mask.astype(np.int32)))(params)
    expected = logits_of(network, tokens, mask)
    assert expected[mask].std() > 0.1
    np.testing.assert_allclose(logits[mask], expected[mask], atol=1e-4)

    save(tmp_path / "ours", module, params, eos_token_id=2, pad_token_id=0, bos_token_id=1)
    again, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", output_loading_info=True, attn_implementation="eager"
    )
    assert type(again) is type(network)
    assert not any(report[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    np.testing.assert_allclose(logits_of(again.eval(), tokens, mask)[mask], expected[mask], atol=1e-5)


@pytest.mark.parametrize("name", ["qwen3", "gpt2"])
def test_greedy_texts_agree(name, tmp_path):
    network = theirs(name)
    network.save_pretrained(tmp_path)
    module = decoder_of(str(tmp_path))
    params, _ = load(LinenModel(module), KEY, str(tmp_path))
    prompt = np.random.default_rng(1).integers(3, 40, (3, 4)).astype(np.int32)
    mask = np.arange(4)[None] < np.array([4, 2, 3])[:, None]
    prompt, mask = (np.asarray(x) for x in left_padded(jnp.asarray(prompt), jnp.asarray(mask)))
    run = jax.jit(lambda p: generate(decoding(module), p, prompt, mask, KEY, length=8, temperature=0, end=2))
    text = run(jax.tree.map(jnp.asarray, params))
    with torch.no_grad():
        expected = network.generate(
            torch.tensor(prompt).long(),
            attention_mask=torch.tensor(mask).long(),
            max_new_tokens=8,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=2,
        ).numpy()[:, 4:]
    width = expected.shape[1]
    np.testing.assert_array_equal(np.where(text.mask, text.tokens, 0)[:, :width], expected)
    assert not np.asarray(text.mask)[:, width:].any()


def test_old_configs_shallower_students_and_what_does_not_fit(tmp_path):
    network = theirs("llama")
    network.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    path.write_text(json.dumps(config | {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}))
    old = decoder_of(str(tmp_path)).options
    assert old.theta == 500.0 and dict(old.rope_scaling)["factor"] == 8.0 and not old.tied

    student = decoder_of(str(tmp_path), depth=1, scan=True)
    params, _ = load(LinenModel(student), KEY, str(tmp_path))
    weight = network.model.layers[0].mlp.up_proj.weight.detach().numpy()
    np.testing.assert_array_equal(params["layers"]["mlp"]["up"]["kernel"][0], weight.T)
    tied = decoder_of(str(tmp_path), tied=True)
    assert "head" not in load(LinenModel(tied), KEY, str(tmp_path))[0]
    with pytest.raises(ValueError, match="missing: 'model.layers.0.self_attn.q_norm.weight'"):
        load(LinenModel(decoder_of(str(tmp_path), qk_norm=True)), KEY, str(tmp_path))

    for changes, message in (
        ({"qk_norm": True, "post_norms": True}, "post_norms=True"),
        ({"gated": False}, "gated=False"),
    ):
        module = families.llama(11, width=8, depth=1, heads=2, **changes)
        with pytest.raises(ValueError, match=message):
            save(tmp_path / "no", module, {})
    path.write_text(json.dumps(config | {"model_type": "lama"}))
    with pytest.raises(ValueError, match="Did you mean 'llama'"):
        decoder_of(str(tmp_path))
    path.write_text(json.dumps(config | {"rope_scaling": {"rope_type": "yarm", "factor": 2.0}}))
    with pytest.raises(ValueError, match="Did you mean 'yarn'"):
        decoder_of(str(tmp_path))
