"""Teachers of other frameworks, and what networks are shown, said in ways that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from mistakes import CLASSES, FEATURES, MLP, Mistake, check, config, each, run

from kd_jax.models import host_model

W = np.ones((FEATURES, CLASSES), np.float32)


def host(fn, **options):
    return lambda folder: run(folder, teacher=host_model(fn, **options))


def late(x):
    if x.any():
        raise KeyError("weights")
    return x @ W


def shown(**fields):
    return lambda folder: run(folder, config(teacher__preparation=fields))


class Linear(nnx.Module):
    def __init__(self, classes, rngs):
        self.head = nnx.Linear(FEATURES, classes, rngs=rngs)

    def __call__(self, x):
        return self.head(x)


def variables():
    return MLP(16).init(jax.random.key(0), jnp.zeros((1, FEATURES)))


ROWS = [
    Mistake("a host model of no function", "fn is a function of arrays", host(W)),
    Mistake(
        "answers that are probabilities, taken for logits",
        "the answers are probabilities, each row adds up to 1",
        host(lambda x: np.full((len(x), CLASSES), 1 / CLASSES)),
    ),
    Mistake(
        "logits that are called probabilities",
        "outputs='probabilities', and the row",
        host(lambda x: x @ W - 1, outputs="probabilities"),
    ),
    Mistake(
        "other names for probabilities",
        "outputs is 'logits' or 'probabilities', not 'probs'",
        host(late, outputs="probs"),
    ),
    Mistake("a floor of 0", "floor is a probability above 0 and below 1", host(late, floor=0.0)),
    Mistake(
        "a function that fails",
        "the function cannot answer zeros float32[2, 6]: ValueError: matmul",
        host(lambda x: x @ np.ones((3, 4))),
    ),
    Mistake(
        "a function that fails later",
        "the function failed in training: KeyError: 'weights'",
        host(late),
        when="training",
    ),
    Mistake(
        "answers for one example alone",
        "its answer is (4,) for 2 examples: it must be [batch, ...]",
        host(lambda x: x[0] @ W),
    ),
    Mistake(
        "a student that runs on the host",
        "has no parameters, so that it can teach and cannot learn",
        lambda folder: run(folder, student=host_model(late)),
    ),
    Mistake(
        "variables of a host model",
        "host_model(fn) has no parameters, and there are variables",
        lambda folder: run(folder, teacher=host_model(late), teacher_variables={"params": W}),
    ),
    Mistake(
        "an NNX teacher of other classes",
        "must have the same shape",
        lambda folder: run(folder, teacher=Linear(7, nnx.Rngs(0))),
    ),
    Mistake(
        "further teachers as a list",
        "teachers is {name: network, or (network, variables)}, not a list",
        lambda folder: run(folder, teachers=[MLP()]),
    ),
    Mistake(
        "a further teacher called teacher",
        "teachers: 'teacher' is no name for a further one",
        lambda folder: run(folder, teachers={"teacher": (MLP(), variables())}),
    ),
    Mistake(
        "variables of another further teacher",
        "its variables are not those of the second (MLP)",
        lambda folder: run(
            folder,
            config({"kd": {**config().terms.kd, "targets": ("second.logits",)}}),
            teachers={"second": (MLP(24), variables())},
        ),
    ),
    Mistake("a preparation that is not there", "config.teacher.preparation has no field 'means'", shown(means=0.5)),
    Mistake(
        "a preparation like something else",
        "preparation.like is 'data' or 'raw', not 'imagenet'",
        shown(like="imagenet"),
    ),
    Mistake("a preparation that is said twice", "like='raw' says the scale, mean and std", shown(like="raw", mean=0.0)),
    Mistake(
        "a mean of three channels for six features",
        "mean has 3 values, and arrays has 6 channels",
        shown(mean=(0.4, 0.4, 0.4)),
    ),
    Mistake("a std of 0", "scale and std are above 0", shown(std=0.0)),
    Mistake(
        "a size of rows of numbers", "size and crop are of pictures [H, W, C]; these have shape (6,)", shown(size=224)
    ),
    Mistake(
        "a teacher handed over that is shown raw arrays",
        "teacher sees: the raw arrays, float32, 6 numbers",
        lambda folder: run(folder, teacher_variables=variables()),
        goes_on=True,
    ),
]


@each(ROWS)
def test_teachers_from_elsewhere(mistake, tmp_path, capsys):
    check(mistake, tmp_path, capsys)
