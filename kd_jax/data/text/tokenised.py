"""Records of files as token ids, tokenised once: blocks of a folder whose name is a digest of all that they depend on.

The digest is of the files' contents, tokenizer.json and the special tokens, the template and the rule. A block holds
the rows of so many records; of several processes each tokenises the blocks whose number is its own modulo their number,
and waits for those of the others, so the folder is one that all of them see. Rows are mapped from the files.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kd_jax.data.text.folder_tokenizer import FolderTokenizer
from kd_jax.data.text.record_files import Raw, raw_records
from kd_jax.data.text.records import Rule, check_template, kind_of, unread
from kd_jax.data.text.rows import Row, rows_of
from kd_jax.files import digest, read_json, write_json

VERSION = 1  # of the rows that a record becomes; another makes every cache anew
BLOCK = 2048  # records
PATIENCE, PAUSE = 600.0, 0.2  # seconds without a new block until another process is given up; between two looks


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenised:
    """The rows of a data set (rows.py), [n] ragged, and the record that each comes from.

    `kind` is one of records.KINDS. Opened lazily and anew in every process that reads: only paths are pickled.
    """

    folder: str
    kind: str
    starts: np.ndarray  # int64 [rows + 1], in the tokens of all blocks
    first: np.ndarray  # int64 [blocks + 1], the first token of each block
    records: np.ndarray  # int64 [rows]

    def __len__(self) -> int:
        return len(self.records)

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)

    def row(self, index: int) -> Row:
        """Returns tokens int32, learned bool and bytes int32, [length] each."""
        begin, end = int(self.starts[index]), int(self.starts[index + 1])
        block = int(np.searchsorted(self.first, begin, side="right")) - 1
        there = slice(begin - int(self.first[block]), end - int(self.first[block]))
        return Row(*(values[there] for values in _block(self.folder, block)))


@functools.lru_cache(maxsize=4096)
def _block(folder: str, number: int) -> Row:
    return Row(*(np.load(_path(Path(folder), number, name), mmap_mode="r") for name in Row._fields))


def _path(folder: Path, number: int, name: str) -> Path:
    return folder / f"{number:06d}.{name}.npy"


def tokenised(files: Sequence[Path], tokenizer: FolderTokenizer, rule: Rule, root: Path) -> Tokenised:
    """Returns the rows of all records of the files, tokenised now or read from the folder in `root`.

    Raises ValueError for a record that is none or of another kind than the first, with its file and line, for files
    without any, and OSError where the folder cannot be written.
    """
    folder = root / _digest(files, tokenizer, rule)
    done = read_json(folder / "done.json")
    if done is None:
        _make(files, tokenizer, rule, folder)
        done = read_json(folder / "done.json")
        assert done is not None
        for line in done["said"]:
            print(line)
    numbers = range(done["blocks"])
    counts = [np.load(_path(folder, n, "lengths")) for n in numbers]
    records = np.concatenate([np.load(_path(folder, n, "records")) for n in numbers])
    first = np.cumsum([0, *(int(c.sum()) for c in counts)])
    return Tokenised(str(folder), done["kind"], np.cumsum([0, *np.concatenate(counts)]), first, records)


def _digest(files: Sequence[Path], tokenizer: FolderTokenizer, rule: Rule) -> str:
    chat = tokenizer.chat and (tokenizer.chat.template, dict(sorted(tokenizer.chat.special.items())))
    parts = [VERSION, BLOCK, [digest(path) for path in files], tokenizer.form, tokenizer.start, tokenizer.stops]
    return hashlib.sha256(json.dumps([*parts, chat, rule]).encode()).hexdigest()[:32]


def _make(files: Sequence[Path], tokenizer: FolderTokenizer, rule: Rule, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    kind, more, blocks, processes = "", set(), 0, jax.process_count()
    for number, block in enumerate(_blocks(files)):
        if not number:
            kind = _form(block[0])[1]  # every process knows it, whichever block is its own
        if number % processes == jax.process_index() and not _path(folder, number, "lengths").is_file():
            more |= write_block(block, number, kind, tokenizer, rule, folder)
        blocks = number + 1
    if not blocks:
        raise ValueError(f"{', '.join(map(str, files))}: there is no record in it.")
    said = [f"{files[0].name}: {', '.join(sorted(more))}: nothing reads these fields"] if more else []
    _wait(folder, blocks)
    if jax.process_index() == 0:
        write_json(folder / "done.json", {"kind": kind.split()[0], "blocks": blocks, "said": said})
    _wait_for(lambda: (folder / "done.json").is_file(), lambda: 1, folder)


def _blocks(files: Sequence[Path]) -> Any:
    records = raw_records(files)
    return iter(lambda: list(itertools.islice(records, BLOCK)), [])


def _form(raw: Raw) -> tuple[dict[str, Any], str]:
    """The record, and its kind with the form of its first field: texts and messages are two."""
    record = raw.value()
    try:
        kind = kind_of(record)
    except ValueError as e:
        raise ValueError(f"{raw.place}: {e}") from e
    return record, kind if isinstance(record.get("prompt"), str | None) else f"{kind} of messages"


def write_block(
    block: Sequence[Raw], number: int, kind: str, tokenizer: FolderTokenizer, rule: Rule, folder: Path
) -> set[str]:
    """Tokenises a block and returns the fields that nothing reads; its lengths are written last.

    Raises ValueError for a record that is none, or of another kind.
    """
    records = []
    for raw in block:
        record, form = _form(raw)
        if form != kind:
            raise ValueError(f"{raw.place}: {form}, and the first record is {kind}: a data set has one kind")
        check_template(form.split()[0], record, tokenizer, rule)
        records.append(record)
    rows = rows_of(kind.split()[0], records, [raw.place for raw in block], tokenizer, rule)
    for name, array in _arrays(rows, number).items():
        path = _path(folder, number, name)
        scratch = path.with_name(f"{path.name}.{os.getpid()}")
        with open(scratch, "wb") as file:
            np.save(file, array)
        os.replace(scratch, path)
    return set(unread(records))


def _arrays(rows: Sequence[Sequence[Row]], number: int) -> dict[str, np.ndarray]:
    """The files of a block by name, in the order of writing: the rows of each of its records, one behind another."""
    flat = [row for some in rows for row in some]
    return {
        "tokens": np.array([t for row in flat for t in row.tokens], np.int32),
        "learned": np.array([x for row in flat for x in row.learned], bool),
        "bytes": np.array([n for row in flat for n in row.bytes], np.int32),
        "records": np.array([number * BLOCK + i for i, some in enumerate(rows) for _ in some], np.int64),
        "lengths": np.array([len(row.tokens) for row in flat], np.int64),
    }


def _wait(folder: Path, blocks: int) -> None:
    def missing() -> int:
        return sum(not _path(folder, n, "lengths").is_file() for n in range(blocks))

    _wait_for(lambda: not missing(), missing, folder)


def _wait_for(done: Any, left: Any, folder: Path) -> None:
    """Waits until `done()`; raises TimeoutError where `left()` stays the same for PATIENCE seconds."""
    last, since = None, time.monotonic()
    while not done():
        if left() != last:
            last, since = left(), time.monotonic()
        if time.monotonic() - since > PATIENCE:
            raise TimeoutError(
                f"{folder}: no new block of another process for {PATIENCE:.0f} seconds. data.cache must be a folder "
                "that all processes see."
            )
        time.sleep(PAUSE)
