"""Running text for language models: documents -> token ids -> rows of one length, with a label at every token.

    tokens    int32 [n, L]  the start token, then the text          label  int32 [n, L]  the token that follows, or -1
    segments  int32 [n, L]  the number of the document in the row, 0 = padding

Labels never cross documents, and with `segments` neither does attention: a decoder takes ("batch.tokens",
"batch.segments") and counts positions within each segment.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from kd_jax.data import splits
from kd_jax.data.source import DataNotFound, Source, Splits
from kd_jax.data.text.tokenizing import Codec, make_codec, rows_source
from kd_jax.files import read_utf8
from kd_jax.resolve import near

PACKINGS = ("packed", "padded")
BIBLE = "bible"
Rows = tuple[np.ndarray, np.ndarray, np.ndarray]


def load(fields: SimpleNamespace) -> Splits:
    """Loads data.name="text": data.directory is "bible" (the King James Version), a text file or a folder of them.

    Documents (chapters; files of a folder; paragraphs of one file) are dealt out whole to train, validation and test by
    data.split_seed, so that no text is in two splits; the tokenizer learns from train alone. Raises DataNotFound where
    there is no text, ValueError where too few documents are left for a split.
    """
    documents = read_documents(fields.directory or BIBLE)
    order = splits.shuffled(len(documents), fields.split_seed)
    counts = [round(share * len(documents)) for share in (fields.test, fields.validation)]
    splits.check_counts("documents", len(documents), counts, fields)
    test, validation, train = np.split(order, np.cumsum(counts))
    texts = {
        split: [documents[i] for i in np.sort(rows)]
        for split, rows in (("train", train), ("validation", validation), ("test", test))
    }
    codec = make_codec(fields.tokenizer, texts["train"], fields.vocabulary)
    name = Path(fields.directory or BIBLE).stem
    sources = {
        split: source_of(name, split, of_split, codec, fields.length, fields.packing)
        for split, of_split in texts.items()
        if of_split
    }
    return Splits(sources["train"], sources.get("validation"), sources["test"])


def read_documents(where: str) -> list[str]:
    """Reads the texts at `where`: "bible", a folder of .txt files, or a file whose paragraphs are documents.

    Raises DataNotFound where there is neither, ValueError for fewer than two documents.
    """
    if where == BIBLE:
        return bible_chapters()
    path = Path(where).expanduser()
    if path.is_dir():
        texts = [read_utf8(p) for p in sorted(path.rglob("*.txt"))]
    elif path.is_file():
        texts = re.split(r"\n\s*\n", read_utf8(path))
    else:
        raise DataNotFound(
            f"data.directory={where!r} is neither a text file nor a folder of .txt files. 'bible' is the King James "
            "Version of Debian's bible-kjv (apt-get install bible-kjv)."
        )
    texts = [text.strip() for text in texts if text.strip()]
    if len(texts) < 2:
        raise ValueError(
            f"{where} holds {len(texts)} documents: files of a folder, or paragraphs apart by empty lines."
        )
    return texts


def bible_chapters() -> list[str]:
    """Reads the 1,189 chapters of the King James Version (public domain), a verse a line, by Debian's `bible`."""
    if shutil.which("bible") is None:
        raise DataNotFound(
            "The Bible text is read by the program `bible` of Debian's packages bible-kjv and bible-kjv-text, which is "
            "not here: apt-get install bible-kjv. Or name a text file or folder as data.directory."
        )
    command = ["bible", "-f", "Gen1:1-Rev22:21"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL).stdout
    chapters: dict[str, list[str]] = {}
    for line in printed.splitlines():
        verse, _, text = line.partition(" ")
        chapters.setdefault(verse.partition(":")[0], []).append(text)
    return ["\n".join(verses) for verses in chapters.values()]


def source_of(name: str, split: str, texts: Sequence[str], codec: Codec, length: int, packing: str) -> Source:
    """Makes one split. packing="packed": documents fill rows one after the other; "padded": each begins a row."""
    if packing not in PACKINGS:
        raise ValueError(f"data.packing={packing!r}. {near(packing, PACKINGS)}")
    if length < 2:
        raise ValueError(f"data.length={length}: a row has at least 2 tokens.")
    sequences = [[codec.start, *ids, codec.end] for ids in codec.encode(texts)]
    tokens, labels, segments = (packed if packing == "packed" else padded)(sequences, length, codec.pad)
    return rows_source(name, split, codec, tokens, labels, {"segments": segments})


def packed(sequences: Sequence[Sequence[int]], length: int, pad: int = 0) -> Rows:
    """Returns (tokens, labels, segments) [n, length]: no token is lost, only the last row is padded.

    A document that is cut continues in the next row as a new segment, without its beginning.
    """
    tokens = np.concatenate([np.asarray(s[:-1], np.int32) for s in sequences])
    labels = np.concatenate([np.asarray(s[1:], np.int32) for s in sequences])
    number = np.concatenate([np.full(len(s) - 1, i, np.int32) for i, s in enumerate(sequences)])
    rows = -(-len(tokens) // length)

    def table(values: np.ndarray, fill: int) -> np.ndarray:
        return np.pad(values, (0, rows * length - len(values)), constant_values=fill).reshape(rows, length)

    number, real = table(number, -1), table(np.ones(len(tokens), bool), False)
    starts = np.pad(number[:, 1:] != number[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    segments = np.where(real, np.cumsum(starts, 1), 0).astype(np.int32)
    return table(tokens, pad), table(labels, -1), segments


def padded(sequences: Sequence[Sequence[int]], length: int, pad: int = 0) -> Rows:
    """Returns (tokens, labels, segments) [n, length]: a row is a piece of one document, padded on the right."""
    pieces = [s[i : i + length + 1] for s in sequences for i in range(0, len(s) - 1, length)]
    tokens = np.full((len(pieces), length), pad, np.int32)
    labels, segments = np.full_like(tokens, -1), np.zeros_like(tokens)
    for row, piece in enumerate(pieces):
        count = len(piece) - 1
        tokens[row, :count], labels[row, :count], segments[row, :count] = piece[:-1], piece[1:], 1
    return tokens, labels, segments
