"""XLM-RoBERTa, MPNet, ELECTRA, DeBERTa, T5's encoder and ModernBERT against PyTorch `transformers`."""

import functools
import json

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from kd_jax.models.adapters import LinenModel  # noqa: E402
from kd_jax.models.language.pretrained import encoder_of, kind_of, load, save  # noqa: E402

KEY = jax.random.key(0)
SIZES = dict(
    vocab_size=40,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=24,
    max_position_embeddings=48,
)
DISENTANGLED = {
    "relative_attention": True,
    "position_buckets": 8,
    "max_relative_positions": -1,
    "pos_att_type": ["p2c", "c2p"],
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
    "type_vocab_size": 0,
}
CONVOLVED = {"conv_kernel_size": 3, "conv_act": "gelu"}
UNSHARED = {"share_att_key": False, "norm_rel_ebd": "none", "position_buckets": -1, "type_vocab_size": 2}
T5 = dict(vocab_size=40, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=4, relative_attention_num_buckets=8)
MODERN = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2, local_attention=6)
BIASED = {"norm_bias": True, "attention_bias": True, "mlp_bias": True, "classifier_bias": True}
# name: (model type, class, what config says beside the sizes)
CASES = {
    "xlm-roberta": ("xlm-roberta", "XLMRoberta", SIZES | {"type_vocab_size": 1, "pad_token_id": 1}),
    "mpnet": ("mpnet", "MPNet", SIZES | {"pad_token_id": 1}),
    "electra": ("electra", "Electra", SIZES | {"embedding_size": 8, "type_vocab_size": 2}),
    "electra_wide": ("electra", "Electra", SIZES | {"embedding_size": 16}),
    "deberta_v3": ("deberta-v2", "DebertaV2", SIZES | DISENTANGLED),
    "deberta_v2": ("deberta-v2", "DebertaV2", SIZES | DISENTANGLED | CONVOLVED),
    "deberta_unshared": ("deberta-v2", "DebertaV2", SIZES | DISENTANGLED | UNSHARED | {"position_biased_input": True}),
    "t5": ("t5", "T5Encoder", T5 | {"feed_forward_proj": "relu"}),
    "t5_gated": ("t5", "T5Encoder", T5 | {"feed_forward_proj": "gated-gelu"}),
    "modernbert": ("modernbert", "ModernBert", SIZES | MODERN | {"num_hidden_layers": 4}),
    "modernbert_mean": ("modernbert", "ModernBert", SIZES | MODERN | BIASED | {"classifier_pooling": "mean"}),
}
CLASSES = {"hidden": "Model", "tokens": "ForMaskedLM", "classes": "ForSequenceClassification"}
PAIRS = [(name, head) for name in CASES for head in CLASSES if head == "hidden" or not name.startswith("t5")]


def texts(pad, length=40):
    """Token ids [3, length] of texts of different lengths, padded."""
    tokens = np.random.default_rng(0).integers(4, 40, (3, length)).astype(np.int32)
    for row, real in enumerate((length, length - 11, 2)):
        tokens[row, real:] = pad
    return tokens


def outputs_of(network, tokens, mask):
    with torch.no_grad():
        outputs = network.eval()(
            input_ids=torch.tensor(tokens).long(),
            attention_mask=torch.tensor(mask).long(),
            output_hidden_states=True,
            output_attentions=True,
        )
    main = outputs.logits if hasattr(outputs, "logits") else outputs.last_hidden_state
    return main.numpy(), [h.numpy() for h in outputs.hidden_states], [a.numpy() for a in outputs.attentions]


def check(network, module, params, tokens):
    mask, apply = tokens != module.pad, functools.partial(LinenModel(module).apply, train=False, key=KEY, taps=("*",))
    outputs = jax.device_get(jax.jit(lambda p, *x: apply(p, {}, *x)[0])(params, tokens))
    main, hidden, attentions = outputs_of(network, tokens, mask)
    every = ... if module.head == "classes" else mask
    assert main[every].std() > 0.05
    np.testing.assert_allclose(outputs.logits[every], main[every], atol=1e-4)
    np.testing.assert_allclose(outputs.features["embeddings"][mask], hidden[0][mask], atol=1e-4)
    for i in range(module.depth):
        if i < module.depth - 1 or module.pre_norm is None:  # theirs is normed behind the last one
            tap = "convolution" if i == 0 and "convolution" in params else f"layer{i}"
            np.testing.assert_allclose(outputs.features[tap][mask], hidden[i + 1][mask], atol=1e-4)
        probabilities = outputs.features[f"layer{i}/attention/probabilities"].swapaxes(1, 2)
        np.testing.assert_allclose(probabilities[mask], attentions[i].swapaxes(1, 2)[mask], atol=1e-4)


@pytest.mark.parametrize(("name", "head"), PAIRS)
def test_random_networks_agree_and_return(name, head, tmp_path):
    torch.manual_seed(0)
    family, prefix, sizes = CASES[name]
    eager = {"attn_implementation": "eager"}
    config = transformers.AutoConfig.for_model(family, **sizes, num_labels=3, **eager)
    architecture = getattr(transformers, prefix + CLASSES[head])
    network = architecture(config)
    for value in network.parameters():  # biases start at 0 and scales at 1: a swapped pair would not be seen
        value.data += 0.3 * torch.randn_like(value)
    network.save_pretrained(tmp_path / "theirs")
    module = encoder_of(str(tmp_path / "theirs"), head=head, num_classes=3 if head == "classes" else 0)
    assert kind_of(module) == family
    params, _ = load(LinenModel(module), KEY, str(tmp_path / "theirs"))
    tokens = texts(module.pad)
    check(network, module, params, tokens)

    save(tmp_path / "ours", module, params, class_names=("a", "b", "c") if head == "classes" else ())
    again, report = architecture.from_pretrained(tmp_path / "ours", output_loading_info=True, **eager)
    assert not report["mismatched_keys"] and not report["unexpected_keys"]
    assert all(head == "hidden" and "pooler" in name for name in report["missing_keys"])
    check(again, module, params, tokens)
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["model_type"] == family


@pytest.mark.parametrize("buckets", [8, 32])
def test_distances_fall_into_the_same_buckets(buckets):
    """Over texts longer than all that the networks above read: edges are where float32 decides."""
    from transformers.models.deberta_v2.modeling_deberta_v2 import build_relative_position
    from transformers.models.t5.modeling_t5 import T5Attention

    from kd_jax.models.language.relative_positions import Buckets, Disentangled

    length = 600
    config = transformers.T5Config(**T5 | {"num_heads": 1, "relative_attention_num_buckets": buckets})
    attention = T5Attention(config, has_relative_attention_bias=True)
    attention.relative_attention_bias.weight.data = torch.arange(buckets)[:, None].float()
    theirs = attention.compute_bias(length, length)[0, 0].detach().numpy()
    np.testing.assert_array_equal(Buckets(buckets, 128).numbers(length), theirs)
    states = torch.zeros(1, length, 1)
    theirs = build_relative_position(states, states, buckets, 512)[0].numpy()
    want = np.clip(theirs + buckets, 0, 2 * buckets - 1)
    np.testing.assert_array_equal(Disentangled(512, buckets).numbers(length), want)


@pytest.mark.parametrize(
    ("family", "changes", "head", "message"),
    [
        ("debertav2", {}, "hidden", "Did you mean 'deberta-v2'"),
        ("t5", {}, "tokens", "t5 has no head 'tokens'"),
        ("deberta-v2", {"relative_attention": False}, "hidden", "relative_attention=False is not read"),
        ("modernbert", {"hidden_activation": "glu"}, "hidden", "Did you mean 'gelu'"),
        ("modernbert", {"rope_scaling": {"rope_type": "yarn"}}, "hidden", "positions are scaled"),
        ("mpnet", {"pad_token_id": 0}, "hidden", "positions of an MPNet begin behind 1"),
    ],
)
def test_what_does_not_fit(family, changes, head, message, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**SIZES, "model_type": family, **changes}))
    with pytest.raises(ValueError, match=message):
        encoder_of(str(tmp_path), head=head)
