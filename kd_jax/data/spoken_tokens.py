"""Speech for Whisper at 16 kHz, with its texts as tokens: sentences of data/spoken.py, or recordings in a folder.

Tokens are characters, or those of a published Whisper's folder. Fields: source float32 [n, samples], the wave, and
source_mask int32 [n, 1], which seq2seq machinery passes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, SupportsIndex

import numpy as np

from kd_jax.data import spoken, transcripts
from kd_jax.data.load import DEFAULTS
from kd_jax.data.source import DataNotFound, Source, Splits
from kd_jax.data.text.tokenizing import END, SPECIAL, START
from kd_jax.data.transcripts import ALPHABET
from kd_jax.models.hub import find_model

RATE = 16000
FIELDS: dict[str, Any] = dict(utterances=(600, 100, 200), samples=28800, length=36)
# What begins a text: a transcript in English without times. English-only models have two of them.
PROMPT = ("<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")


class Tokens(NamedTuple):
    """How texts become tokens: those that begin one, the one that ends it, and both ways."""

    size: int
    prompt: tuple[int, ...]
    end: int
    encode: Callable[[str], list[int]]
    decode: Callable[[Iterable[SupportsIndex]], str]


def sentences(config: Mapping[str, Any]) -> Splits:
    """Loads spoken sentences: tokens int32 [n, length], labels the tokens after them, -1 where none counts.

    Beside DEFAULTS it reads `utterances`, `samples` (at 16 kHz; shorter recordings are followed by 0) and `length`;
    `tokenizer` is the folder of a Whisper, "" or "character" stands for characters. DataNotFound where a program or a
    tokenizer is missing, ValueError where texts have more than `length` tokens.
    """
    fields = {**DEFAULTS, **FIELDS, **config}
    counts, seed = spoken.counts_of(fields), fields["split_seed"]
    tokens = tokens_of(fields["tokenizer"])
    splits = []
    for split, count in zip(spoken.SPLITS, counts, strict=True):
        lines = spoken.drawn(split, count, fields["samples"], 10**6, seed, fields["directory"], RATE)
        texts, recordings = [line.text for line, _ in lines], [recording for _, recording in lines]
        splits.append(source_of(split, texts, recordings, tokens, fields["samples"], fields["length"]))
    return Splits(*splits)


def folder(config: Mapping[str, Any]) -> Splits:
    """Loads the recordings of config.data.directory, as data/transcripts.py's `folder` does, at 16 kHz.

    Texts are those of the list as they stand there; `samples` (the longest recording), `length` and `tokenizer` are as
    in `sentences`. DataNotFound and ValueError as there, and for an empty text, with the name of the recording.
    """
    fields = {**DEFAULTS, **FIELDS, **config}
    tokens = tokens_of(fields["tokenizer"])
    made: dict[str, Source] = {}
    for split, part in transcripts.listed(fields, RATE).items():
        names, texts, waves = zip(*part, strict=True)
        made[split] = source_of(split, texts, waves, tokens, fields["samples"], fields["length"], names)
    return Splits(made["train"], made.get("validation"), made["test"])


def source_of(
    split: str,
    texts: Sequence[str],
    recordings: Sequence[np.ndarray],
    tokens: Tokens,
    samples: int,
    length: int,
    names: Sequence[str] = (),
) -> Source:
    """Returns a source of recordings at 16 kHz and texts; ValueError, with the recording's name, for an empty text and
    for one of more than `length` tokens.
    """
    rows = np.full((len(texts), length), tokens.end, np.int32)
    labels, segments = np.full_like(rows, -1), np.zeros_like(rows)
    first = len(tokens.prompt) - 1
    for i, text in enumerate(texts):
        where = names[i] if names else f"spoken/{split}"
        if not text.strip():
            raise ValueError(f"{where}: the transcript is empty; leave the recording out.")
        row = [*tokens.prompt, *tokens.encode(text), tokens.end]
        if len(row) - 1 > length:
            raise ValueError(f"{where}: {text!r} has {len(row) - 1} tokens, data.length is {length}.")
        rows[i, : len(row) - 1], segments[i, : len(row) - 1] = row[:-1], 1
        labels[i, first : len(row) - 1] = row[first + 1 :]
    waves = transcripts.waves_of(recordings, samples, names, RATE)[..., 0, 0]
    fields = {"segments": segments, "source": waves, "source_mask": np.ones((len(rows), 1), np.int32)}
    options: dict[str, Any] = dict(fields=fields, entry="tokens", decode=tokens.decode, end=tokens.end)
    return Source("spoken", split, tokens.size, (), (), (), (length,), labels, rows, **options)


def tokens_of(tokenizer: str) -> Tokens:
    """Returns the tokens of config.data.tokenizer: "" and "character" stand for characters, else it is a folder."""
    return characters() if tokenizer in ("", "character") else of_folder(tokenizer)


def characters() -> Tokens:
    """Returns the letters of data/transcripts.py as tokens."""
    symbols = (*SPECIAL, *ALPHABET)

    def decode(row: Iterable[SupportsIndex]) -> str:
        return "".join(symbols[int(t)] for t in row if int(t) >= len(SPECIAL))

    def encode(text: str) -> list[int]:
        return [number + len(SPECIAL) - 1 for number in transcripts.encode(text)]  # 0 is CTC's blank, none of these

    return Tokens(len(symbols), (START,), END, encode, decode)


def of_folder(folder: str) -> Tokens:
    """Returns the tokens of a Whisper's folder, from its tokenizer.json; DataNotFound without it, ValueError for one of
    another model."""
    from tokenizers import Tokenizer

    path = find_model(folder) / "tokenizer.json"
    if not path.is_file():
        raise DataNotFound(f"{folder} has no tokenizer.json: WhisperTokenizerFast.save_pretrained writes it.")
    tokenizer = Tokenizer.from_file(str(path))
    prompt = tuple(i for name in PROMPT if (i := tokenizer.token_to_id(name)) is not None)
    end = tokenizer.token_to_id("<|endoftext|>")
    if not prompt or end is None:
        raise ValueError(f"{path} has no token {PROMPT[0]} or <|endoftext|>: it is no Whisper's.")

    def encode(text: str) -> list[int]:
        return tokenizer.encode(f" {text}", add_special_tokens=False).ids

    def decode(row: Iterable[SupportsIndex]) -> str:
        return tokenizer.decode([int(t) for t in row], skip_special_tokens=True).strip()

    return Tokens(tokenizer.get_vocab_size(with_added_tokens=True), prompt, end, encode, decode)
