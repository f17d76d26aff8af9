"""Numbers out of range, in every part of a config, in points of a sweep and in ranges of a search."""

import numpy as np
from mistakes import Mistake, check, config, each, run, wrong

import kd_jax
from kd_jax.config.terms import part, supervised, term
from kd_jax.sweep import run as sweep
from kd_jax.sweep import search
from kd_jax.sweep.spec import parse

NAN, INF = float("nan"), float("inf")
FN = "losses.response."


def kd(option="temperature", value=0.0, loss="kd_loss", **fields):
    """What to do in a row whose term `kd` has this option."""
    terms = {"kd": term(f"{FN}{loss}", ("student.logits",), ("teacher.logits",), kwargs={option: value}, **fields)}
    return lambda folder: run(folder, config(terms))


def weighted(weight, schedule=None):
    return kd("temperature", 1.0, weight=weight, schedule=schedule)


def scheme(name, **kwargs):
    terms = {**supervised(), "kd": term(f"{FN}kd_loss", ("student.logits",), ("average.logits",))}
    return lambda folder: run(folder, config(terms, scheme=part(name, **kwargs)))


def augmented(op, **options):
    images = np.zeros((32, 8, 8, 1), np.uint8), np.arange(32, dtype=np.int32) % 4
    splits = kd_jax.from_arrays(train=images, test=images, validation=0.25)
    return lambda folder: run(folder, config(train__augment=({"name": op, **options},)), data=splits)


def swept(text, find=None):
    """What to do in a row: a sweep over digits, or a search of `find` trials."""

    def do(folder):
        made = config(data__validation=0.2, data__limit=100)
        for network in (made.student, made.teacher):
            network.model = {"name": "models.mlp.mlp", "kwargs": {"widths": (4,), "dropout": 0.0}}
        if find:
            return search.run(made, parse(text), folder, trials=find)
        return sweep.run(made, parse(text), folder)

    return do


TEMPERATURE = "terms.kd.kwargs.temperature"
TERMS = [
    Mistake("a temperature of 0", f"{TEMPERATURE} is 0.0; for losses.response.kd_loss it must be above 0", kd()),
    Mistake(
        "a negative temperature",
        f"{TEMPERATURE} is -2.0; for losses.response.kd_loss it must be above 0",
        kd(value=-2.0),
    ),
    Mistake(
        "a temperature that is no number",
        f"{TEMPERATURE} is nan; for losses.response.kd_loss it must be above 0 and finite",
        kd(value=NAN),
    ),
    Mistake(
        "a temperature of 0 among several",
        "temperatures is (2.0, 0.0); for losses.response.multi_level_logit_loss it must be above 0",
        kd("temperatures", (2.0, 0.0), "multi_level_logit_loss"),
    ),
    Mistake(
        "a temperature that a schedule takes to 0",
        f"{TEMPERATURE} at step 1 is 0.0; for losses.response.kd_loss it must be above 0",
        kd(value=part("core.schedules.until", fraction=0.5)),
    ),
    Mistake(
        "beta above 1", "beta is 1.5; for losses.response.jsd_loss it must be in [0, 1]", kd("beta", 1.5, "jsd_loss")
    ),
    Mistake(
        "a skew of 1, which compares the teacher with itself",
        "alpha is 1.0; for losses.response.skew_kl_loss it must be in [0, 1)",
        kd("alpha", 1.0, "skew_kl_loss"),
    ),
    Mistake(
        "a negative weight inside a loss",
        "alpha is -1.0; for losses.response.dkd_loss it must be at least 0",
        kd("alpha", -1.0, "dkd_loss"),
    ),
    Mistake(
        "label smoothing of 1",
        "terms.ce.kwargs.smoothing is 1.0; for losses.task.cross_entropy_loss it must be in [0, 1)",
        lambda folder: run(
            folder,
            config(
                {
                    "ce": term(
                        "losses.task.cross_entropy_loss",
                        ("student.logits",),
                        ("batch.target",),
                        kwargs={"smoothing": 1.0},
                    )
                }
            ),
        ),
    ),
    Mistake("a weight that is no number", "terms.kd.weight is nan; it must be at least 0 and finite", weighted(NAN)),
    Mistake("an infinite weight", "terms.kd.weight is inf; it must be at least 0 and finite", weighted(INF)),
    Mistake("a negative weight", "terms.kd.weight is -0.5; it must be at least 0", weighted(-0.5)),
    Mistake(
        "a negative weight of the task's own term",
        "terms.ce.weight is -1.0; it must be at least 0",
        lambda folder: run(folder, config({"ce": {"weight": -1.0}})),
    ),
    Mistake(
        "a weight that a schedule makes negative",
        "terms.kd.schedule at step 0 is -1.0; it must be at least 0",
        weighted(1.0, part("core.schedules.cosine", start=-1.0, end=1.0)),
    ),
    Mistake(
        "a warm-up of a weight over more than the run",
        "terms.kd.schedule.kwargs.fraction is 2.0; for core.schedules.warmup it must be in [0, 1]",
        weighted(1.0, part("core.schedules.warmup", fraction=2.0)),
    ),
]
FIELDS = [
    Mistake(
        "a learning rate of 0",
        "train.optimizer.learning_rate is 0.0; it must be above 0",
        wrong(train__optimizer__learning_rate=0.0),
    ),
    Mistake(
        "a negative learning rate of the teacher",
        "teacher.train.optimizer.learning_rate is -0.1; it must be above 0",
        wrong(teacher__train__optimizer__learning_rate=-0.1),
    ),
    Mistake(
        "an infinite learning rate",
        "train.optimizer.learning_rate is inf; it must be above 0 and finite",
        wrong(train__optimizer__learning_rate=INF),
    ),
    Mistake(
        "a negative weight decay",
        "train.optimizer.weight_decay is -0.1; it must be at least 0",
        wrong(train__optimizer__name="adamw", train__optimizer__weight_decay=-0.1),
    ),
    Mistake(
        "a momentum of 1",
        "train.optimizer.kwargs.momentum is 1.0; it must be in [0, 1)",
        wrong(train__optimizer__kwargs={"momentum": 1.0}),
    ),
    Mistake(
        "gradients clipped to a negative norm",
        "train.optimizer.clip_norm is -1.0; it must be at least 0",
        wrong(train__optimizer__clip_norm=-1.0),
    ),
    Mistake(
        "a warm-up of the whole run",
        "train.optimizer.warmup is 1.0; it must be in [0, 1)",
        wrong(train__optimizer__warmup=1.0),
    ),
    Mistake(
        "boundaries in epochs",
        "train.optimizer.boundaries is (150, 180); it must be in (0, 1)",
        wrong(train__optimizer__schedule="step", train__optimizer__boundaries=(150, 180)),
    ),
    Mistake(
        "a negative learning rate of a group",
        "optimizers.student.learning_rate is -1.0; it must be above 0",
        lambda folder: run(folder, config(optimizers__student={**config().train.optimizer, "learning_rate": -1.0})),
    ),
    Mistake(
        "an accuracy in per cent", "teacher.min_accuracy is 90.0; it must be in [0, 1]", wrong(teacher__min_accuracy=90)
    ),
    Mistake(
        "a share of labelled rows above 1",
        "train.labelled_share is 1.5; it must be in [0, 1]",
        wrong(train__labelled_share=1.5),
    ),
    Mistake(
        "epochs that are no number",
        "train.epochs is nan; it must be at least 0 and finite",
        wrong(train__epochs=NAN, train__steps=0),
    ),
    Mistake("a negative seed", "seed is -1; it must be at least 0", wrong(seed=-1)),
    Mistake(
        "a cache at temperature 0",
        "teacher.cache.temperature is 0.0; it must be above 0",
        wrong(teacher__cache__temperature=0.0),
    ),
]
PARTS = [
    Mistake(
        "an average of its teacher that never moves",
        "decay is 1.0; for schemes.average_teacher.build it must be in [0, 1)",
        scheme("schemes.average_teacher.build", decay=1.0),
    ),
    Mistake("mixup of nothing", "alpha is 0.0; for mixup it must be above 0", augmented("mixup", alpha=0.0)),
    Mistake(
        "a crop with negative padding",
        "padding is -1; for pad_crop it must be at least 0",
        augmented("pad_crop", padding=-1),
    ),
    Mistake(
        "a model that drops out everything",
        "dropout is 1.0; for models.mlp.mlp it must be in [0, 1)",
        wrong(
            roles={
                "other": {
                    "model": part("models.mlp.mlp", dropout=1.0),
                    "inputs": ("batch.image",),
                    "group": "",
                    "initial": "",
                }
            }
        ),
    ),
]
SWEEPS = [
    Mistake(
        "a sweep over temperatures with a 0",
        f"{TEMPERATURE} is 0.0; for losses.response.kd_loss it must be above 0",
        swept("terms.kd.kwargs.temperature=1,0"),
    ),
    Mistake(
        "a sweep over weights with a negative one",
        "terms.kd.weight is -1.0; it must be at least 0",
        swept("terms.kd.weight=0.5,-1"),
    ),
    Mistake(
        "a sweep over learning rates with a 0",
        "train.optimizer.learning_rate is 0.0; it must be above 0",
        swept("train.optimizer.learning_rate=0.1,0"),
    ),
    Mistake(
        "a sweep over dropout with a 1",
        "dropout is 1.0; for models.mlp.mlp it must be in [0, 1)",
        swept("student.model.kwargs.dropout=0.1,1"),
    ),
    Mistake(
        "a search for temperatures from 0",
        f"{TEMPERATURE} is 0.0; for losses.response.kd_loss it must be above 0",
        swept("terms.kd.kwargs.temperature=uniform:0..4", find=2),
    ),
    Mistake(
        "a search for weight decay from below 0",
        "train.optimizer.weight_decay is -1.0; it must be at least 0",
        swept("train.optimizer.weight_decay=uniform:-1..1", find=2),
    ),
]


@each([*TERMS, *FIELDS, *PARTS, *SWEEPS])
def test_ranges(mistake, tmp_path, capsys):
    check(mistake, tmp_path, capsys)
