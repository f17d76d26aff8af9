"""Trees as teachers that do not fit."""

import sys

from mistakes import Mistake, check, config, each, run

from kd_jax.config import files
from kd_jax.data import public_tables


def taught(**kwargs):
    def do(folder):
        made = config(teacher__model={"name": "models.trees.ensemble", "kwargs": dict(trees=2, depth=2) | kwargs})
        made.teacher.train.steps = 0
        return run(folder, made, teacher=None)

    return do


def without_xgboost(folder):
    before = sys.modules.get("xgboost")
    sys.modules["xgboost"] = None
    try:
        return taught(kind="xgboost")(folder)
    finally:
        del sys.modules["xgboost"]
        if before is not None:
            sys.modules["xgboost"] = before


def as_student(folder):
    made = config(student__model={"name": "models.trees.ensemble", "kwargs": dict(trees=2, depth=2)})
    return run(folder, made, student=None)


ROWS = [
    Mistake(
        "a kind of trees that there is not",
        "kind is 'boosting', 'forest', 'xgboost', not 'bagging'",
        taught(kind="bagging"),
    ),
    Mistake("no tree at all", "trees is 0; for models.trees.ensemble it must be at least 1", taught(trees=0)),
    Mistake("trees of a library that is missing", "kind='xgboost' needs it: pip install xgboost", without_xgboost),
    Mistake("trees as a student", "has no parameters, so that it can teach and cannot learn", as_student),
    Mistake(
        "letters that are not on this machine",
        "letters: there is no file …It lies in the Debian package r-cran-mlbench: apt-get install r-cran-mlbench",
        lambda folder: public_tables.letters({"directory": str(folder / "none.rda")}),
        when="reading",
    ),
    Mistake(
        "two teachers of trees at once",
        "forest and xgboost are two teachers: say one of them",
        lambda folder: files.config_of(files.load(files.locate("tabular.py")), "forest,xgboost"),
        when="command",
    ),
]


@each(ROWS)
def test_trees(mistake, tmp_path, capsys):
    check(mistake, tmp_path, capsys)
