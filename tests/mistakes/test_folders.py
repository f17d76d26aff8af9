"""Folders, lists and shards of pictures that are not there, broken, or of another kind."""

import tarfile

import numpy as np
from digits_on_disk import class_folders, shards
from mistakes import Mistake, check, config, each
from PIL import Image

import kd_jax


def small(folder, **data):
    made = config()
    made.data.update(dict(name="folder", directory=str(folder)) | {"channels": 1} | data)
    for role in ("student", "teacher"):
        made[role].model = dict(name="models.vision.cnn.cnn", kwargs=dict(widths=(2, 2)))
    return made


def of(change=None, name="folder", counts=None, **data):
    """A run on digits in class folders (or shards), after `change(folder)`, which may return another path."""

    def do(tmp_path):
        write = shards if name == "webdataset" else class_folders
        folder = write(tmp_path / "pictures", counts or {"train": 40, "test": 10})
        path = (change(folder) if change else None) or folder
        made = small(path, **data)
        made.data.name = name
        return kd_jax.run(made, tmp_path / "run")

    return do


def empty_class(folder):
    (folder / "train" / "digit99").mkdir()


def one_class(folder):
    for path in (folder / "train").iterdir():
        if path.name != "digit1":
            path.rename(folder / f"not {path.name}")


def unknown_class(folder):
    (folder / "test" / "digit0").rename(folder / "test" / "digitO")


def corrupt(folder):
    path = sorted(folder.glob("train/*/*.png"))[2]
    path.write_bytes(path.read_bytes()[:50])


def larger(folder):
    path = sorted(folder.glob("train/*/*.png"))[2]
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(path)


def listed(*rows, header="path,label"):
    def do(folder):
        paths = [f"{p.relative_to(folder)},{p.parent.name}" for p in sorted(folder.glob("train/*/*.png"))]
        (folder / "labels.csv").write_text("\n".join([header, *paths, *rows]))
        return folder / "labels.csv"

    return do


def many_classes_by_hand(folder):
    return kd_jax.from_folder(class_folders(folder / "p", {"train": 20, "test": 5}), names=["digit0", "digit1"])


def packed(folder):
    tar = next(folder.glob("*.tar"))
    tar.rename(tar.with_suffix(".tar.gz"))


def cut_tar(folder):
    tar = next(folder.glob("train*.tar"))
    tar.write_bytes(tar.read_bytes()[:700])


def unlabelled_tar(folder):
    with tarfile.open(folder / "train-x.tar", "w") as tar:
        info = tarfile.TarInfo("5.cls")
        tar.addfile(info)


ROWS = [
    Mistake(
        "a folder of pictures that is not there",
        "There is no folder of pictures and no .csv or .jsonl file …/nowhere'",
        of(lambda folder: folder / "nowhere"),
    ),
    Mistake(
        "data.name=imagefolder",
        "There is no data set 'imagefolder'. Did you mean data.name='folder'?",
        lambda folder: kd_jax.run(_named(folder, "imagefolder"), folder / "run"),
    ),
    Mistake(
        "no directory of a folder",
        "data.name='folder' needs data.directory",
        lambda folder: kd_jax.run(small(""), folder / "run"),
    ),
    Mistake(
        "a class without pictures",
        "train/digit99 holds no picture (…): every class of train needs some",
        of(empty_class),
    ),
    Mistake("one class alone in a folder", "train has one class alone, 'digit1'", of(one_class)),
    Mistake(
        "the folder of one class in place of the folder of classes",
        "pictures and no folder of a class: is it the folder of one class?",
        of(lambda folder: folder / "train" / "digit1"),
    ),
    Mistake(
        "a class that only test has",
        "test has a class 'digitO' that train lacks. Did you mean 'digit",
        of(unknown_class),
    ),
    Mistake("a corrupt picture in memory", ".png: a picture of 50 bytes cannot be decoded", of(corrupt)),
    Mistake(
        "a corrupt picture, streamed",
        ".png: a picture of 50 bytes cannot be decoded",
        of(corrupt, image_size=8),
        when="training",
    ),
    Mistake(
        "corrupt pictures that are to be left out",
        "folder/train: 1 of 40 pictures are broken and left out: …cannot be decoded",
        of(corrupt, on_error="skip"),
        goes_on=True,
    ),
    Mistake("pictures of several sizes", "is 9x9: data.image_size must say what to make of them", of(larger)),
    Mistake("a crop that there is not", "data.crop='center'. Did you mean 'centre'?", of(image_size=8, crop="center")),
    Mistake("a crop of pictures as they are", "data.crop='whole' has no effect: data.image_size=0", of(crop="whole")),
    Mistake("two channels", "data.channels is 3 (RGB) or 1 (grey), not 2", of(channels=2)),
    Mistake("an answer to errors that there is not", "data.on_error='ignore'", of(on_error="ignore")),
    Mistake(
        "a crop of data that are no pictures in files",
        "data.on_error='skip' has no effect on digits: it is of folder, webdataset, hf_dataset",
        lambda folder: kd_jax.run(config(data__on_error="skip"), folder / "run"),
    ),
    Mistake(
        "a list with a path that is not there",
        "1 of 41 pictures are not there (line 42: 'x/missing.png')",
        of(listed("x/missing.png,digit1")),
    ),
    Mistake(
        "a list without labels", "has the columns path, class; expected path and label", of(listed(header="path,class"))
    ),
    Mistake(
        "a list with an unknown split",
        "line 2: split 'tset'. Did you mean 'test'?",
        of(lambda folder: _with_split(folder)),
    ),
    Mistake("a row of a list with too many columns", "line 42: expected 2 columns", of(listed("a,b,c"))),
    Mistake("classes by names that lack one", "has a class 'digit2' that `names` lacks", many_classes_by_hand),
    Mistake(
        "tar files as a folder",
        "holds tar files: data.name='webdataset' reads them",
        lambda folder: kd_jax.run(small(shards(folder / "tars", {"train": 20, "test": 5})), folder / "run"),
    ),
    Mistake(
        "a folder as tar files",
        "reads the .tar files in data.directory=…: none",
        lambda folder: kd_jax.run(_named(class_folders(folder / "p", {"train": 20}), "webdataset"), folder / "run"),
    ),
    Mistake(
        "compressed shards",
        ".tar.gz is compressed, and its members cannot be read in any order",
        of(packed, "webdataset"),
    ),
    Mistake("a shard that was cut off", ".tar is corrupt", of(cut_tar, "webdataset")),
    Mistake("a label without a picture in a shard", "train-x.tar holds no picture", of(unlabelled_tar, "webdataset")),
    Mistake(
        "a folder as a saved data set of Hugging Face",
        "reads what datasets.load_dataset(NAME).save_to_disk(FOLDER) writes",
        lambda folder: kd_jax.run(_named(class_folders(folder / "p", {"train": 20}), "hf_dataset"), folder / "run"),
    ),
]


def _named(folder, name):
    made = small(folder)
    made.data.name = name
    return made


def _with_split(folder):
    path = next(folder.glob("train/*/*.png"))
    (folder / "labels.csv").write_text(f"path,label,split\n{path.relative_to(folder)},a,tset\n")
    return folder / "labels.csv"


@each(ROWS)
def test_folders(mistake, tmp_path, capsys):
    check(mistake, tmp_path, capsys)
