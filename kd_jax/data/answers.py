"""A teacher's outputs on disk ("answers"): a folder a split, read at random by example and view.

Every field of an answer (logits, a feature, ...) is one zarr3 array [rows, ...]. TensorStore writes it in chunk files
of `rows_per_chunk` rows; blocks of about 4 KB inside have a CRC-32C each and can be read alone. Row
`starts[example] + view` is the answer to that view of that example. `manifest.json` is written last: it describes the
answers, and holds the SHA-256 of every file. Until then `plan.json` describes what is being built, and
`done/<process>.jsonl` lists the chunks that are on disk.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import tensorstore as ts

from kd_jax.files import digest, write_json

MANIFEST, PLAN, DONE, VIEWS = "manifest.json", "plan.json", "done", "views.npy"
CHUNK_BYTES, BLOCK_BYTES = 8 << 20, 4 << 10
Fields = Mapping[str, tuple[tuple[int, ...], str]]  # name -> (shape of one answer, type)


class CacheError(ValueError):
    """A cache is another one than was asked for, not finished, or damaged; the message says what was expected."""


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
    """The answers to one split; without `stores`, the shape of answers that are not built yet."""

    fields: Fields
    views: np.ndarray  # int32 [examples], the number of views of every example
    stores: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of TensorStore, by field
    folder: Path | None = None

    @functools.cached_property
    def starts(self) -> np.ndarray:
        """Returns int64 [examples + 1]: the first row of every example, and the number of rows."""
        return np.concatenate([[0], np.cumsum(self.views, dtype=np.int64)])

    @property
    def rows(self) -> int:
        return int(self.starts[-1])

    @property
    def row_bytes(self) -> int:
        return sum(_bytes(shape, dtype) for shape, dtype in self.fields.values())

    @property
    def nbytes(self) -> int:
        return self.rows * self.row_bytes

    def only(self, names: Sequence[str]) -> Answers:
        """Returns the answers with these fields alone."""
        fields, stores = ({n: d[n] for n in names if n in d} for d in (self.fields, self.stores))
        return dataclasses.replace(self, fields=fields, stores=stores)

    def rows_of(self, index: np.ndarray, view: np.ndarray) -> np.ndarray:
        """Returns the rows of these views of these examples; a view counts modulo the example's number of views."""
        return self.starts[index] + view % self.views[index]

    def ask(self, index: np.ndarray, view: np.ndarray) -> dict[str, Any]:
        """Starts to read and returns {field: future of its rows}; TensorStore's threads read in the background."""
        rows = self.rows_of(index, view)
        return {name: store[rows].read() for name, store in self.stores.items()}

    def receive(self, futures: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Waits for the futures of `ask` and returns their rows; CacheError for a block whose checksum is wrong."""
        try:
            return {name: future.result() for name, future in futures.items()}
        except ValueError as e:
            raise CacheError(f"The teacher cache {self.folder} is damaged: {e}. Delete the folder to build it.") from e

    def read(self, index: np.ndarray, view: np.ndarray) -> dict[str, np.ndarray]:
        return self.receive(self.ask(index, view))

    def whole(self) -> dict[str, np.ndarray]:
        """Returns all rows of every field."""
        return self.receive({name: store.read() for name, store in self.stores.items()})


def dtype_of(name: str) -> np.dtype:
    """Returns the numpy type of a name, which may be "bfloat16"."""
    return ts.dtype(name).numpy_dtype


def _bytes(shape: Sequence[int], dtype: str) -> int:
    return int(np.prod(shape, dtype=np.int64)) * dtype_of(dtype).itemsize


def path_of(field: str) -> str:
    """Returns the folder of a field, without the slashes of a tap: they would put one array into another."""
    return quote(field, safe="")


def _store(folder: Path, field: str, metadata: Mapping[str, Any] | None = None, write: bool = False) -> Any:
    spec: dict[str, Any] = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": f"{folder.absolute() / path_of(field)}/"},
        "store_data_equal_to_fill_value": True,  # or a chunk of zeros would be no file, and look lost
    }
    if metadata:
        return ts.open({**spec, "metadata": metadata}, create=True, delete_existing=True).result()
    return ts.open(spec, open=True, read=True, write=write).result()


def _metadata(answers: Answers, field: str, rows_per_chunk: int) -> dict[str, Any]:
    shape, dtype = answers.fields[field]
    wanted = max(1, BLOCK_BYTES // max(1, _bytes(shape, dtype)))
    block = max(r for r in range(1, rows_per_chunk + 1) if rows_per_chunk % r == 0 and r <= wanted)
    checked = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    sharding = {"chunk_shape": [block, *shape], "codecs": checked, "index_codecs": checked}
    return {
        "shape": [answers.rows, *shape],
        "data_type": dtype,
        "fill_value": 0,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [rows_per_chunk, *shape]}},
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
    }


def _seal(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _json(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text())
    except ValueError as e:
        raise CacheError(f"{path} is not readable: {e}. Delete {path.parent} to build the cache.") from e
    if path.name == MANIFEST and record.pop("seal", None) != _seal(record):
        raise CacheError(f"{path} was changed after it was written. Delete {path.parent} to build the cache.")
    return record


def is_whole(folder: Path) -> bool:
    """Returns whether the build of this folder was finished."""
    return (folder / MANIFEST).exists()


def describe(answers: Answers, origin: Mapping[str, Any], rows_per_chunk: int) -> dict[str, Any]:
    """Returns what plan.json and manifest.json say of answers, as JSON reads it back.

    `origin` is what the answers depend on: the teacher, the data, the preparation of a batch.
    """
    fields = {name: {"shape": list(shape), "dtype": dtype} for name, (shape, dtype) in answers.fields.items()}
    views = {"rows": answers.rows, "sha256": hashlib.sha256(answers.views.astype("<i4").tobytes()).hexdigest()}
    layout = {"fields": fields, "views": views, "rows_per_chunk": rows_per_chunk, "format": 1}
    return json.loads(json.dumps({"about": origin, **layout}))


def differences(expected: Any, stored: Any, path: str = "") -> list[str]:
    """Returns a line "path: expected X, the cache has Y" for each difference of two trees of plain values."""
    if isinstance(expected, Mapping) and isinstance(stored, Mapping):
        return [
            line
            for key in sorted({*expected, *stored})
            for line in differences(expected.get(key), stored.get(key), f"{path}.{key}" if path else key)
        ]
    return [] if expected == stored else [f"  {path}: expected {expected!r}, the cache has {stored!r}"]


def refuse(folder: Path, lines: Sequence[str]) -> None:
    """Raises CacheError with the lines of `differences`, if there are any."""
    if lines:
        raise CacheError(
            f"The teacher cache {folder} holds other answers:\n" + "\n".join(lines) + "\n"
            "Take that back, delete the folder, or choose another config.teacher.cache.directory."
        )


def begin(folder: Path, answers: Answers, origin: Mapping[str, Any], rows_per_chunk: int) -> tuple[int, set[int]]:
    """Starts or continues a build; returns the rows per chunk and the numbers of the chunks that are on disk.

    Only the process that locked the folder calls it. CacheError if the build of other answers was begun here.
    """
    plan = _json(folder / PLAN)
    if plan is not None:
        rows_per_chunk = plan["rows_per_chunk"]  # of the process that began; others may come in other numbers
        refuse(folder, differences(describe(answers, origin, rows_per_chunk), plan))
        return rows_per_chunk, {record["chunk"] for record in _records(folder)}
    shutil.rmtree(folder / DONE, ignore_errors=True)
    (folder / DONE).mkdir(parents=True)
    for field in answers.fields:
        _store(folder, field, _metadata(answers, field, rows_per_chunk))
    np.save(folder / VIEWS, answers.views.astype("<i4"))
    write_json(folder / PLAN, describe(answers, origin, rows_per_chunk))
    return rows_per_chunk, set()


def _records(folder: Path) -> list[dict[str, Any]]:
    """Returns the records of the chunks that are on disk; a half-written last line is of a chunk that is not."""
    records = {}
    for path in sorted((folder / DONE).glob("*.jsonl")):
        for line in path.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError):
                record = json.loads(line)
                files = {name: (folder / name).stat().st_size for name in record["files"] if (folder / name).exists()}
                if files == {name: size for name, (size, _) in record["files"].items()}:
                    records[record["chunk"]] = record
    return list(records.values())


class Writer:
    """Writes whole chunks and notes each once it is on disk, so that a killed build continues after it."""

    def __init__(self, folder: Path, fields: Fields, rows: int, rows_per_chunk: int, process: int):
        self.folder, self.fields, self.rows, self.size = folder, fields, rows, rows_per_chunk
        self.stores = {name: _store(folder, name, write=True) for name in fields}
        self.notes = open(folder / DONE / f"{process}.jsonl", "a")
        self.notes.write("\n")  # ends a line that a killed process left half written

    def write(self, chunk: int, values: Mapping[str, np.ndarray]) -> None:
        start, stop = chunk * self.size, min((chunk + 1) * self.size, self.rows)
        writes = [self.stores[name][start:stop].write(values[name][: stop - start]) for name in self.fields]
        for future in writes:
            future.result()
        files = {}
        for name, (shape, _) in self.fields.items():
            path = "/".join([path_of(name), "c", str(chunk), *("0" for _ in shape)])
            files[path] = [(self.folder / path).stat().st_size, digest(self.folder / path)]
        self.notes.write(json.dumps({"chunk": chunk, "files": files}) + "\n")
        self.notes.flush()
        os.fsync(self.notes.fileno())

    def close(self) -> None:
        self.notes.close()


def finish(folder: Path) -> None:
    """Writes the manifest of a build whose chunks are all on disk; CacheError if some are not.

    Only the process that locked the folder calls it.
    """
    plan, records = _json(folder / PLAN), _records(folder)
    if plan is None:
        raise CacheError(f"{folder} holds no {PLAN}: no build was begun there.")
    chunks = -(-plan["views"]["rows"] // plan["rows_per_chunk"])
    if len(records) != chunks:
        raise CacheError(f"Of the {chunks} chunks of {folder} only {len(records)} are on disk. Build again to go on.")
    files: dict[str, Any] = {name: file for record in records for name, file in record["files"].items()}
    for path in [folder / VIEWS, *(folder / path_of(name) / "zarr.json" for name in plan["fields"])]:
        files[path.relative_to(folder).as_posix()] = [path.stat().st_size, digest(path)]
    manifest = {**plan, "files": dict(sorted(files.items()))}  # the same bytes in whatever order chunks were written
    write_json(folder / MANIFEST, {**manifest, "seal": _seal(manifest)})
    shutil.rmtree(folder / DONE)
    (folder / PLAN).unlink()


def manifest_of(folder: Path) -> dict[str, Any]:
    """Returns the manifest of a finished build; raises CacheError where the build is missing or not finished."""
    manifest = _json(folder / MANIFEST)
    if manifest is None:
        state = "was begun and not finished" if (folder / PLAN).exists() else "is not there"
        raise CacheError(f"The teacher cache {folder} {state}: build it with launch.py --build_cache.")
    return manifest


def open_answers(folder: Path, *, hash_below: int = 4 << 30) -> Answers:
    """Opens the answers of a finished build. Raises CacheError where a file is missing, torn or changed.

    Every file is hashed if together they have at most `hash_below` bytes. Of larger caches only the sizes are compared
    here; each block's CRC is checked when it is read.
    """
    manifest = manifest_of(folder)
    files = manifest["files"]
    small = sum(size for size, _ in files.values()) <= hash_below
    for name, (size, expected) in sorted(files.items()):
        path = folder / name
        stored = path.stat().st_size if path.exists() else None
        if stored != size:
            problem = "missing" if stored is None else f"torn: {stored:,} bytes"
            raise CacheError(f"{path} is {problem}, expected {size:,} bytes. Delete {folder} to build the cache again.")
        if small and (now := digest(path)) != expected:
            raise CacheError(
                f"{path} has changed: its SHA-256 is {now[:16]}..., expected {expected[:16]}.... "
                f"Delete {folder} to build the cache again."
            )
    fields = {name: (tuple(field["shape"]), field["dtype"]) for name, field in manifest["fields"].items()}
    stores = {name: _store(folder, name) for name in fields}
    return Answers(fields, np.load(folder / VIEWS).astype(np.int32), stores, folder)
