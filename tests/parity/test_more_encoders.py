"""XLM-RoBERTa, MPNet, ELECTRA, DeBERTa, T5's encoder and ModernBERT against PyTorch `transformers`."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from encoder_parity import CLASSES, check_both_ways  # noqa: E402

from kd_jax.models.language.pretrained import encoder_of  # noqa: E402

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
PAIRS = [(name, head) for name in CASES for head in CLASSES if head == "hidden" or not name.startswith("t5")]


@pytest.mark.parametrize(("name", "head"), PAIRS)
def test_random_networks_agree_and_return(name, head, tmp_path):
    check_both_ways(*CASES[name], head, tmp_path)


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
