"""Networks that cannot be loaded, and examples that are not those of the data."""

import functools
import json
import shutil
import tempfile
from pathlib import Path

import flax.linen as nn
import numpy as np
from mistakes import CLASSES, MLP, Mistake, check, each, points, run

import kd_jax
from kd_jax import card, predict
from kd_jax.system.exports import seal

X = points(4)[0]


@functools.cache
def finished(kind: str = "rows") -> Path:
    """The workdir of a run on rows, or on pictures."""
    folder = Path(tempfile.mkdtemp())
    if kind == "rows":
        run(folder)
        return folder / "run"
    x, y = np.random.default_rng(0).integers(0, 256, (32, 4, 4, 3), np.uint8), np.arange(32) % CLASSES
    run(folder, data=kd_jax.from_arrays(train=(x, y), test=(x, y)), student=MLP(), teacher=MLP())
    return folder / "run"


def changed(hurt, **options):
    """Loads a copy of the export of a finished student to which something was done."""

    def do(folder):
        export = shutil.copytree(finished() / "student/export/last/student", folder / "export")
        hurt(export)
        return kd_jax.load(export, **options)

    return do


def rewritten(**fields):
    """Other fields of model.json, with checksums that say nothing."""

    def hurt(export):
        info = json.loads((export / "model.json").read_text())
        (export / "model.json").unlink()
        seal(export, {**info, **fields})

    return changed(hurt)


def older(export):
    (export / "model.json").unlink()
    seal(export)


def edited(export):
    text = (export / "model.json").read_text()
    (export / "model.json").write_text(text.replace('"seed": 0', '"seed": 1'))


def unfinished(folder):
    shutil.copytree(finished(), folder / "run")
    (folder / "run/student/done.json").unlink()
    return kd_jax.load(folder / "run")


def with_lambda(folder):
    """A student whose activation only the script that ran can make."""
    run(folder, student=nn.Sequential([nn.Dense(4), lambda x: x, nn.Dense(CLASSES)]))
    return kd_jax.load(folder / "run")


def asked(raw, kind="rows"):
    return lambda folder: kd_jax.load(finished(kind)).predict(raw)


def files(name, content=b"", out=""):
    def do(folder):
        (folder / name).write_bytes(content)
        return predict.predict_files(str(finished()), [str(folder / name)], out and str(folder / out))

    return do


def moved(folder):
    shutil.copytree(finished() / "student", folder / "student")
    return card.write_card(folder / "student")


PICTURES = np.zeros((2, 4, 4, 3), np.float32)
ELSEWHERE = {"name": "not_installed.nets:Net", "kwargs": {}}
ROWS = [
    Mistake(
        "a folder that holds no network",
        "There is no exported model at …/nothing",
        lambda f: kd_jax.load(f / "nothing"),
    ),
    Mistake("an export of an older version", "has no model.json…older version", changed(older)),
    Mistake("a model.json that was edited", "is damaged: 1 of …missing or changed (model.json)", changed(edited)),
    Mistake(
        "an export of a version to come", "is of schema 99, and this version of kd_jax reads 1", rewritten(schema=99)
    ),
    Mistake(
        "a network whose module is not installed here",
        "its network not_installed.nets:Net cannot be built here: …no module 'not_installed'…kd_jax.load(…model=...)",
        rewritten(architecture=ELSEWHERE),
    ),
    Mistake(
        "an export that names a function of Python itself",
        "'os:system' is of Python's own library, and no part of a network",
        rewritten(architecture={"name": "os:system", "kwargs": {"command": "true"}}),
    ),
    Mistake("a network with a lambda", "only its author's code builds: …<lambda>…model=...", with_lambda, when="end"),
    Mistake("another network than was exported", "does not hold this model", changed(lambda e: None, model=MLP(3))),
    Mistake("an unfinished run", "is not finished", unfinished, when="end"),
    Mistake(
        "a step that there is not",
        "has no 'best' step: nothing was held out",
        lambda f: kd_jax.load(finished("pictures"), which="best"),
    ),
    Mistake(
        "the export of another step", "is of the 'last' step, not of 'best'", changed(lambda e: None, which="best")
    ),
    Mistake(
        "another word for a step",
        "which is 'best' or 'last', not 'newest'",
        lambda f: kd_jax.load(finished(), which="newest"),
    ),
    Mistake(
        "an entry that was not scored",
        "answers at no 'exit1'. There is: student",
        lambda f: kd_jax.load(finished(), entry="exit1"),
    ),
    Mistake(
        "rows of another width",
        "Expected image [n, 6] float32, as in training; these have shape [4, 5]",
        asked(X[:, :5]),
    ),
    Mistake("rows with a gap", "some values are not finite", asked(np.full((1, 6), np.nan))),
    Mistake("texts for a network of numbers", "takes no texts: it reads image float32 [6]", asked(["good", "bad"])),
    Mistake("nothing to predict", "There are no examples to answer to", asked([])),
    Mistake("rows of two widths", "The examples of a list have one shape each", asked([X[0], X[0, :3]])),
    Mistake("an entry that is not read", "reads no colour", asked({"colour": X})),
    Mistake(
        "pictures from 0 to 1 where 0 to 255 were learned",
        "Expected image [n, 4, 4, 3] uint8, 0 to 255, as in training; these are float32 from 0 to 0: undo your scaling",
        asked(PICTURES, "pictures"),
    ),
    Mistake(
        "numbers that are no bytes",
        "these lie between 0 and 300",
        asked(PICTURES.astype(np.int32) + [0, 0, 300], "pictures"),
    ),
    Mistake(
        "pictures of another size",
        "these have shape [2, 4, 4, 1]",
        asked(PICTURES[..., :1].astype(np.uint8), "pictures"),
    ),
    Mistake(
        "a file to predict that is not there",
        "There is no file …",
        lambda f: predict.predict_files(str(finished()), [str(f / "a.npy")]),
    ),
    Mistake("a file of another kind", "is none of .png, …", files("a.pdf")),
    Mistake("a file that is cut off", "cannot be read as .npy", files("a.npy", b"\x93NUMPY")),
    Mistake(
        "a folder without pictures", "holds no pictures", lambda f: predict.predict_files(str(finished()), [str(f)])
    ),
    Mistake(
        "a picture for a network of rows", "is a picture, and this network reads float32 [6]", files("a.png", b"x")
    ),
    Mistake("predictions into another format", "ends in .csv or .jsonl", files("a.csv", b"1,2,3,4,5,6\n", "out.xlsx")),
    Mistake("a card of a student that was moved", "There is no results.json above", moved, when="end"),
]


@each(ROWS)
def test_loading(mistake, tmp_path, capsys):
    check(mistake, tmp_path, capsys)
    assert not list(tmp_path.glob("*.tmp"))
