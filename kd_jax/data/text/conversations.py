"""Data of published language models: conversations, prompts with completions, prompts alone, and texts.

data.name="data.text.conversations.load" reads data.path, a file of records or a folder of them (record_files.py; one
kind a data set, records.py), with the tokenizer and the chat template of the model's folder data.tokenizer
(folder_tokenizer.py). Batches have the entries of corpus.py: tokens, segments, label (-1 where nothing is learned),
and label_bytes, the bytes that the label spells, of which bits per byte are scored.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from kd_jax.data import splits
from kd_jax.data.folders import places
from kd_jax.data.source import FromText, Source, Splits
from kd_jax.data.text import folder_tokenizer
from kd_jax.data.text.folder_tokenizer import FolderTokenizer
from kd_jax.data.text.packing import TRUNCATIONS, Cut, Piece, arranged, cut, in_pieces, packed
from kd_jax.data.text.record_files import files_of
from kd_jax.data.text.records import LOSS_ON, Rule
from kd_jax.data.text.tokenised import Tokenised, tokenised
from kd_jax.resolve import near

PACKINGS = ("packed", "padded")
IN_MEMORY = 1 << 30  # bytes of a split's rows; above it they are mapped from the cache and streamed


def load(config: Mapping[str, Any]) -> Splits:
    """Loads the splits: all of data.path trains where data.eval_path is a file of its own, which is the test split.

    Otherwise shares of the records, data.test and data.validation, are held out by data.split_seed.
    data.loss_on: "answers" learns every turn of an assistant, "last" the last one, "all" every token. data.truncation
    "right" or "left" cuts that side of what is longer than data.length, "drop" leaves it out; a running text goes on in
    a further row unless one of them is set. What was cut or left out is counted and printed.
    data.packing: "packed" puts several rows into one, a segment each; prompts alone are never packed.
    Raises ValueError where nothing is left to learn, and for a field that these data do not read.
    """
    fields = SimpleNamespace(**config)
    whole = opened(fields)
    made = {
        split: source_of(whole.name, split, *part, whole.tokenizer, fields)
        for split, part in whole.parts.items()
        if len(part.chosen)
    }
    return Splits(made["train"], made.get("validation"), made["test"])


class Part(NamedTuple):
    """The rows of a split: the numbers `chosen` of the `rows` of a file."""

    rows: Tokenised
    chosen: np.ndarray


class Opened(NamedTuple):
    """A data set as tokens of one tokenizer, dealt out to splits."""

    name: str
    tokenizer: FolderTokenizer
    parts: Mapping[str, Part]

    @property
    def read(self) -> tuple[Part, Part]:
        """Returns the parts that hold what data.path and data.eval_path are: all records between them."""
        return self.parts["train"], self.parts["test"]


def opened(fields: SimpleNamespace, apart: bool = False) -> Opened:
    """Reads, tokenises and deals out the records; `apart` gives every answer a row of its own. Errors as `load`."""
    _check(fields)
    tokenizer = folder_tokenizer.read(fields.tokenizer, fields.template)
    if tokenizer.positions and fields.length > tokenizer.positions:
        raise ValueError(
            f"data.length={fields.length}: {tokenizer.folder}/config.json says that the model has "
            f"{tokenizer.positions} positions."
        )
    rule, root = Rule(fields.loss_on, fields.chat, apart), Path(fields.cache or places("")[-1] / "tokens").expanduser()
    rows = tokenised(files_of(fields.path, "data.path"), tokenizer, rule, root)
    _check_kind(fields, rows.kind)
    name, count = Path(fields.path).name, int(rows.records.max()) + 1
    order, parts = splits.shuffled(count, fields.split_seed), dict[str, Part]()
    if fields.eval_path:
        held = round(fields.validation * count)
        asked = tokenised(files_of(fields.eval_path, "data.eval_path"), tokenizer, rule, root)
        parts["test"] = Part(asked, np.arange(len(asked)))
    else:
        test, held = (round(share * count) for share in (fields.test, fields.validation))
        splits.check_counts("records", count, [test, held], fields)
        parts["test"], order = Part(rows, _of_records(rows, order[:test])), order[test:]
    parts["train"] = Part(rows, _of_records(rows, order[held:]))
    parts["validation"] = Part(rows, _of_records(rows, order[:held]))
    return Opened(name, tokenizer, parts)


def _check(fields: SimpleNamespace) -> None:
    for name, words in (("loss_on", LOSS_ON), ("packing", PACKINGS), ("truncation", ("", *TRUNCATIONS))):
        if getattr(fields, name) not in words:
            raise ValueError(f"data.{name}={getattr(fields, name)!r}. {near(str(getattr(fields, name)), words)}")
    for name, what in (("path", "a file or folder of records"), ("tokenizer", "the folder of a model")):
        if not getattr(fields, name):
            raise ValueError(f"data.{name} is '': {what} is expected.")
    if fields.length < 2:
        raise ValueError(f"data.length={fields.length}: a row has at least 2 tokens.")


def _check_kind(fields: SimpleNamespace, kind: str) -> None:
    """Raises ValueError for a field that has no effect on records of this kind."""
    asked = {
        "loss_on": fields.loss_on != LOSS_ON[0] and kind in ("prompt", "text"),
        "chat": fields.chat and kind == "text",  # messages are chat anyway
        "template": fields.template and kind in ("text",),
    }
    for name, wrong in asked.items():
        if wrong:
            raise ValueError(f"data.{name}={getattr(fields, name)!r} has no effect on records of the kind {kind!r}.")


def _of_records(rows: Tokenised, records: np.ndarray) -> np.ndarray:
    return np.flatnonzero(np.isin(rows.records, records))


@dataclasses.dataclass(frozen=True, eq=False)
class Arranged:
    """The rows of a split: `groups` are the pieces of each. A worker process of Grain reads by it."""

    rows: Tokenised
    groups: Sequence[Sequence[Piece]]
    length: int
    pad: int

    def __call__(self, index: int, view: int | None = None, seed: int = 0) -> Mapping[str, Any]:
        del view, seed  # nothing is drawn
        return arranged(self.rows.row, self.groups[index], self.length, self.pad, self.rows.kind != "prompt")


def source_of(
    name: str, split: str, rows: Tokenised, chosen: np.ndarray, tokenizer: FolderTokenizer, fields: SimpleNamespace
) -> Source:
    """Makes one split of the rows `chosen`; in memory, or streamed where it is larger than IN_MEMORY."""
    groups = _groups(f"{name}/{split}", rows, chosen, fields)
    read = Arranged(rows, groups, fields.length, tokenizer.pad)
    if 4 * 4 * fields.length * len(groups) > IN_MEMORY:
        contents = dict(fetch=read, size=len(groups), stamp=Path(rows.folder).name, token_labels=True)
        contents["unanswered"] = rows.kind == "prompt"
        return _source(name, split, tokenizer, fields.length, None, contents)
    return in_memory(name, split, [read(i) for i in range(len(groups))], tokenizer, fields.length)


def in_memory(
    name: str, split: str, rows: Sequence[Mapping[str, Any]], tokenizer: FolderTokenizer, length: int
) -> Source:
    """Makes the source of rows that packing.arranged made."""
    arrays = {entry: np.stack([row[entry] for row in rows]) for entry in rows[0]}
    label = arrays.pop("label")
    return _source(name, split, tokenizer, length, label, dict(images=arrays.pop("tokens"), fields=arrays))


def _source(
    name: str, split: str, tokenizer: FolderTokenizer, length: int, label: Any, contents: Mapping[str, Any]
) -> Source:
    more = dict(length=length, start=tokenizer.start, pad=tokenizer.pad)
    texts = FromText(functools.partial(entries, **more), tokenizer.form)
    reading = dict(entry="tokens", decode=tokenizer.decode, end=tokenizer.stops, texts=texts)
    return Source(name, split, tokenizer.size, (), (), (), (length,), label, **reading, **contents)


def _groups(name: str, rows: Tokenised, chosen: np.ndarray, fields: SimpleNamespace) -> list[list[Piece]]:
    """The pieces of each row of a split; says how many rows were cut and left out."""
    prompts, lengths = rows.kind == "prompt", rows.lengths[chosen]
    made, room, side = _cut(rows.kind, lengths, fields)
    pieces = [(int(chosen[i]), begin, end) for i, begin, end in made.pieces]
    if not prompts:
        pieces = [piece for piece in pieces if _learns(rows, *piece)]
    unlearned = len(made.pieces) - len(pieces)
    if made.cut or made.dropped or unlearned:
        what, field = ("prompts", "prompt_length") if prompts else ("rows", "length")
        print(
            f"{name}: of {len(lengths)} {what} {made.cut} are longer than {room} tokens (up to {lengths.max()}) and "
            f"were cut on the {side}, {made.dropped} were left out for that, and "
            f"{unlearned} in which nothing is left to learn; data.{field} and data.truncation set that."
        )
    if not pieces:
        raise ValueError(
            f"{name}: no row is left: {len(lengths)} rows of {lengths.min()} to {lengths.max()} tokens, of which "
            f"{room} are read, data.truncation={fields.truncation!r}, data.loss_on={fields.loss_on!r}."
        )
    return [[piece] for piece in pieces] if prompts or fields.packing == "padded" else _packed(pieces, fields.length)


def _cut(kind: str, lengths: np.ndarray, fields: SimpleNamespace) -> tuple[Cut, int, str]:
    """What is read of rows of these lengths, how many tokens of one at most, and the side on which it is cut."""
    prompts = kind == "prompt"
    room = (fields.prompt_length or fields.length // 2) if prompts else fields.length + 1
    side = fields.truncation or ("left" if prompts else "right")
    if kind == "text" and not fields.truncation:
        return Cut(in_pieces(lengths, room), 0, 0), room, side
    return cut(lengths, room, side), room, side


def _learns(rows: Tokenised, index: int, begin: int, end: int) -> bool:
    """Whether a token of a piece is learned; its first has nothing before it."""
    return bool(np.any(rows.row(index).learned[begin + 1 : end]))


def _packed(pieces: Sequence[Piece], length: int) -> list[list[Piece]]:
    groups = packed([end - begin - 1 for _, begin, end in pieces], length)
    return [[pieces[i] for i in group] for group in groups]


def entries(texts: Sequence[str], tokenizer: str, length: int, start: Sequence[int], pad: int) -> dict[str, np.ndarray]:
    """Returns what a row of each text holds: the tokens that begin it, then the text, padded on the right.

    `tokenizer` is the content of a tokenizer.json. Raises ValueError for a text of more than `length` tokens.
    """
    from tokenizers import Tokenizer

    encodings = Tokenizer.from_str(tokenizer).encode_batch(list(texts), add_special_tokens=False)
    rows = [[*start, *e.ids] for e in encodings]
    if (longest := max(map(len, rows))) > length:
        raise ValueError(f"The longest text has {longest} tokens with its start, and the network reads {length}.")
    tokens, segments = np.full((len(rows), length), pad, np.int32), np.zeros((len(rows), length), np.int32)
    for i, row in enumerate(rows):
        tokens[i, : len(row)], segments[i, : len(row)] = row, 1
    return {"tokens": tokens, "segments": segments}
