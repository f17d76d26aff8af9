"""Splits without examples, labels of no class or of one, and shares that leave nothing."""

from pathlib import Path

import numpy as np
from mistakes import MLP, Mistake, check, config, data, each, points, run

import kd_jax
from kd_jax import train
from kd_jax.models.adapters import as_model
from kd_jax.system import parallel


def arrays(train=None, test=None, **options):
    """What to do in a row whose data are these arrays."""
    return lambda folder: run(
        folder, data=kd_jax.from_arrays(train=train or points(), test=test or points(40), **options)
    )


def of_one_class(folder):
    x, y = points()
    return arrays(train=(x, y * 0), test=(points(40)[0], np.zeros(40, np.int32)), names=4)(folder)


def labelled(**fields):
    """What to do in a row with these fields of config.data."""
    return lambda folder: kd_jax.run(config(**{f"data__{k}": v for k, v in fields.items()}), folder / "run")


def of_unknown_class(folder):
    whole = data()
    train = whole.train.with_labels(np.where(whole.train.labels == 3, 7, whole.train.labels))
    return run(folder, data=whole._replace(train=train))


def of_few_examples(folder: Path):
    """The check that begins a run, which goes on."""
    made, networks = config(train__batch_size=128), {"student": as_model(MLP()), "teacher": as_model(MLP())}
    return train.run.checked_jobs(made, folder, parallel.make_mesh(made.mesh.axes), networks, data())


ROWS = [
    Mistake("an empty test split", "arrays/test has no examples", arrays(test=(points(40)[0][:0], points(40)[1][:0]))),
    Mistake(
        "an empty training split", "arrays/train has no examples", arrays(train=(points(40)[0][:0], points(40)[1][:0]))
    ),
    Mistake(
        "a validation share that leaves nothing to train on",
        "validation=0.999 of 120 examples holds out 120 and leaves 0",
        arrays(validation=0.999),
    ),
    Mistake(
        "a validation share of less than an example",
        "validation=1e-12 of 120 examples holds out 0",
        arrays(validation=1e-12),
    ),
    Mistake("a validation share above 1", "data.validation is 1.5; it must be in [0, 1)", labelled(validation=1.5)),
    Mistake(
        "no test split for data that bring none",
        "digits has no test split of its own: data.test=0.0",
        labelled(test=0.0),
    ),
    Mistake("label noise above 1", "data.label_noise is 2.0; it must be in [0, 1]", labelled(label_noise=2.0)),
    Mistake("a negative number of labels", "data.labels is -5; it must be at least 0", labelled(labels=-5)),
    Mistake(
        "one class alone",
        "teacher: all labels of arrays/train are 0: from one class there is nothing to learn",
        of_one_class,
    ),
    Mistake(
        "labels of classes that there are not",
        "the labels of arrays/train are 0..7; they must be 0..3",
        of_unknown_class,
    ),
    Mistake(
        "a batch of more than all examples",
        "a batch of 128 holds examples of arrays/train twice: there are 96",
        of_few_examples,
        goes_on=True,
    ),
]


@each(ROWS)
def test_data(mistake, tmp_path, capsys):
    check(mistake, tmp_path, capsys)
