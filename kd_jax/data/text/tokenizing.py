"""Text to token ids and back: characters, byte-pair encoding learned here, or a tokenizer.json."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, SupportsIndex

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from kd_jax.data.source import DataNotFound, FromText, Source
from kd_jax.resolve import near

PAD, START, END, UNKNOWN = range(4)
SPECIAL = ("<pad>", "<start>", "<end>", "<unknown>")
# The names that published tokenizers give to what starts and ends a text, tried in this order.
STARTS = ("<start>", "<s>", "<bos>", "<|begin_of_text|>", "[CLS]", "<|endoftext|>")
ENDS = ("<end>", "</s>", "<eos>", "<|end_of_text|>", "[SEP]", "<|endoftext|>")
PADS = ("<pad>", "[PAD]", "<|pad|>", "<|endoftext|>", "</s>", "<eos>")


class Codec(NamedTuple):
    """A tokenizer: `encode` returns ids without special tokens, `decode` leaves special tokens out.

    `special` are those by name, `form` is the content of a tokenizer.json that `of_tokenizer` makes this codec of, ""
    where there is only a vocabulary.
    """

    size: int
    pad: int
    start: int
    end: int
    encode: Callable[[Sequence[str]], list[list[int]]]
    decode: Callable[[Iterable[SupportsIndex]], str]
    special: Mapping[str, int]
    form: str


def entries(texts: Sequence[str], tokenizer: str, length: int) -> dict[str, np.ndarray]:
    """Returns what a row of each text holds: the start token, then the text, padded on the right.

    `tokenizer` is the content of a tokenizer.json. Raises ValueError for a text of more than `length` tokens.
    """
    codec = of_tokenizer(Tokenizer.from_str(tokenizer))
    rows = [[codec.start, *ids] for ids in codec.encode(texts)]
    if (longest := max(map(len, rows))) > length:
        raise ValueError(f"The longest text has {longest} tokens with its start, and the network reads {length}.")
    tokens, segments = np.full((len(rows), length), codec.pad, np.int32), np.zeros((len(rows), length), np.int32)
    for i, row in enumerate(rows):
        tokens[i, : len(row)], segments[i, : len(row)] = row, 1
    return {"tokens": tokens, "segments": segments}


def rows_source(
    name: str, split: str, codec: Codec, tokens: np.ndarray, labels: np.ndarray, fields: dict[str, np.ndarray]
) -> Source:
    """Makes the split of rows of tokens int32 [n, L] with labels int32 [n, L]; `fields` are further arrays [n, ...]."""
    return Source(
        name,
        split,
        codec.size,
        (),
        (),
        (),
        tokens.shape[1:],
        labels,
        tokens,
        fields=fields,
        entry="tokens",
        decode=codec.decode,
        end=codec.end,
        texts=FromText(functools.partial(entries, length=tokens.shape[1]), codec.form) if codec.form else None,
    )


def make_codec(kind: str, texts: Sequence[str], vocabulary: int) -> Codec:
    """Makes the codec of a kind: "character", "bpe" (learned from `texts`) or the path of a tokenizer.json.

    `vocabulary` is the number of tokens of "bpe". Raises ValueError for another kind, DataNotFound for a missing file.
    """
    if kind == "character":
        return characters(sorted(set("".join(texts))))
    if kind == "bpe":
        return of_tokenizer(learned(texts, vocabulary))
    if not kind.endswith(".json"):
        raise ValueError(f"data.tokenizer={kind!r}. {near(kind, ('character', 'bpe', 'PATH/tokenizer.json'))}")
    if not Path(kind).is_file():
        raise DataNotFound(f"data.tokenizer={kind!r}: there is no such file.")
    try:
        return of_tokenizer(Tokenizer.from_file(kind))
    except Exception as e:  # a bare Exception, from Rust
        raise ValueError(f"data.tokenizer={kind!r} is no tokenizer.json that can be read: {e}") from e


def characters(alphabet: Sequence[str]) -> Codec:
    """Makes a codec of one token a character; a character outside the alphabet is <unknown>."""
    ids = {character: i for i, character in enumerate(alphabet, start=len(SPECIAL))}
    names = ["", "", "", "\N{REPLACEMENT CHARACTER}", *alphabet]

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [[ids.get(character, UNKNOWN) for character in text] for text in texts]

    special = {name: i for i, name in enumerate(SPECIAL)}
    alike = Tokenizer(models.WordLevel({**special, **ids}, unk_token=SPECIAL[UNKNOWN]))
    alike.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    alike.decoder = decoders.Fuse()
    alike.add_special_tokens(list(SPECIAL))

    def decode(tokens: Iterable[SupportsIndex]) -> str:
        return "".join(names[int(t)] for t in tokens)

    return Codec(len(names), PAD, START, END, encode, decode, special, alike.to_str())


def learned(texts: Sequence[str], vocabulary: int) -> Tokenizer:
    """Learns byte-level byte-pair encoding from these texts: no character is ever unknown.

    Sennrich, Haddow, Birch, "Neural Machine Translation of Rare Words with Subword Units", 2016, arXiv 1508.07909.
    """
    if vocabulary < 256 + len(SPECIAL):
        raise ValueError(f"data.vocabulary={vocabulary}: 256 bytes and {len(SPECIAL)} special tokens are the least.")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def of_tokenizer(tokenizer: Tokenizer) -> Codec:
    """Makes the codec of a tokenizer of the library; ValueError where it lacks a token for start, end or padding."""
    vocabulary = tokenizer.get_vocab()

    def special(what: str, names: Sequence[str]) -> int:
        ids = [vocabulary[name] for name in names if name in vocabulary]
        if not ids:
            raise ValueError(f"The tokenizer has no token that is {what}: none of {', '.join(names)}.")
        return ids[0]

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [e.ids for e in tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def decode(tokens: Iterable[SupportsIndex]) -> str:
        return tokenizer.decode([int(t) for t in tokens], skip_special_tokens=True)

    pad, start, end = special("padding", PADS), special("the start", STARTS), special("the end", ENDS)
    named = {token.content: i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    return Codec(max(vocabulary.values()) + 1, pad, start, end, encode, decode, named, tokenizer.to_str())
