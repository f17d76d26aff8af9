"""Tasks, schemes and sweeps of one's own that give the report something it cannot show."""

import dataclasses
import sys
import types

import numpy as np
from mistakes import Mistake, check, config, each, run

from kd_jax.report.forms import check_sections
from kd_jax.sweep import run as sweep
from kd_jax.sweep.spec import parse
from kd_jax.tasks import classify
from kd_jax.types import Task

TABLE = {"kind": "table", "title": "Bits", "lead": "Fewer.", "columns": ["bits", "accuracy"], "rows": [[8, 0.95]]}
IMAGES = {"kind": "images", "title": "Made up", "lead": "By hand.", "images": [[[0, 255]]], "labels": ["3"]}
LINES = {
    "kind": "lines",
    "title": "Front",
    "lead": "x",
    "x_label": "cost",
    "y_label": "score",
    "lines": {"a": [[1, 2]]},
}
TEXTS = {"kind": "texts", "title": "Written", "lead": "By the student.", "texts": ["a"], "labels": ["1"]}
DOTS = {"kind": "dots", "title": "Gaps", "lead": "x", "names": ["a", "b"], "band": None, "x_label": "points"}
EXAMPLES = {"kind": "examples", "title": "Shown", "lead": "x", "examples": [{"label": 1}], "names": ["a", "b"]}

# A user's file, as a config names it; each row puts its own function there.
mine = sys.modules.setdefault("mine", types.ModuleType("mine"))


def task(**fields):
    """A run with a task of one's own, which differs from the built-in one in `fields`."""

    def do(folder):
        mine.task = lambda source=None: dataclasses.replace(classify.task(source), **fields)
        return run(folder, config(task__name="mine:task", report="show" in fields, examples=2))

    return do


def show(section):
    """What a run says of a section, without the run."""
    return lambda folder: check_sections([section], "show of the task 'mine'")


def summarised(folder):
    mine.summary = lambda roles, sources: lambda state, record: [TABLE | {"rows": [[8]]}]
    return run(folder, config(summary__name="mine:summary"))


def diverging(folder):
    made = config(data__name="digits", data__limit=64, data__eval_limit=32, data__validation=0.2)
    made.student.model = made.teacher.model = {"name": "models.mlp.mlp", "kwargs": {"widths": (4,)}}
    made.train.optimizer.learning_rate, made.baseline = 1e30, False
    return sweep.run(made, parse("seed=0"), folder)


ROWS = [
    Mistake(
        "a task's headline that is a name alone",
        "The headline of a task is (metric, +1 or -1, unit, error metric), such as…, not 'iou'",
        lambda folder: Task(classify.terms, classify.check, classify.sums, classify.finish, headline="iou"),
    ),
    Mistake(
        "a task's headline with a direction in words",
        "(metric, +1 or -1, unit, error metric)…not ('accuracy', 'max')",
        task(headline=("accuracy", "max")),
    ),
    Mistake(
        "a task's rows without units",
        "The rows of a task are {metric: (label, unit)}; that of 'accuracy' is 'right'.",
        task(rows={"accuracy": "right"}),
    ),
    Mistake(
        "a task's headline that its finish does not measure",
        "The task's headline is 'acuracy', which it does not measure. Did you mean 'accuracy'",
        task(headline=("acuracy", 1, "%", "accuracy_error")),
        when="training",
    ),
    Mistake(
        "a headline's error that is not measured",
        "The task's headline's error is 'error', which it does not measure.",
        task(headline=("accuracy", 1, "%", "error")),
        when="training",
    ),
    Mistake(
        "a row of a metric that does not exist",
        "The task's rows name 'acuracy', which it does not measure: that line is left out. Did you mean 'accuracy'",
        task(rows={"acuracy": ("accuracy", "%")}),
        when="end",
        goes_on=True,
    ),
    Mistake(
        "a task's show that returns nothing",
        "show of the task 'classify' returns a list of sections of the report, not a NoneType.",
        task(show=lambda shown: None),
        when="end",
    ),
    Mistake(
        "a task's show that returns one section, not a list",
        "returns a list of sections of the report, not a dict.",
        task(show=lambda shown: TABLE),
        when="end",
    ),
    Mistake(
        "a section that is a text",
        "A section of the report is a dict with kind, title and lead, not a str.",
        show("a sentence"),
        when="end",
    ),
    Mistake(
        "a section of a kind that does not exist",
        "A section of the report is one of table, images, lines, texts, dots, examples, not 'plot'.",
        show(TABLE | {"kind": "plot"}),
        when="end",
    ),
    Mistake(
        "a section without its lead",
        "The section 'Bits' lacks lead.",
        show({k: v for k, v in TABLE.items() if k != "lead"}),
        when="end",
    ),
    Mistake(
        "a table with a row too short",
        "show of the task 'classify': The section 'Bits': row 0 has 1 cells for 2 columns.",
        task(show=lambda shown: [TABLE | {"rows": [[8]]}]),
        when="end",
    ),
    Mistake(
        "a table of NumPy numbers",
        "The section 'Bits' holds a value of type float32, and results.json lists, texts and numbers",
        show(TABLE | {"rows": [[8, np.float32(0.5)]]}),
        when="end",
    ),
    Mistake(
        "images of floats beyond 255",
        "The section 'Made up': image 0 has values from 0 to 300, expected 0..255.",
        show(IMAGES | {"images": [[[0, 300]]]}),
        when="end",
    ),
    Mistake(
        "images with the channels first",
        "The section 'Made up': image 0 is [3, 4, 4], expected [H, W], [H, W, 1] or [H, W, 3].",
        show(IMAGES | {"images": [np.zeros((3, 4, 4), int).tolist()]}),
        when="end",
    ),
    Mistake(
        "fewer labels than images",
        "The section 'Made up': 1 images and 0 labels.",
        show(IMAGES | {"labels": []}),
        when="end",
    ),
    Mistake(
        "a text that is a list",
        "The section 'Written': ['a'] is no text.",
        show(TEXTS | {"texts": [["a"]]}),
        when="end",
    ),
    Mistake(
        "a line of numbers in place of points",
        "The section 'Front': the line 'a' is not a list of [x, y].",
        show(LINES | {"lines": {"a": [1, 2, 3]}}),
        when="end",
    ),
    Mistake(
        "dots of a model that is not there",
        "The section 'Gaps': 'assistant' is none of the models teacher, baseline, student.",
        show(DOTS | {"series": {"assistant": [0.0, 1.0]}}),
        when="end",
    ),
    Mistake(
        "dots for some of the names",
        "The section 'Gaps': 1 numbers of the teacher for 2 names.",
        show(DOTS | {"series": {"teacher": [0.0]}}),
        when="end",
    ),
    Mistake(
        "an example without the teacher's probabilities",
        "The section 'Shown': example 0 lacks teacher_soft.",
        show(EXAMPLES),
        when="end",
    ),
    Mistake(
        "a summary with a table that does not fit",
        "The scheme's summary: The section 'Bits': row 0 has 1 cells for 2 columns.",
        summarised,
        when="end",
    ),
    Mistake(
        "a sweep in which every run diverges",
        "Every setting diverged in at least one run: there is no best one. Try smaller learning rates.",
        diverging,
        when="end",
        goes_on=True,
    ),
]


@each(ROWS)
def test_report(mistake, tmp_path, capsys):
    check(mistake, tmp_path, capsys)
