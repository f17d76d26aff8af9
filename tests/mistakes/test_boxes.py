"""Pictures with boxes: boxes that are none, pictures of several sizes, networks and labels of another task."""

import importlib.util

import numpy as np
import pytest
from coco_files import content, object_of, write
from mistakes import MLP, Mistake, check, each

import kd_jax
from kd_jax.data import coco
from kd_jax.data.boxes import with_boxes

PICTURES = np.zeros((4, 16, 16, 1), np.uint8)
BOX = (2, 2, 9, 9)
SCORED = pytest.mark.skipif(importlib.util.find_spec("faster_coco_eval") is None, reason="AP needs faster-coco-eval")


def data(boxes=BOX, kind=0, images=PICTURES, counts=1, **fields):
    part = (images, [[boxes] * counts] * len(images), [[kind] * counts] * len(images))
    return with_boxes(**{"train": part, "test": part, "names": ("cat", "dog"), **fields})


def made(**changes):
    return lambda folder: data(**changes)


def run(folder, source=None, student=None, **changes):
    """A run on four empty pictures with a box each."""
    config = kd_jax.base()
    config.task.name = "tasks.detect.task"
    config.terms = {name: {"weight": 1.0} for name in ("quality", "giou", "dfl")}
    for role in ("student", "teacher"):
        config[role].model = dict(name="models.detection.dense.detector", kwargs=dict(widths=(2, 2), pyramid=2, bins=4))
    config.train.steps = config.teacher.train.steps = 1
    config.train.batch_size = config.teacher.train.batch_size = 2
    config.baseline = config.report = False
    config.mesh.axes.data = 1
    for path, value in changes.items():
        config.update_from_flattened_dict({path.replace("__", "."): value})
    return kd_jax.run(config, folder / "run", data=data() if source is None else source, student=student)


def classes_alone(folder):
    pair = (PICTURES, np.arange(4) % 2)
    return run(folder, kd_jax.from_arrays(train=pair, test=pair))


def files(*objects, change=lambda made: None, spoil=lambda folder: None):
    """What reads two pictures in COCO's form with these objects; `change` is of the .json, `spoil` of the folder."""

    def do(folder):
        made = content(2, [object_of(1, (1, 1, 5, 5)), *objects])
        change(made)
        write(folder / "boxes.json", made, folder)
        spoil(folder)
        return coco.folder({"directory": str(folder), "test": 0.5})

    return do


ROWS = [
    Mistake(
        "a box outside of its picture",
        "boxes/train: image 0 has the box (2, 2, 20, 9), outside of its 16 x 16 pixels (width, height)",
        made(boxes=(2, 2, 20, 9)),
    ),
    Mistake(
        "a box whose corners are exchanged",
        "has the box (9, 2, 2, 9); a box is (x1, y1, x2, y2) with x1 < x2 and y1 < y2",
        made(boxes=(9, 2, 2, 9)),
    ),
    Mistake(
        "a box that is written as centre and size",
        "has the box (8, 8, 4, 4); a box is (x1, y1, x2, y2)",
        made(boxes=(8, 8, 4, 4)),
    ),
    Mistake("a box of no number", "has the box (2, 2, nan, 9); a box is", made(boxes=(2, 2, np.nan, 9))),
    Mistake("a class that is none", "has an object of class 2; the classes are 0 to 1", made(kind=2)),
    Mistake("classes counted from -1", "has an object of class -1; the classes are 0 to 1", made(kind=-1)),
    Mistake(
        "pictures of several sizes",
        "boxes/train: images of several sizes, (12, 16, 1) and (16, 16, 1); resize them, and their boxes, to one",
        made(images=[PICTURES[0], PICTURES[0, :12]]),
    ),
    Mistake(
        "no box at all",
        "boxes/train: no image has a box, so there is nothing to learn from",
        made(counts=0),
    ),
    Mistake(
        "boxes for some of the pictures",
        "boxes/test: 4 images, 3 lists of boxes and 4 of classes",
        made(test=(PICTURES, [[BOX]] * 3, [[0]] * 4)),
    ),
    Mistake(
        "more boxes than classes",
        "boxes/test: image 0 has 2 boxes and 1 classes",
        made(test=(PICTURES, [[BOX, BOX]] * 4, [[0]] * 4)),
    ),
    Mistake(
        "images without their boxes",
        "boxes/test is (images, boxes, classes), not a ndarray",
        made(test=PICTURES),
    ),
]
RUNS = [
    Mistake(
        "detection on classes",
        "The labels of arrays are int32 (4,), and the task takes objects, float32 [images, objects, 5]",
        classes_alone,
    ),
    Mistake(
        "a classifier as a detector",
        'Term…a detector that is trained answers {"classes" [batch, points, classes], "sides"',
        lambda folder: run(folder, student=MLP()),
    ),
    Mistake(
        "pictures that the levels do not divide",
        "14 x 16 pixels are no multiples of 4",
        lambda folder: run(folder, data(images=PICTURES[:, :14])),
    ),
    Mistake(
        "a flip of the picture alone",
        "The labels of boxes are boxes, and config.train.augment's flip changes the picture alone",
        lambda folder: run(folder, train__augment=("flip",)),
    ),
    Mistake(
        "a threshold that is no probability",
        "threshold is 5.0; for tasks.detect.task it must be in [0, 1]",
        lambda folder: run(folder, task__kwargs={"threshold": 5.0}),
    ),
]


FILES = [
    Mistake(
        "a box of COCO's form outside of its picture",
        "boxes.json: 0.png has the box (20, 2, 40, 9), outside of its 32 x 24 pixels (width, height)",
        files(object_of(0, (20, 2, 20, 7))),
        when="reading",
    ),
    Mistake(
        "a box of COCO's form without a width",
        "boxes.json: 0.png has the box (3, 3, 3, 9); a box is (x1, y1, x2, y2)",
        files(object_of(0, (3, 3, 0, 6))),
        when="reading",
    ),
    Mistake(
        "a category that the file does not list",
        "boxes.json: 0.png has an object of category 9; those of train are [3, 7]",
        files(object_of(0, (3, 3, 6, 6), category=9)),
        when="reading",
    ),
    Mistake(
        "an annotation of no picture",
        "boxes.json is not of COCO's form…an annotation is of image 15, which is not listed",
        files(object_of(5, (3, 3, 6, 6))),
        when="reading",
    ),
    Mistake(
        "pictures of several sizes in COCO's form",
        "boxes.json: 1.png is 16 x 12 pixels, the first picture 32 x 24: data.image_size makes them of one size",
        files(change=lambda made: made["images"][1].update(width=16, height=12)),
        when="reading",
    ),
    Mistake(
        "a listed picture that is not there",
        "boxes.json: there is no picture 1.png in ",
        files(spoil=lambda folder: (folder / "1.png").unlink()),
        when="reading",
    ),
    Mistake(
        "a .json of another form",
        "boxes.json is not of COCO's form: something in it has no 'images'",
        files(spoil=lambda folder: (folder / "boxes.json").write_text("{}")),
        when="reading",
    ),
    Mistake(
        "a folder without a .json",
        "hold no .json of images, annotations and categories",
        lambda folder: coco.folder({"directory": str(folder)}),
        when="reading",
    ),
    Mistake(
        "no folder of pictures with boxes",
        "coco: there is no folder '' of pictures with boxes (data.directory)",
        lambda folder: coco.folder({}),
        when="reading",
    ),
]


@each(FILES)
def test_files(mistake, tmp_path, capsys):
    check(mistake, tmp_path, capsys)


@each(ROWS)
def test_boxes(mistake, tmp_path, capsys):
    check(mistake, tmp_path, capsys)


@SCORED
@each(RUNS)
def test_detectors(mistake, tmp_path, capsys):
    check(mistake, tmp_path, capsys)


MISSING = Mistake(
    "detection without its evaluator",
    "Detection is scored by faster-coco-eval, which is not installed: pip install",
    run,
)


def test_a_missing_evaluator_is_said_at_the_start(tmp_path, capsys, monkeypatch):
    original = importlib.util.find_spec
    hidden = lambda name, *more: None if name == "faster_coco_eval" else original(name, *more)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", hidden)
    check(MISSING, tmp_path, capsys)
