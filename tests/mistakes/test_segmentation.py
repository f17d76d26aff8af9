"""Masks, networks and folders that do not fit segmentation."""

import flax.linen as nn
import numpy as np
from mask_files import squares, write_pairs
from mistakes import Mistake, check, config, each
from PIL import Image

import kd_jax
from kd_jax.data import mask_folder, masks


class Net(nn.Module):
    classes: int = 3
    stride: int = 1

    @nn.compact
    def __call__(self, x):
        return nn.Conv(self.classes, (3, 3), (self.stride, self.stride), name="head")(x)


def run(folder, change=lambda x, y: (x, y), student=None, made=None, teacher=None, names=None):
    """A run on pictures and masks that `change` made wrong."""
    train, test = change(*squares(24)), change(*squares(8, seed=1))
    data = kd_jax.from_arrays(train=train, test=test, names=names)
    made = config(**{"task__name": "tasks.segment.task"}) if made is None else made
    return kd_jax.run(made, folder / "run", student=student or Net(), teacher=teacher or Net(), data=data)


def moved(**kwargs):
    return config(task__name="tasks.segment.task", prepare=dict(name="data.moved_masks.moved", kwargs=kwargs))


def wide(x, y):
    return x[:, :, :8], y[:, :, :8]


def files(spoil=lambda folder: None, **options):
    def do(folder):
        write_pairs(folder, 6)
        spoil(folder)
        return mask_folder.from_folder(folder, **options)

    return do


def saved(name, array):
    return lambda folder: Image.fromarray(array).save(folder / name)


def grey(size, value=0):
    return np.full((size, size), value, np.uint8)


def stored_answers(folder):
    teacher = kd_jax.from_answers(np.zeros((24, 16, 16, 3), np.float32))
    return run(folder, made=moved(flip=True), teacher=teacher)


ROWS = [
    Mistake(
        "masks of another size than the pictures",
        "labels of arrays are int32 (24, 8, 8), and the task takes masks: integers [examples, 16, 16], as large as",
        lambda folder: run(folder, lambda x, y: (x, y[:, ::2, ::2])),
    ),
    Mistake(
        "masks as shares",
        "labels of arrays are float32 (24, 16, 16), and the task takes masks: integers",
        lambda folder: run(folder, lambda x, y: (x, y.astype(np.float32))),
    ),
    Mistake(
        "a class that there is not",
        "arrays/train: labels are 0..1 (-1 = none), got 0..2",
        lambda folder: run(folder, names=("sky", "road")),
        when="reading",
    ),
    Mistake(
        "masks as files have them, with 255 for no class",
        "these masks hold 255, which in files is no class: give int32 with -1 there",
        lambda folder: run(folder, lambda x, y: (x, np.where(y == 2, 255, y).astype(np.uint8))),
        when="reading",
    ),
    Mistake(
        "a network that answers at a stride",
        "answers 8 x 8 pixels to a mask of 16 x 16: a network that works at a stride ends in jax.image.resize",
        lambda folder: run(
            folder, student=Net(stride=2), made=config({"ce": {"weight": 1.0}}, task__name="tasks.segment.task")
        ),
    ),
    Mistake(
        "a network with other classes",
        "The student answers with (…, 16, 16, 4); on this data it is [batch, H, W, classes], (…, 16, 16, 3)",
        lambda folder: run(
            folder, student=Net(4), made=config({"ce": {"weight": 1.0}}, task__name="tasks.segment.task")
        ),
    ),
    Mistake(
        "flips that leave the masks behind",
        "config.train.augment's flip changes the picture alone: config.prepare.name=data.moved_masks",
        lambda folder: run(folder, made=config(task__name="tasks.segment.task", train__augment=("flip",))),
    ),
    Mistake(
        "mixed pictures of masks",
        "config.train.augment's mixup changes the picture alone",
        lambda folder: run(folder, made=config(task__name="tasks.segment.task", train__augment=({"name": "mixup"},))),
    ),
    Mistake(
        "turns of pictures that are not square",
        "config.prepare.kwargs.turn needs square pictures, these are 16 x 8",
        lambda folder: run(folder, wide, made=moved(turn=True)),
    ),
    Mistake(
        "moves of labels that are no masks",
        "config.prepare: moved needs masks, integers [batch, H, W]",
        lambda folder: run(
            folder,
            lambda x, y: (x, np.arange(len(x)) % 3),
            made=config(prepare=dict(name="data.moved_masks.moved", kwargs={})),
        ),
    ),
    Mistake(
        "a shift to nowhere",
        "shift is -1",
        lambda folder: run(folder, made=moved(shift=-1)),
    ),
    Mistake(
        "a boundary without a width",
        "tolerance is 0",
        lambda folder: run(folder, made=config(task=dict(name="tasks.segment.task", kwargs=dict(tolerance=0)))),
    ),
    Mistake(
        "moved pictures and answers to those that are not",
        "stored answers of the teacher are to pictures that are not moved",
        stored_answers,
    ),
    Mistake(
        "a picture without a mask",
        "images/2.png has no file of its name in …masks (1 of 6)",
        files(lambda folder: (folder / "masks" / "2.png").unlink()),
        when="reading",
    ),
    Mistake(
        "a mask without a picture",
        "masks/more.png has no file of its name in …images (1 of 7)",
        files(saved("masks/more.png", grey(16))),
        when="reading",
    ),
    Mistake(
        "a mask file of another size",
        "masks/2.png is (8, 8), its picture (16, 16): a mask is as large",
        files(saved("masks/2.png", grey(8))),
        when="reading",
    ),
    Mistake(
        "pictures of several sizes",
        "images/2.png is (8, 8), others are (16, 16): data.image_size makes them of one size",
        files(lambda folder: [saved(f"{what}/2.png", grey(8))(folder) for what in ("images", "masks")]),
        when="reading",
    ),
    Mistake(
        "a mask in colours",
        "masks/2.png is RGB; a mask has a class's number at every pixel",
        files(saved("masks/2.png", np.zeros((16, 16, 3), np.uint8))),
        when="reading",
    ),
    Mistake(
        "a file with a class that has no name",
        "masks/2.png has a pixel of class 7, and there are 3, numbered from 0; 255 is no class",
        files(saved("masks/2.png", grey(16, 7)), names=("sky", "road", "car")),
        when="reading",
    ),
    Mistake(
        "no folder of masks",
        "There is no folder …masks: pictures lie in images/, masks of the same names in masks/",
        files(lambda folder: (folder / "masks").rename(folder / "labels")),
        when="reading",
    ),
    Mistake(
        "no test pictures",
        "has no test split: data.test=0.0 of 6 pictures holds out 0",
        files(test=0.0),
        when="reading",
    ),
    Mistake(
        "no folder at all",
        "there is no folder '' of pictures and masks (data.directory)",
        lambda folder: mask_folder.folder({}),
        when="reading",
    ),
    Mistake(
        "nuclei that are not on this machine",
        "nuclei: there is no folder …pip install --no-deps stardist",
        lambda folder: masks.nuclei({"directory": str(folder / "none")}),
        when="reading",
    ),
]


@each(ROWS)
def test_segmentation(mistake, tmp_path, capsys):
    check(mistake, tmp_path, capsys)
