import shutil

import numpy as np
import pytest

from kd_jax.data.images import pictures as crops
from kd_jax.data.images import prepared
from kd_jax.data.load import load
from kd_jax.data.source import DataNotFound


@pytest.fixture
def streamed(write_tfds, pictures):
    """A prepared set of images that differ in size, and its data folder."""
    images = {"train": pictures(24), "validation": pictures(6, 1), "test": pictures(4, 2)}
    labels = {"train": np.arange(24) % 3, "validation": np.arange(6) % 3, "test": [-1] * 4}
    return images, write_tfds("imagenet2012", {s: (images[s], labels[s]) for s in images}, ["a", "b", "c"])


def test_small_images_of_one_size_are_in_memory(write_tfds, monkeypatch, tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (30, 8, 8, 1), dtype=np.uint8), np.arange(30) % 10
    names = [str(i) for i in range(10)]
    folder = write_tfds("mnist", {"train": (images, labels), "test": (images[:9], labels[:9])}, names, shape=(8, 8, 1))
    for config in ({"directory": folder}, {"directory": folder + "/mnist"}, {"directory": folder + "/mnist/1.0.0"}):
        for name in ("tfds:mnist", "mnist"):
            splits = load({"name": name, **config})
            np.testing.assert_array_equal(splits.train.images, images)
            np.testing.assert_array_equal(splits.test.labels, labels[:9])
    assert splits.validation is None and splits.train.mean == (0.1307,) and splits.train.num_classes == 10
    monkeypatch.setenv("KD_JAX_DATA", folder)
    assert len(load({"name": "mnist", "labels": 10}).train) == 30


def test_imagenet_is_streamed_and_its_validation_is_the_test_split(streamed):
    images, folder = streamed
    splits = load({"name": "imagenet2012", "directory": folder, "image_size": 8})
    train, validation, test = splits
    assert (len(train), validation, len(test)) == (24, None, 6)
    assert train.labels is None and train.image_shape == (8, 8, 3)
    assert load({"name": "imagenet2012", "directory": folder}).train.image_shape == (224, 224, 3)
    assert train.mean == (0.485, 0.456, 0.406)
    first = train.example(5, view=3, seed=1)
    np.testing.assert_array_equal(first["image"], train.example(5, 3, 1)["image"])
    assert first["image"].shape == (8, 8, 3) and first["image"].dtype == np.uint8 and first["label"] == 2
    for other in (train.example(5, 4, 1), train.example(5, 3, 2), train.example(5)):
        assert (other["image"] != first["image"]).any()
    centre = crops.centre_crop(crops.decode(images["validation"][4], 3), 8)
    np.testing.assert_array_equal(test.example(4)["image"], centre)


def test_held_out_and_hidden_labels_of_a_streamed_set(streamed, monkeypatch):
    images, folder = streamed
    config = {"name": "tfds:imagenet2012", "directory": folder, "image_size": 8, "validation": 0.25, "labels": 6}
    train, validation, _ = load(config)
    assert len(train) == 18 and len(validation) == 6
    np.testing.assert_array_equal(np.bincount(validation.labels), [2, 2, 2])
    np.testing.assert_array_equal(np.bincount(train.labels[train.labelled]), [2, 2, 2])
    for index in range(18):
        assert train.example(index, 0)["label"] == train.labels[index]  # -1, whatever the file says
    # held-out images are not cropped at random, whoever asks
    row = next(i for i in range(24) if (_centre(images, i) == validation.example(0)["image"]).all())
    assert row % 3 == validation.labels[0]
    monkeypatch.setattr(prepared, "_records", None)  # the labels were kept beside the data
    again = load(config)
    np.testing.assert_array_equal(again.train.labels, train.labels)


def _centre(images, row):
    return crops.centre_crop(crops.decode(images["train"][row], 3), 8)


def test_only_a_train_split(write_tfds, pictures):
    folder = write_tfds("flowers", {"train": (pictures(20), np.arange(20) % 2)}, ["a", "b"])
    config = {"name": "tfds:flowers", "directory": folder, "image_size": 8, "test": 0.3}
    train, _, test = load(config)
    assert len(train) == 14 and len(test) == 6 and test.split == "test"
    np.testing.assert_array_equal(np.bincount(test.labels), [3, 3])
    with pytest.raises(ValueError, match="data.test must be above 0"):
        load(config | {"test": 0.0})
    with pytest.raises(ValueError, match="data.image_size"):
        load(config | {"image_size": 0})


def test_newest_version_and_several_configurations(write_tfds, tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 6, 6, 3), dtype=np.uint8)
    for version, n in (("9.0.0", 2), ("10.0.0", 4)):
        splits = {"train": (images[:n], [0] * n), "test": (images[:1], [0])}
        folder = write_tfds("toy", splits, ["a"], shape=(6, 6, 3), version=version)
    assert len(load({"name": "tfds:toy", "directory": folder}).train) == 4
    assert len(load({"name": "tfds:toy/9.0.0", "directory": folder}).train) == 2
    shutil.copytree(f"{folder}/toy/9.0.0", f"{folder}/toy/big/9.0.0")
    with pytest.raises(ValueError, match="several configurations.*tfds:toy/big"):
        load({"name": "tfds:toy", "directory": folder})
    assert len(load({"name": "tfds:toy/big", "directory": folder}).train) == 2


def test_what_cannot_be_read(write_tfds, tmp_path):
    image = np.zeros((2, 6, 6, 3), np.uint8)
    folder = write_tfds("old", {"train": (image, [0, 0])}, ["a"], shape=(6, 6, 3), file_format="tfrecord")
    with pytest.raises(DataNotFound, match="no random access.*\n.*\n.*tfds build old --file_format=array_record"):
        load({"name": "tfds:old", "directory": folder})
    (tmp_path / "tfds" / "bad" / "1.0.0").mkdir(parents=True)
    (tmp_path / "tfds" / "bad" / "1.0.0" / "dataset_info.json").write_text("{")
    with pytest.raises(ValueError, match="not readable"):
        load({"name": "tfds:bad", "directory": folder})
    with pytest.raises(ValueError, match="cannot be decoded"):
        crops.decode(b"no image", 3)


def test_random_crops_stay_inside_and_differ():
    image = crops.decode(np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8), 3)
    views = [crops.random_resized_crop(image, 12, np.random.default_rng((0, 0, view))) for view in range(5)]
    assert all(crop.shape == (12, 12, 3) for crop in views)
    assert len({crop.tobytes() for crop in views}) == 5
    grey = crops.decode(np.zeros((9, 50, 1), np.uint8), 1)
    assert crops.random_resized_crop(grey, 4, np.random.default_rng(0)).shape == (4, 4, 1)
    assert crops.centre_crop(grey, 4).shape == (4, 4, 1)
