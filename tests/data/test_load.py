import sys
import time
import types

import numpy as np
import pytest
from ml_collections import ConfigDict

from kd_jax.data import arrays
from kd_jax.data.arrays import from_arrays
from kd_jax.data.load import DEFAULTS, load
from kd_jax.data.source import DataNotFound, Source


def identity(source: Source) -> set[bytes]:
    return {image.tobytes() for image in source.images}


def test_digits_splits():
    splits = load(ConfigDict(DEFAULTS | {"validation": 0.125}))
    assert [len(source) for source in splits] == [1257, 180, 360]
    train, validation, test = splits
    whole = np.concatenate([source.images for source in splits])
    assert whole.dtype == np.uint8 and whole.shape == (1797, 8, 8, 1) and whole.max() == 255
    np.testing.assert_allclose((whole / 255).mean(), train.mean[0], atol=5e-5)
    np.testing.assert_allclose((whole / 255).std(), train.std[0], atol=5e-5)
    assert len(identity(train) | identity(validation) | identity(test)) == len({x.tobytes() for x in whole})
    for source in splits:
        counts = np.bincount(source.labels, minlength=10)
        assert np.abs(counts - len(source) / 10).max() < 0.12 * len(source) / 10 + 1
    assert (train.num_classes, train.image_shape, train.class_names[3]) == (10, (8, 8, 1), "3")


def test_digits_values_are_rounded():
    from sklearn.datasets import load_digits

    raw = np.sort(np.unique(load_digits().images))
    images = np.concatenate([source.images for source in (arrays.digits(0.2).train, arrays.digits(0.2).test)])
    np.testing.assert_array_equal(np.unique(images), np.round(raw * 255 / 16))


def test_held_out_rows_depend_on_the_split_seed_alone():
    first = load({"validation": 0.125})
    for change in ({"labels": 50}, {"train_slice": (100, 700)}, {"limit": 20}, {"label_seed": 3}):
        other = load({"validation": 0.125, **change})
        np.testing.assert_array_equal(first.validation.images, other.validation.images)
        np.testing.assert_array_equal(first.test.images, other.test.images)
    moved = load({"validation": 0.125, "split_seed": 1})
    np.testing.assert_array_equal(first.test.images, moved.test.images)
    assert (first.validation.labels != moved.validation.labels).any()


def test_slices_are_disjoint_and_limits_are_inside():
    teacher, student = (load({"train_slice": part}).train for part in ((0, 800), (800, 0)))
    assert len(teacher) + len(student) == 1437
    assert not identity(teacher) & identity(student)
    small = load({"train_slice": (800, 0), "limit": 30}).train
    assert len(small) == 30 and identity(small) <= identity(student)
    for part in ((0, 2000), (5, 5), (-1, 10)):
        with pytest.raises(ValueError, match="train_slice"):
            load({"train_slice": part})
    with pytest.raises(ValueError, match="limit"):
        load({"limit": -5})


def test_hidden_labels_are_gone():
    train = load({"validation": 0.125, "labels": 100}).train
    assert len(train) == 1257
    np.testing.assert_array_equal(np.bincount(train.labels[train.labelled]), np.full(10, 10))
    assert (train.labels[~train.labelled] == -1).all() and train.labels.dtype == np.int32
    whole = load({"validation": 0.125}).train
    np.testing.assert_array_equal(train.labels[train.labelled], whole.labels[train.labelled])
    np.testing.assert_array_equal(train.images, whole.images)
    again = load({"validation": 0.125, "labels": 100, "label_seed": 1}).train
    assert (again.labelled != train.labelled).any()


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100", "imagenet2012", "tfds:cifar10", "tfds:no_such_set"])
def test_missing_data_is_told_at_once(name, tmp_path, monkeypatch):
    start = time.monotonic()
    with pytest.raises(DataNotFound) as caught:
        load({"name": name})
    assert time.monotonic() - start < 5
    message = str(caught.value)
    assert "not on this machine" in message and "tensorflow_datasets" in message and ":digits" in message
    assert f"tfds build {name.removeprefix('tfds:')} --file_format=array_record" in message
    monkeypatch.setenv("KD_JAX_DATA", str(tmp_path / "mine"))
    with pytest.raises(DataNotFound, match=str(tmp_path / "mine")):
        load({"name": name})
    with pytest.raises(DataNotFound, match=str(tmp_path / "there")) as caught:
        load({"name": name, "directory": str(tmp_path / "there")})
    assert "mine" not in str(caught.value)


def test_missing_fashion_mnist_names_the_package(tmp_path):
    with pytest.raises(DataNotFound, match="apt-get install dataset-fashion-mnist"):
        load({"name": "fashion_mnist", "directory": str(tmp_path)})


def test_unknown_names():
    with pytest.raises(ValueError, match="no data set 'cifr10'. Did you mean 'cifar10'"):
        load({"name": "cifr10"})
    with pytest.raises(ValueError, match="no field 'lables'; did you mean 'labels'"):
        load({"lables": 10})
    with pytest.raises(ValueError, match="no module 'no_such_module'"):
        load({"name": "no_such_module:load"})
    with pytest.raises(ValueError, match="has no 'lod'.*'load'"):
        load({"name": "kd_jax.data.load:lod"})
    load({"batch_size": 3, "image_sizes_of_others": 1})


def test_users_function(monkeypatch):
    module = types.ModuleType("their_data")
    x, y = np.zeros((40, 5, 5, 3), np.uint8), np.arange(40) % 2
    module.splits = lambda config: from_arrays(train=(x, y), test=(x[: config["limit"]], y[: config["limit"]]))
    module.wrong = lambda config: (x, y)
    monkeypatch.setitem(sys.modules, "their_data", module)
    splits = load({"name": "their_data:splits", "limit": 12, "validation": 0.5, "labels": 4})
    assert [len(source) for source in splits] == [12, 20, 12] and splits.train.labelled.sum() == 4
    with pytest.raises(ValueError, match="must return"):
        load({"name": "their_data:wrong"})


def test_npz_file(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(30, 7)), np.arange(30) % 3
    path = tmp_path / "mine.npz"
    np.savez(path, train_x=x, train_y=y, test_x=x[:9], test_y=y[:9], unlabelled_x=x[:5])
    splits = load({"name": "arrays", "directory": str(path)})
    assert [None if source is None else len(source) for source in splits] == [35, None, 9]
    assert splits.train.labelled.sum() == 30 and splits.train.images.dtype == np.float32
    np.savez(path, x=x)
    with pytest.raises(ValueError, match="expected train_x"):
        load({"name": "arrays", "directory": str(path)})
    with pytest.raises(DataNotFound, match="npz"):
        load({"name": "arrays"})


def test_arrays_statistics_and_validation_pair():
    rng = np.random.default_rng(0)
    x, y = rng.normal(3, 2, (500, 4)), rng.integers(0, 3, 500)
    x[:, 2] = 1.0
    train, validation, _ = from_arrays(train=(x, y), test=(x, y), validation=(x[:50], y[:50]), names=["a", "b", "c"])
    np.testing.assert_allclose(train.mean, x.mean(0))
    np.testing.assert_allclose(train.std, np.where(x.std(0) > 0, x.std(0), 1))
    assert len(train) == 500 and len(validation) == 50 and train.class_names == ("a", "b", "c")
    images = rng.integers(0, 256, (20, 3, 3, 2), dtype=np.uint8)
    train = from_arrays(train=(images, y[:20]), test=(images, y[:20])).train
    np.testing.assert_allclose(train.mean, images.mean((0, 1, 2)) / 255)


BAD = {
    "uint8 in 0..255 or floats": {"train": (np.zeros((4, 2), np.int64), np.arange(4))},
    "not finite": {"train": (np.full((4, 2), np.nan), np.arange(4))},
    r"\[n, H, W, C\]": {"train": (np.zeros((4, 2, 2)), np.arange(4)), "test": (np.zeros((4, 2, 2)), np.arange(4))},
    "4 images need labels": {"train": (np.zeros((4, 2)), np.arange(5))},
    "labels are integers or floats": {"train": (np.zeros((4, 2)), np.array(list("abcd"))), "names": 2},
    r"labels are 0\.\.1": {"train": (np.zeros((4, 2)), np.arange(4)), "names": ["a", "b"]},
    "test images are": {"test": (np.zeros((4, 3)), np.arange(4))},
    "validation images are": {"validation": (np.zeros((4, 3)), np.arange(4))},
    "unlabelled images are": {"unlabelled": np.zeros((4, 3))},
    "mean and std": {"mean": (0.0,), "std": (1.0,)},
    "names": {"train": (np.zeros((4, 2)), np.full(4, -1))},
    "held-out fraction": {"validation": 1.5},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_arrays(message):
    good = (np.zeros((4, 2)), np.arange(4))
    with pytest.raises(ValueError, match=message):
        from_arrays(**{"train": good, "test": good} | BAD[message])


def test_source_needs_one_of_two():
    facts = {"name": "x", "split": "train", "num_classes": 2, "class_names": ("a", "b"), "mean": (0,), "std": (1,)}
    with pytest.raises(ValueError, match="either images or fetch"):
        Source(**facts, image_shape=(2,), labels=np.zeros(3))
    with pytest.raises(ValueError, match="3 examples, but 2 labels"):
        Source(**facts, image_shape=(2,), labels=np.zeros(2), images=np.zeros((3, 2)))
    with pytest.raises(ValueError, match="needs labels"):
        Source(**facts, image_shape=(2,), labels=None, images=np.zeros((3, 2)))


def test_classes_and_wrong_labels():
    plain, some, noisy = (load({"name": "digits", **f}).train for f in ({}, {"classes": (3, 7)}, {"label_noise": 0.3}))
    assert set(some.labels) == {3, 7} and some.num_classes == 10 and len(some) == np.isin(plain.labels, (3, 7)).sum()
    assert (noisy.labels != plain.labels).sum() == round(0.3 * len(plain))
    assert set(noisy.labels) == set(plain.labels)
    few = load({"name": "digits", "labels": 50, "label_noise": 0.2})
    assert few.train.labelled.sum() == 50 and (few.train.labels != plain.labels)[few.train.labelled].sum() == 10
    np.testing.assert_array_equal(few.test.labels, load({"name": "digits"}).test.labels)
    with pytest.raises(ValueError, match="classes=.*0 to 9"):
        load({"name": "digits", "classes": (10,)})
    with pytest.raises(ValueError, match="label_noise"):
        load({"name": "digits", "label_noise": 1.5})
