import shutil

import jax
import numpy as np
import pytest
from digits_on_disk import class_folders, some
from PIL import Image

import kd_jax
from kd_jax.data import batches, stream
from kd_jax.data.images import encoded as encoded_pictures
from kd_jax.data.images import files
from kd_jax.data.load import load
from kd_jax.system import identity


@pytest.fixture
def folder(tmp_path):
    return class_folders(tmp_path / "pictures", {"train": 60, "test": 20})


def test_pictures_of_one_size_are_in_memory_in_the_order_of_class_and_name(folder):
    train, validation, test = kd_jax.from_folder(folder, channels=1)
    images, labels = some(60)
    order = np.argsort(labels, kind="stable")
    np.testing.assert_array_equal(train.images[..., 0], images[order])
    np.testing.assert_array_equal(train.labels, labels[order])
    assert train.class_names == tuple(f"digit{i}" for i in range(10)) and validation is None and len(test) == 20
    assert train.mean == pytest.approx((np.mean(images / 255),)) and train.std == pytest.approx((np.std(images / 255),))
    in_colour = kd_jax.from_folder(folder).train
    assert in_colour.image_shape == (8, 8, 3) and (in_colour.images == train.images).all()


def test_the_config_reads_what_the_function_does(folder):
    by_name = load({"name": "folder", "directory": str(folder), "validation": 0.2, "channels": 1})
    by_hand = kd_jax.from_folder(folder, validation=0.2, channels=1)
    assert identity.of_splits(by_name._asdict(), {}) == identity.of_splits(by_hand._asdict(), {})
    assert len(by_name.validation) == 12


def test_a_share_is_held_out_where_there_is_no_test_folder(tmp_path):
    train, _, test = kd_jax.from_folder(class_folders(tmp_path, {"": 100}), test=0.3)
    assert (len(train), len(test), test.split) == (70, 30, "test")
    assert (np.bincount(test.labels, minlength=10) > 0).all()


def test_validation_alone_is_the_test_split_and_unlabelled_pictures_join_train(tmp_path, capsys):
    root = class_folders(tmp_path, {"train": 40, "val": 20})
    shutil.move(root / "train" / "digit3", root / "unlabelled")
    train, validation, test = kd_jax.from_folder(root, names=[f"digit{i}" for i in range(10)])
    assert validation is None and len(test) == 20
    assert "its validation pictures are the test split" in capsys.readouterr().out
    assert len(train) == 40 and (~train.labelled).sum() == (some(40)[1] == 3).sum()


def test_streamed_pictures_are_a_function_of_seed_index_and_view(folder):
    train = kd_jax.from_folder(folder, image_size=6).train
    first = train.example(5, view=2, seed=1)
    assert first["image"].shape == (6, 6, 3) and train.images is None and train.stamp
    np.testing.assert_array_equal(first["image"], train.example(5, 2, 1)["image"])
    assert any((train.example(5, *other)["image"] != first["image"]).any() for other in ((3, 1), (2, 2), (None, 0)))
    assert first["label"] == train.labels[5]


@pytest.mark.parametrize("crop", ["centre", "whole"])
def test_a_fixed_crop_is_decoded_once(folder, crop):
    train = kd_jax.from_folder(folder, image_size=6, crop=crop).train
    assert train.images.shape == (60, 6, 6, 3)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_read_the_same_batches(folder, rows_over, workers):
    source = kd_jax.from_folder(folder, image_size=6).train
    want = dict(batch_size=8, seed=3, sharding=rows_over(2))
    whole = list(batches.train_batches(source, num_steps=6, **want))
    later = list(batches.train_batches(source, num_steps=2, start_step=4, workers=workers, **want))
    for one, other in zip(whole[4:], later, strict=True):
        assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), one, other))


def test_a_process_reads_its_own_rows(folder, monkeypatch):
    """Of a batch that several processes share each decodes the rows that its devices hold, and no others."""
    source = kd_jax.from_folder(folder, image_size=6).train
    read, before = [], files.Files.read
    monkeypatch.setattr(files.Files, "read", lambda self, index: (read.append(int(index)), before(self, index))[1])

    def rows(step):
        return np.arange(8, dtype=np.int32) + 8 * step, np.full(8, step, np.int32)

    every, part = (
        list(stream.host_batches(source, rows, local, seed=3, start=0, count=3, workers=0))
        for local in (np.arange(8), np.array([2, 3, 6]))
    )
    assert sorted(read[24:]) == [8 * step + row for step in range(3) for row in (2, 3, 6)]
    for whole, mine in zip(every, part, strict=True):
        np.testing.assert_array_equal(whole["image"][[2, 3, 6]], mine["image"])


def test_files_that_change_are_other_data(folder):
    def digests():
        return identity.of_source(kd_jax.from_folder(folder, image_size=6).train)

    before = digests()
    copy = shutil.copytree(folder, folder.with_name("copy"))
    assert identity.of_source(kd_jax.from_folder(copy, image_size=6).train) == before
    path = next(folder.glob("train/*/*.png"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert digests()["files"] != before["files"]


def test_of_large_folders_sizes_and_times_count(folder, monkeypatch):
    monkeypatch.setattr(encoded_pictures, "CONTENT_BYTES", 10)
    before = kd_jax.from_folder(folder, image_size=6).train.stamp
    assert kd_jax.from_folder(folder, image_size=6).train.stamp == before
    next(folder.glob("test/*/*.png")).touch()
    assert kd_jax.from_folder(folder, image_size=6).train.stamp != before


def test_broken_pictures_are_left_out_and_counted(folder, capsys):
    paths = sorted(folder.glob("train/*/*.png"))
    paths[3].write_bytes(paths[3].read_bytes()[:40])
    paths[9].write_bytes(b"")
    for image_size in (0, 6):
        with pytest.raises(ValueError, match=f"{paths[3]}.*cannot be decoded"):
            train = kd_jax.from_folder(folder, image_size=image_size).train
            [train.example(i, 0) for i in range(len(train))]
        train = kd_jax.from_folder(folder, on_error="skip", image_size=image_size).train
        said = capsys.readouterr().out
        assert "folder/train: 2 of 60 pictures are broken and left out" in said and str(paths[9]) in said
        assert len(train) == 58 == len([train.example(i, 0) for i in range(58)])


def test_sixteen_bits_are_not_clipped(folder):
    path = next(folder.glob("train/*/*.png"))
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(path)
    with pytest.raises(ValueError, match=f"{path}.*8 bits a channel are expected"):
        kd_jax.from_folder(folder)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_listed_pictures_with_fields(folder, kind, capsys):
    paths = sorted(folder.glob("*/*/*.png"))
    rows = [(p.relative_to(folder), p.parent.name, p.parent.parent.name, i, 0.5 * i) for i, p in enumerate(paths)]
    if kind == "csv":
        lines = ["path,label,split,age,score,by", *(",".join(map(str, (*row, "me"))) for row in rows)]
    else:
        names = '{{"path": "{}", "label": "{}", "split": "{}", "age": {}, "score": {}, "by": "me"}}'
        lines = [names.format(*row) for row in rows]
    (folder / f"labels.{kind}").write_text("\n".join(lines) + "\n")
    for image_size in (0, 6):
        train, _, test = kd_jax.from_folder(folder / f"labels.{kind}", image_size=image_size)
        assert "the columns by hold no numbers and are not read" in capsys.readouterr().out
        assert (len(train), len(test)) == (60, 20) and train.class_names[3] == "digit3"
        ages = np.array([row[3] for row in rows if row[2] == "train"])
        np.testing.assert_array_equal(train.fields["age"], ages)
        assert train.example(2)["score"] == 0.5 * ages[2] and train.fields["age"].dtype == np.int32


def test_numbers_as_labels(folder):
    paths = [p.relative_to(folder) for p in sorted(folder.glob("train/*/*.png"))]
    for values, dtype, outputs in ((range(60), np.int32, 60), (np.arange(60) / 7, np.float32, 1)):
        rows = [f"{p},{v}" for p, v in zip(paths, values, strict=True)]
        rows[4] = f"{paths[4]},"
        (folder / "labels.csv").write_text("\n".join(["path,label", *rows]))
        whole = kd_jax.from_folder(folder / "labels.csv")
        assert whole.train.labels.dtype == dtype and whole.train.num_classes == outputs
        assert (~whole.train.labelled).sum() + (~whole.test.labelled).sum() == 1


def test_large_pictures_of_one_size_are_streamed_as_they_are(folder, monkeypatch):
    whole = kd_jax.from_folder(folder).train
    monkeypatch.setattr(encoded_pictures, "MEMORY_BYTES", 100)
    train = kd_jax.from_folder(folder).train
    assert train.images is None and train.image_shape == (8, 8, 3) and train.stamp
    np.testing.assert_array_equal(train.example(7, 1)["image"], whole.images[7])
    Image.fromarray(np.zeros((9, 7), np.uint8)).save(sorted(folder.glob("train/*/*.png"))[9])
    with pytest.raises(ValueError, match="is 8x8.* is 7x9: data.image_size must say"):
        kd_jax.from_folder(folder)


def test_minus_one_is_no_label(folder):
    paths = [p.relative_to(folder) for p in sorted(folder.glob("train/*/*.png"))]
    rows = [f"{p},{i % 3 - 1}" for i, p in enumerate(paths)]
    (folder / "labels.csv").write_text("\n".join(["path,label", *rows]))
    train, _, test = kd_jax.from_folder(folder / "labels.csv")
    assert train.num_classes == 2 and (~train.labelled).sum() + (~test.labelled).sum() == 20
