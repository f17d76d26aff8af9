"""Files of records: JSONL, JSONL.gz, Parquet and Arrow, read record by record in the order of their lines."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kd_jax.data.images.arrow import parquet, pyarrow
from kd_jax.data.source import DataNotFound

LINES, COMPRESSED = (".jsonl", ".ndjson"), (".jsonl.gz", ".ndjson.gz")
TABLES = (".parquet", ".arrow")
ENDINGS = (*LINES, *COMPRESSED, *TABLES)


class Raw(NamedTuple):
    """A record that is not read yet: bytes of a line, or the row of a table; `place` is for messages."""

    place: str
    content: Any

    def value(self) -> Any:
        """Returns the record; ValueError, with its place, for a line that is no JSON in UTF-8."""
        if not isinstance(self.content, bytes):
            return self.content
        try:
            return json.loads(self.content)
        except ValueError as e:  # of JSON, or of UTF-8
            raise ValueError(f"{self.place}: no JSON: {e}") from e


def files_of(path: str, field: str) -> list[Path]:
    """Returns the file, or the files of a folder by name; DataNotFound where there is none of a form that is read."""
    place = Path(path)
    if place.is_file():
        if not place.name.endswith(ENDINGS):
            raise ValueError(f"{field}={path!r}: a file of records ends in {', '.join(ENDINGS)}.")
        return [place]
    files = sorted(p for p in place.glob("*") if p.is_file() and p.name.endswith(ENDINGS)) if place.is_dir() else []
    if not files:
        what = "holds no file that ends in " + ", ".join(ENDINGS) if place.is_dir() else "is not there"
        raise DataNotFound(f"{field}={path!r} {what}.")
    return files


def raw_records(files: Sequence[Path]) -> Iterator[Raw]:
    """Yields the records of files, empty lines left out. Raises ValueError for a file that is cut off or of no form."""
    for path in files:
        yield from (_rows if path.name.endswith(TABLES) else _lines)(path)


def _lines(path: Path) -> Iterator[Raw]:
    opened = gzip.open if path.name.endswith(COMPRESSED) else open
    try:
        with opened(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield Raw(f"{path}, line {number}", line)
    except (EOFError, gzip.BadGzipFile, zlib.error) as e:
        raise ValueError(f"{path} is no gzip file, or cut off: {e}") from e


def _rows(path: Path) -> Iterator[Raw]:
    number = 0
    for batch in _batches(path):
        for row in batch.to_pylist():
            number += 1
            yield Raw(f"{path}, row {number}", {k: v for k, v in row.items() if v is not None})


def _batches(path: Path) -> Iterator[Any]:
    arrow = pyarrow()
    try:
        if path.suffix == ".parquet":
            yield from parquet().ParquetFile(path).iter_batches()
            return
        with arrow.memory_map(str(path)) as file:
            try:
                table = arrow.ipc.open_file(file)
                yield from (table.get_batch(i) for i in range(table.num_record_batches))
            except arrow.ArrowInvalid:  # the form of a stream, as `datasets` writes it
                file.seek(0)
                yield from arrow.ipc.open_stream(file)
    except arrow.ArrowInvalid as e:
        raise ValueError(f"{path} is no {path.suffix[1:]} file that can be read: {e}") from e
