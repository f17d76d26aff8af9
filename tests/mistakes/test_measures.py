"""Measures that there are not, and those that do not fit the run."""

import numpy as np
from mistakes import Mistake, check, config, data, each, run, wrong
from tiny_sweep import tiny

import kd_jax
from kd_jax.sweep.run import run as sweep
from kd_jax.sweep.spec import parse


def swept(folder):
    made = tiny()
    made.measure = ("energy",)
    return sweep(made, parse("seed=0,1"), folder)


def pictures():
    x, y = np.zeros((16, 8, 8, 1), np.uint8), np.arange(16) % 4
    return kd_jax.from_arrays(train=(x, y), test=(x, y))


ROWS = [
    Mistake(
        "a measure that there is not",
        "config.measure: there is no measure 'selectiv'. Did you mean 'selective'?",
        wrong(measure=("selectiv",)),
    ),
    Mistake(
        "none and another",
        "config.measure='none,selective': 'none' is for no measure at all",
        wrong(measure=("none", "selective")),
    ),
    Mistake(
        "an option out of range",
        "config.measure_kwargs.selective.coverage is 2.0; for selective it must be in (0, 1].",
        wrong(measure_kwargs__selective__coverage=2.0),
    ),
    Mistake(
        "an option that there is not",
        "'selective' takes no argument 'coverag'. Did you mean 'coverage'?",
        wrong(measure_kwargs__selective__coverag=0.5),
    ),
    Mistake(
        "corruptions of data that are no images",
        "config.measure='corruptions': it is of uint8 images [H, W, 1] or [H, W, 3], and arrays has examples, float32 "
        "[6]",
        wrong(measure=("corruptions",)),
    ),
    Mistake(
        "a temperature with nothing held out",
        "config.measure='calibration': it is chosen on validation, and nothing is held out",
        lambda folder: run(folder, config(measure=("calibration",)), data=data(validation=0.0)),
    ),
    Mistake(
        "energy without the counts",
        "config.measure='energy': FLOPs are counted with the report of a run, and there is none: config.report is",
        wrong(measure=("energy",)),
    ),
    Mistake(
        "layers of a teacher that there is not",
        "config.measure='cka': it compares with a teacher, and this run has none",
        lambda folder: run(
            folder, config({"ce": {"weight": 1.0}}, measure=("cka",), teacher__model__name=""), teacher=None
        ),
    ),
    Mistake(
        "other data that there are not",
        "There is no data set 'digit'",
        wrong(measure=("ood",), measure_kwargs__ood__data="digit"),
    ),
    Mistake(
        "attacks in no order",
        "config.measure_kwargs.attacks.eps are sizes in 1/255, each larger than the last, not (4.0, 2.0)",
        lambda folder: run(
            folder, config(measure=("attacks",), measure_kwargs__attacks__eps=(4.0, 2.0)), data=pictures()
        ),
    ),
    Mistake(
        "a measure of a report, in a sweep",
        "config.measure='energy': FLOPs are counted with the report of a run, and there is none",
        swept,
    ),
    Mistake(
        "a measure that is no Measure",
        "config.measure: 'numpy:mean' is a …, not a kd_jax.measure.subject.Measure",
        wrong(measure=("numpy:mean",)),
    ),
]


@each(ROWS)
def test_measures(mistake, tmp_path, capsys):
    check(mistake, tmp_path, capsys)
