"""Tables as data: numbers and categories as columns, sensitive attributes beside them.

    x        float32 [rows, columns] (batch.image): a column a number, a column of 0 and 1 a level of a category
    label    int32 [rows], the class, or float32 [rows], a number
    <name>   int32 [rows], the group of each row by a sensitive attribute: the place of its level in Source.levels

Mean and deviation of the numbers, and the levels of the categories, are those of the training rows; columns of 0 and 1
have mean 0 and deviation 1, so that a network sees them as they are. A missing number is the mean of the training rows,
and a column "<name> is missing" says so; a missing category is a level of its own. A level that train has not is 0 in
all columns. A sensitive attribute is no column of x unless `sensitive_inputs` names it.
"""

from __future__ import annotations

import csv as csv_module
import dataclasses
import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kd_jax.data import arrays, splits
from kd_jax.data.load import DEFAULTS
from kd_jax.data.source import DataNotFound, Splits
from kd_jax.files import path_of
from kd_jax.resolve import near

Column = dict[str, Any]  # one of x: {"column": that of the table, and "mean" of numbers, "missing": True, or "level"}
Columns = dict[str, np.ndarray]  # float64 [rows], nan where missing: numbers; texts, "" where missing: a category
MISSING = ("", "?", "NA", "nan", "NaN")
TABLE: dict[str, Any] = dict(
    target="", regress=False, sensitive=(), sensitive_inputs=(), left_out=()
)  # the fields of `csv`


def csv(config: Mapping[str, Any]) -> Splits:
    """Loads the table in the file data.directory: .csv with a header, or a .zip that holds one.

    Beside `directory`, `test`, `validation` and `split_seed` it reads these fields of config.data (TABLE has their
    defaults): `target`, the column to learn, a class unless `regress`; `sensitive`, columns that become fields of the
    data, and of these `sensitive_inputs`, which the network reads too; `left_out`, columns that nobody reads. A column
    of numbers is a number, any other a category. ValueError for a column that is not there.
    """
    fields = {**DEFAULTS, **TABLE, **config}
    if not fields["directory"] or not fields["target"]:
        raise ValueError("A table needs data.directory, its .csv or .zip file, and data.target, the column to learn.")
    path = path_of(fields["directory"], "data.directory")
    if not path.is_file():
        raise DataNotFound(f"table: there is no file {path}.")
    columns = read(path)
    named = (fields["target"], *fields["sensitive"], *fields["sensitive_inputs"], *fields["left_out"])
    for column in named:
        if column not in columns:
            raise ValueError(f"{path.name} has no column {column!r}. {near(column, columns)}")
    columns = {name: values for name, values in columns.items() if name not in fields["left_out"]}
    return as_splits(path.stem, columns, fields)


def read(path: Path) -> Columns:
    """Returns the columns of a .csv file, or of the one in a .zip; ValueError for rows of different lengths."""
    return {name: _column(cells) for name, cells in read_cells(path).items()}


def read_cells(path: Path) -> dict[str, tuple[str, ...]]:
    """Returns the cells of the columns of a .csv file, or of the one in a .zip, as they stand there.

    ValueError for rows of different lengths.
    """
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as file:
                text = file.read(file.namelist()[0]).decode()
        else:
            text = path.read_text(encoding="utf-8")
    except (zipfile.BadZipFile, IndexError, UnicodeDecodeError) as e:
        raise ValueError(
            f"{path} is no table: it is neither a .csv file of text nor a .zip that holds one ({e})"
        ) from e
    names, *rows = [row for row in csv_module.reader(io.StringIO(text)) if row] or [[]]
    if not rows:
        raise ValueError(f"{path} is no table: below its header there is no row.")
    for number, row in enumerate(rows):
        if len(row) != len(names):
            raise ValueError(f"{path}: row {number} has {len(row)} cells, the header {len(names)}.")
    return dict(zip(names, zip(*rows, strict=True), strict=True))


def _column(cells: Sequence[str]) -> np.ndarray:
    """Numbers, if all cells that are not missing are some."""
    texts = _levels(cells)
    missing = texts == ""
    try:
        values = np.full(len(texts), np.nan)
        values[~missing] = texts[~missing].astype(np.float64)
        return values
    except ValueError:
        return texts


def as_splits(name: str, columns: Columns, fields: Mapping[str, Any]) -> Splits:
    """Returns the splits of a table: `fields` are those of `csv` and of config.data.

    Test and validation have the shares `test` and `validation`, in each class alike; `split_seed` draws them. Raises
    ValueError for a target that is missing somewhere, or constant, and for shares that leave a split empty.
    """
    labels, class_names = _labels(name, columns[fields["target"]], fields)
    sensitive = {attribute: columns[attribute] for attribute in fields["sensitive"]}
    if strangers := sorted(set(fields["sensitive_inputs"]) - set(sensitive)):
        raise ValueError(
            f"data.sensitive_inputs names {strangers[0]!r}; the sensitive attributes of {name} are {sorted(sensitive)}."
        )
    hidden = {fields["target"], *sensitive} - {*fields["sensitive_inputs"]}
    shown = {column: values for column, values in columns.items() if column not in hidden}
    parts = _parts(labels, fields)
    counts = [len(parts["test"]), len(parts["validation"])]
    splits.check_counts(f"rows of {name}", len(labels), counts, _Shares(fields))
    x, mean, std, what = encoded(shown, parts["train"])
    groups = {attribute: np.unique(_texts(values), return_inverse=True) for attribute, values in sensitive.items()}
    levels = {attribute: tuple(map(str, names)) for attribute, (names, _) in groups.items()}

    def make(split: str) -> Any:
        rows = parts[split]
        numbers = {attribute: group[rows].astype(np.int32) for attribute, (_, group) in groups.items()}
        options = dict(class_names=class_names, mean=mean, std=std, fields=numbers, levels=levels)
        made = arrays.in_memory(name, split, x[rows], labels[rows], **options)
        return dataclasses.replace(made, columns=what)

    return Splits(make("train"), make("validation") if counts[1] else None, make("test"))


class _Shares:
    """What splits.check_counts reads."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.test, self.validation = fields["test"], fields["validation"]


def _labels(name: str, target: np.ndarray, fields: Mapping[str, Any]) -> tuple[np.ndarray, tuple[str, ...]]:
    missing = np.isnan(target) if target.dtype.kind == "f" else target == ""
    if missing.any():
        raise ValueError(f"{name}: {missing.sum()} rows have no {fields['target']!r}, which is to be learned.")
    if fields["regress"]:
        if target.dtype.kind != "f":
            raise ValueError(
                f"{name}: data.regress asks for numbers, and {fields['target']!r} holds {str(target[0])!r}."
            )
        return target.astype(np.float32), (fields["target"],)
    names, labels = np.unique(_texts(target), return_inverse=True)
    if len(names) < 2:
        raise ValueError(
            f"{name}: all rows have the same {fields['target']!r}, {str(names[0])!r}: nothing can be learned."
        )
    return labels.astype(np.int32), tuple(map(str, names))


def _texts(values: np.ndarray) -> np.ndarray:
    """The levels of a column as texts, "" where one is missing; those of whole numbers without a point."""
    return np.array(["" if np.isnan(v) else f"{v:g}" for v in values]) if values.dtype.kind == "f" else values


def _parts(labels: np.ndarray, fields: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The rows of each split."""
    seed, classes = fields["split_seed"], splits.strata(labels)
    rest, test = splits.hold_out(classes, fields["test"], seed)
    share = min(fields["validation"] / (1 - fields["test"]), 0.999)  # `validation` is a share of the whole table
    train, validation = splits.hold_out(classes[rest], share, seed + 1)
    return {"train": rest[train], "validation": rest[validation], "test": test}


def encoded(columns: Columns, train: np.ndarray) -> tuple[np.ndarray, list[float], list[float], tuple[Column, ...]]:
    """Returns (x float32 [rows, columns], mean, std, what each column is) as the rows `train` have them."""
    made: list[tuple[float, float, Column]] = []
    for name, values in columns.items():
        if values.dtype.kind == "f":
            missing = np.isnan(values)
            there = values[train][~missing[train]]
            mean = float(there.mean()) if len(there) else 0.0
            deviation = float(there.std()) if len(there) else 0.0
            # A number that is the same in all rows of train says nothing: it stays 0, not 0/0.
            made.append((mean, deviation if deviation > 1e-9 else 1.0, {"column": name, "mean": mean}))
            if missing[train].any():
                made.append((0.0, 1.0, {"column": name, "missing": True}))
        else:
            made += [(0.0, 1.0, {"column": name, "level": str(level)}) for level in np.unique(values[train])]
    if not made:
        raise ValueError("The table has no column to learn from.")
    mean, std, what = map(list, zip(*made, strict=True))
    return as_rows(columns, what), mean, std, tuple(what)


def as_rows(columns: Mapping[str, Sequence[Any] | np.ndarray], what: Sequence[Column]) -> np.ndarray:
    """Returns what a network of a table reads of further rows, float32 [rows, len(what)].

    `columns` are cells by name, texts or numbers, or arrays as `read` has them of a file; `what` is info["columns"] of
    a loaded network. A level that training had not is 0 in all columns. ValueError for a column that is not there, and
    for one of numbers that holds a text.
    """
    made = []
    for one in what:
        name = one["column"]
        if name not in columns:
            raise ValueError(f"The rows have no column {name!r}, which the network reads. {near(name, columns)}")
        values = columns[name]
        if not (isinstance(values, np.ndarray) and values.dtype.kind in "fU"):
            values = _levels(values)
        if "level" in one:
            made.append(_texts(values) == one["level"])
            continue
        numbers = values if values.dtype.kind == "f" else _column(values)
        if numbers.dtype.kind != "f":
            raise ValueError(f"The column {name!r} is one of numbers, and a row of it holds {_no_number(numbers)!r}.")
        missing = np.isnan(numbers)
        made.append(missing if "missing" in one else np.where(missing, one["mean"], numbers))
    return np.stack(made, axis=1).astype(np.float32)


def _levels(cells: Sequence[Any]) -> np.ndarray:
    """Cells as texts, "" where one is missing."""
    texts = np.array([str(cell).strip() for cell in cells])
    return np.where(np.isin(texts, MISSING), "", texts)


def _no_number(texts: np.ndarray) -> str:
    """The first of the texts that is no number."""
    return next(str(text) for text in texts if text and _column([text]).dtype.kind != "f")
