"""Scaled and partial rotary positions against PyTorch `transformers`, read and written, short texts and long ones."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from kd_jax.models.adapters import LinenModel  # noqa: E402
from kd_jax.models.language.decoder import decoding  # noqa: E402
from kd_jax.models.language.decoder_families import llama  # noqa: E402
from kd_jax.models.language.generation import generate  # noqa: E402
from kd_jax.models.language.pretrained_decoders import decoder_of, load, save  # noqa: E402

KEY, TRAINED = jax.random.key(0), 16
SIZES = dict(
    vocab_size=40,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    intermediate_size=24,
    max_position_embeddings=64,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
THETA = {"rope_theta": 50.0}
LONG = {"rope_type": "longrope", "short_factor": [1.0, 1.1, 1.3, 1.5], "long_factor": [1.0, 2.0, 3.5, 5.0], **THETA}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": TRAINED, **THETA}
LOCAL = {"full_attention": YARN, "sliding_attention": {"rope_type": "default", "rope_theta": 20.0}}
# name: (class, what config says beside the sizes)
CASES = {
    "phi4_mini": ("Phi3", {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.75, **THETA}}),
    "phi4_longrope": (
        "Phi3",
        {"rope_parameters": {**LONG, "partial_rotary_factor": 0.5}, "original_max_position_embeddings": TRAINED},
    ),
    "llama_longrope": (
        *("Llama",),
        {"rope_parameters": {**LONG, "original_max_position_embeddings": TRAINED, "factor": 3.0}, "head_dim": 8},
    ),
    "qwen2_yarn": ("Qwen2", {"rope_parameters": YARN}),
    "llama_yarn": (
        "Llama",
        {"rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 0.4, "beta_fast": 4.0, "truncate": False}},
    ),
    "gemma3_yarn": ("Gemma3Text", {"rope_parameters": LOCAL, "sliding_window": 3, "head_dim": 16}),
    "llama_dynamic": (
        "Llama",
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, **THETA}, "max_position_embeddings": TRAINED},
    ),
}


def theirs(name):
    torch.manual_seed(0)
    kind, more = CASES[name]
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **more})
    network = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for value in network.parameters():
        value.data += 0.2 * torch.randn_like(value)
    return network


def logits_of(network, tokens):
    with torch.no_grad():
        return network(torch.tensor(tokens).long()).logits.numpy()


@pytest.mark.parametrize("name", CASES)
def test_short_and_long_texts_agree_and_return(name, tmp_path):
    network = theirs(name)
    network.save_pretrained(tmp_path / "theirs")
    module = decoder_of(str(tmp_path / "theirs"), scan=name == "phi4_longrope")
    params, _ = load(LinenModel(module), KEY, str(tmp_path / "theirs"))
    expected = {}
    for length in (TRAINED, 2 * TRAINED + 3):
        tokens = np.random.default_rng(length).integers(3, 40, (2, length)).astype(np.int32)
        expected[length] = tokens, logits_of(network, tokens)
        logits = jax.jit(lambda p, t: module.apply({"params": p}, t))(params, tokens)
        np.testing.assert_allclose(logits, expected[length][1], atol=1e-4)
    if name == "phi4_mini":  # the other families say the same in their own config.json
        source = llama(40, 32, 2, 2, rotary_share=0.75)
        save(tmp_path / "new", source, jax.jit(source.init)(KEY, tokens)["params"])
        assert json.loads((tmp_path / "new" / "config.json").read_text())["model_type"] == "phi3"
    if name == "phi4_longrope":  # the nearest family of these options is Phi-3 for its partial heads
        assert dict(module.options.rope_scaling)["factor"] == 4.0

    save(tmp_path / "ours", module, params, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    again, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", output_loading_info=True, attn_implementation="eager"
    )
    assert not any(report[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for tokens, logits in expected.values():
        np.testing.assert_allclose(logits_of(again.eval(), tokens), logits, atol=1e-4)


@pytest.mark.parametrize("size", [TRAINED, 2 * TRAINED])
def test_a_text_is_written_at_the_positions_that_its_room_asks_for(size, tmp_path):
    """All tokens of a text, written one at a time, are turned as in one pass over a row of the room's length."""
    network = theirs("phi4_longrope")
    network.save_pretrained(tmp_path)
    module = decoder_of(str(tmp_path))
    params, _ = load(LinenModel(module), KEY, str(tmp_path))
    params = jax.tree.map(jnp.asarray, params)
    prompt = np.random.default_rng(0).integers(3, 40, (1, 6)).astype(np.int32)
    run = jax.jit(
        lambda p: generate(decoding(module), p, prompt, prompt > 0, KEY, length=size - 6, temperature=0, end=-1)
    )
    text = np.concatenate([prompt, run(params).tokens], 1)
    logits = jax.jit(lambda p: module.apply({"params": p}, text))(params)
    np.testing.assert_array_equal(np.argmax(logits[:, 5:-1], -1), text[:, 6:])
    np.testing.assert_allclose(logits, logits_of(network, text), atol=1e-4)


@pytest.mark.parametrize(
    ("family", "rope", "message"),
    [
        ("llama", {"rope_type": "yarm", "factor": 2.0}, "Did you mean 'yarn'"),
        ("llama", {"rope_type": "linear"}, "'linear' need factor"),
        ("llama", {"partial_rotary_factor": 0.5}, "are those of phi3, not of llama"),
        ("phi3", {"type": "su", "short_factor": [1.0], "long_factor": [1.0]}, "1 divisors, and 8 frequencies"),
    ],
)
def test_what_does_not_fit(family, rope, message, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**SIZES, "model_type": family, "rope_scaling": rope}))
    with pytest.raises(ValueError, match=message):
        decoder_of(str(tmp_path))
