"""Pictures that a CSV or JSONL file lists: path and label, and maybe split and further columns.

    path,label,split,age
    cats/1.jpg,cat,train,3

Paths are relative to the file. Labels are names of classes, numbers of classes (all integers from 0, and -1 for none),
or numbers to predict (any other); an empty one is none. `split` is train, validation or test, and empty for train.
Further columns of numbers become fields of a batch; columns of text are named and not read.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kd_jax.data.images.encoded import SHOWN, Encoded
from kd_jax.data.images.files import of_files, split_of
from kd_jax.files import read_utf8
from kd_jax.resolve import near

KINDS = (".csv", ".jsonl")
PATHS = ("path", "file_name")  # the second is that of Hugging Face's metadata.csv


def read(path: Path, names: Sequence[str] | None, on_error: str) -> tuple[dict[str, Encoded], list[str], Path]:
    """Returns (the pictures by split, the names of the classes, the folder of the paths).

    Raises ValueError, with the line, for a file of another kind, a missing column, picture or split, and a class that
    `names` lacks; with on_error="skip" missing pictures are counted and left out.
    """
    if path.suffix not in KINDS:
        raise ValueError(f"{path} lists pictures only as {' or '.join(KINDS)}.")
    rows = _rows(path)
    root = path.parent
    column = next((name for name in PATHS if name in rows[0][1]), None)
    if column is None or "label" not in rows[0][1]:
        raise ValueError(f"{path} has the columns {', '.join(rows[0][1])}; expected path and label, and maybe split.")
    rows = _there(path, root, column, rows, on_error)
    labels, class_names = _labels(path, rows, names)
    fields = _fields(path, rows, {column, "label", "split"})
    at = np.array([_split(path, number, str(row.get("split") or "train")) for number, row in rows])
    encoded = {}
    for split in ("train", "validation", "test"):
        chosen = np.flatnonzero(at == split)
        if len(chosen):
            files = [root / str(rows[i][1][column]) for i in chosen]
            of_split = {name: values[chosen] for name, values in fields.items()}
            encoded[split] = of_files(root, files, labels[chosen], of_split)
    if "train" not in encoded:
        raise ValueError(f"{path} lists no picture of the split 'train'.")
    return encoded, class_names, root


def _rows(path: Path) -> list[tuple[int, Mapping[str, Any]]]:
    """[(line, {column: value})]."""
    text = read_utf8(path).removeprefix("\ufeff")
    rows: list[tuple[int, Mapping[str, Any]]] = []
    if path.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(text))
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(f"{path}, line {reader.line_num}: expected {len(reader.fieldnames or ())} columns.")
            rows.append((reader.line_num, row))
    else:
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError as e:
                    raise ValueError(f"{path}, line {number}: no JSON, {e}") from e
                if not isinstance(row, dict):
                    raise ValueError(f'{path}, line {number}: one object a line, as in {{"path": ..., "label": ...}}.')
                rows.append((number, row))
    if not rows:
        raise ValueError(f"{path} lists no picture.")
    return rows


def _there(path: Path, root: Path, column: str, rows: list, on_error: str) -> list:
    """The rows whose picture is there."""
    missing = [(number, row) for number, row in rows if not (root / str(row.get(column))).is_file()]
    if not missing:
        return rows
    shown = "; ".join(f"line {number}: {row.get(column)!r}" for number, row in missing[:SHOWN])
    what = f"{path}: {len(missing)} of {len(rows)} pictures are not there ({shown}); paths are relative to {root}"
    if on_error == "raise" or len(missing) == len(rows):
        raise ValueError(f"{what}.")
    print(f"{what}; they are left out")
    lines = {number for number, _ in missing}
    return [row for row in rows if row[0] not in lines]


def _split(path: Path, number: int, value: str) -> str:
    split = split_of(value)
    if split in ("train", "validation", "test"):
        return split
    raise ValueError(f"{path}, line {number}: split {value!r}. {near(value, ('train', 'validation', 'test'))}")


def _labels(path: Path, rows: list, names: Sequence[str] | None) -> tuple[np.ndarray, list[str]]:
    """(labels, names of the classes)."""
    values = ["" if row.get("label") is None else str(row["label"]).strip() for _, row in rows]
    numbers = {value: _number(value) for value in values if value}
    if numbers and None not in numbers.values():
        return _of_numbers(path, values, {value: float(value) for value in numbers}, names)
    class_names = sorted(numbers) if names is None else list(names)
    order = {name: i for i, name in enumerate(class_names)}
    for (line, _), value in zip(rows, values, strict=True):
        if value and value not in order:
            raise ValueError(f"{path}, line {line}: the class {value!r} is none of `names`. {near(value, class_names)}")
    if not class_names:
        raise ValueError(f"{path} has no label at all, so `names` must tell the classes.")
    return np.array([order.get(value, -1) for value in values], np.int32), class_names


def _of_numbers(
    path: Path, values: list[str], numbers: Mapping[str, float], names: Sequence[str] | None
) -> tuple[np.ndarray, list[str]]:
    """Labels that are numbers of classes, where all are integers from -1 on, and else numbers to predict."""
    if not all(n.is_integer() and n >= -1 for n in numbers.values()):
        return np.array([numbers.get(value, np.nan) for value in values], np.float32), list(names or ("label",))
    count = int(max(numbers.values())) + 1
    class_names = [str(i) for i in range(count)] if names is None else list(names)
    if count > len(class_names):
        raise ValueError(f"{path} has the label {count - 1}, and `names` has {len(class_names)} classes.")
    return np.array([numbers.get(value, -1) for value in values], np.int32), class_names


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _fields(path: Path, rows: list, taken: set[str]) -> dict[str, np.ndarray]:
    """Further columns of numbers; says which others are not read."""
    fields, texts = {}, []
    for name in rows[0][1]:
        if name in taken:
            continue
        values = [row.get(name) for _, row in rows]
        try:
            array = np.array([float(v) if isinstance(v, str) else v for v in values])
            if array.dtype.kind not in "iufb":
                raise ValueError
        except ValueError:
            texts.append(name)
            continue
        whole = array.dtype.kind in "iub" or bool((array == np.floor(array)).all())
        fields[name] = array.astype(np.int32 if whole else np.float32)
    if texts:
        print(f"{os.path.basename(path)}: the columns {', '.join(texts)} hold no numbers and are not read")
    return fields
