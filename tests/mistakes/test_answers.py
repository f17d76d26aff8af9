"""Answers in a teacher's place that do not fit the data, or are none."""

import numpy as np
from mistakes import CLASSES, Mistake, check, config, data, each, run

from kd_jax.cache.stored import from_answers, write_answers
from kd_jax.config import term


def logits(n, classes=CLASSES):
    return np.random.default_rng(n).normal(size=(n, classes)).astype(np.float32)


def whole(classes=CLASSES):
    return {split: logits(len(source), classes) for split, source in data()._asdict().items()}


def told(answers=None, terms="kd", **fields):
    """A run whose teacher are these answers."""
    return lambda folder: run(folder, config(terms, **fields), teacher=from_answers(**(answers or whole())))


def made(*arrays, **options):
    return lambda folder: from_answers(*arrays, **options)


def spoilt(value):
    x = logits(96)
    x[7, 1] = value
    return x


def no_distribution():
    p = np.full((96, CLASSES), 1 / CLASSES, np.float32)
    p[5] *= 2
    return p


def file(name, **arrays):
    def do(folder):
        np.savez(folder / name, **arrays)
        return from_answers(folder / name)

    return do


def torn(folder):
    (folder / "a.npz").write_bytes(b"no file")
    return from_answers(folder / "a.npz")


def top(ids, log_probs=None):
    log_probs = np.full(np.shape(ids), -2.0) if log_probs is None else log_probs
    return {"top_ids": np.asarray(ids), "top_log_probs": np.asarray(log_probs)}


def both(folder):
    return run(folder, teacher=from_answers(**whole()), teacher_variables=({}, {}))


HINT = {
    "hint": {
        **term("losses.feature.feature_hint_loss", ("student.features:embedding",), ("teacher.features:head",)),
        "weight": 1.0,
    }
}

ROWS = [
    Mistake(
        "fewer answers than examples",
        "The teacher has 50 answers to train, and arrays/train has 96 examples (120 of train before some were taken)",
        told({"train": logits(50)}),
    ),
    Mistake(
        "more answers than examples of test",
        "The teacher has 41 answers to test, and arrays/test has 40 examples",
        told(whole() | {"test": logits(41)}),
    ),
    Mistake(
        "answers of other classes",
        "must have the same shape, got student (16, 4) and teacher (16, 5)",
        told(whole(CLASSES + 1)),
    ),
    Mistake(
        "answers that are NaN",
        "1 of 96 logits hold values that are no numbers, the first is number 7",
        made(spoilt(np.nan)),
    ),
    Mistake("answers that are infinite", "1 of 96 logits hold values that are no numbers", made(spoilt(np.inf))),
    Mistake(
        "probabilities whose sum is not 1",
        "the probabilities of example 5 sum to 2, not 1: are these logits?",
        made(no_distribution(), probabilities=True),
    ),
    Mistake("logits as probabilities", "a probability is -…: are these logits?", made(logits(96), probabilities=True)),
    Mistake(
        "answers without a row of classes", "logits are [examples, ..., classes], not (96,)", made(logits(96)[:, 0])
    ),
    Mistake(
        "answers to test alone", "has no answers to train, which is what a student learns from", made(test=logits(40))
    ),
    Mistake("answers of another kind", "holds labels; expected logits, or probabilities", made({"labels": logits(3)})),
    Mistake(
        "features of other rows",
        "features:h has 90 rows, and there are 96 answers",
        made(logits(96), features={"h": logits(90)}),
    ),
    Mistake(
        "answers of several kinds by split",
        "an answer to test is not what one to train is",
        made(logits(96), test=logits(40, 7)),
    ),
    Mistake(
        "a class twice among the likeliest", "the top_ids of example 1 name a class twice", made(top([[0, 1], [2, 2]]))
    ),
    Mistake("a class that there is not", "top_ids are 0..3, got 0..9", made(top([[0, 9]]), num_classes=4)),
    Mistake(
        "probabilities as log-probabilities",
        "of the probability together; natural logarithms",
        made(top([[0, 1]], [[0.6, 0.2]])),
    ),
    Mistake(
        "a temperature of all logits",
        "temperature=4.0 is of the k largest, and all logits are there",
        made(logits(96), temperature=4.0),
    ),
    Mistake("a file of answers that is not there", "There is no file of answers 'nowhere.npz'", made("nowhere.npz")),
    Mistake("a file that holds no answers", "holds 'x'; expected <split>_<field>", file("a.npz", x=logits(3))),
    Mistake("a torn file of answers", "cannot be read as .npz: it is cut off or of another kind", torn),
    Mistake(
        "probabilities of a file", "a.npz says itself what it holds: probabilities=", made("a.npz", probabilities=True)
    ),
    Mistake("a file and arrays", "or in arrays: give one of both", made("a.npz", test=logits(40))),
    Mistake(
        "a folder of no known kind",
        "is no file of answers: .npz, .safetensors, .parquet",
        lambda folder: from_answers(folder),
    ),
    Mistake("answers and parameters", "teacher: its variables are given, and there are only answers of it", both),
    Mistake(
        "a cache of answers",
        "config.teacher.cache.directory='auto' is of a network, and of the teacher there are only answers",
        told(teacher__cache__directory="auto"),
    ),
    Mistake(
        "a student that starts from answers",
        "starts from the teacher, of which there are only answers",
        told(student__initial__name="models.from_teacher.layers"),
    ),
    Mistake(
        "a feature that the answers lack", "The stored answers of the teacher have no tap 'head'", told(terms=HINT)
    ),
    Mistake(
        "tokens for DistillKit of data that have none",
        "DistillKit's and MaxText's files hold tokens beside the answers",
        lambda folder: write_answers(from_answers(**whole()), folder / "dk", data(), k=2),
    ),
]


@each(ROWS)
def test_answers(mistake, tmp_path, capsys):
    check(mistake, tmp_path, capsys)
