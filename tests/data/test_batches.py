import dataclasses
import multiprocessing
import os
import signal
import time

import jax
import numpy as np
import pytest

from kd_jax.data import batches, order
from kd_jax.data.arrays import from_arrays
from kd_jax.data.batches import batch_shapes, eval_batches, train_batches
from kd_jax.data.load import load
from kd_jax.data.source import Source, subset


def same(left, right) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            assert a[key].dtype == b[key].dtype
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def streamed(source: Source) -> Source:
    """The same data, one example at a time."""
    images, labels = source.images, source.labels
    return dataclasses.replace(source, images=None, fetch=Fetch(images, labels), size=len(images))


@dataclasses.dataclass
class Fetch:
    images: np.ndarray
    labels: np.ndarray

    def __call__(self, index, view, seed):
        return {"image": self.images[index], "label": 99}  # what the file says must not matter


def test_a_streamed_set_is_not_in_memory(toy):
    images, labels = toy.train.in_memory()
    assert images is toy.train.images and labels is toy.train.labels
    with pytest.raises(ValueError, match="/train is fetched example by example; expected a set in memory"):
        streamed(toy.train).in_memory()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("devices", [1, 8])
def test_batches(toy, rows_over, devices, stream):
    source, sharding = toy.train, rows_over(devices)
    source = streamed(source) if stream else source
    with jax.transfer_guard("disallow"):
        batches = list(train_batches(source, batch_size=16, seed=3, num_steps=10, sharding=sharding))
    for step, batch in enumerate(batches):
        index, view = order.batch_indices(70, 16, 3, step)
        np.testing.assert_array_equal(batch["index"], index)
        np.testing.assert_array_equal(batch["view"], view)
        np.testing.assert_array_equal(batch["label"], toy.train.labels[index])
        np.testing.assert_array_equal(batch["labelled"], toy.train.labels[index] >= 0)
        np.testing.assert_array_equal(batch["image"], toy.train.images[index])
        assert batch["image"].dtype == np.uint8 and batch["labelled"].dtype == bool
        assert {str(batch[key].dtype) for key in ("label", "index", "view")} == {"int32"}
        assert all(value.sharding.is_equivalent_to(sharding, value.ndim) for value in batch.values())


@pytest.mark.parametrize("stream", [False, True])
def test_resume_is_exact(toy, rows_over, stream):
    source = streamed(toy.train) if stream else toy.train
    settings = {"batch_size": 8, "seed": 0, "sharding": rows_over(8), "labelled_share": 0.25}
    whole = list(train_batches(source, num_steps=30, **settings))
    same(whole[17:], list(train_batches(source, start_step=17, num_steps=13, **settings)))
    same(whole[:1], list(train_batches(source, num_steps=1, **settings)))


def test_worker_processes_change_nothing(toy, rows_over):
    settings = {"batch_size": 8, "seed": 0, "sharding": rows_over(1), "labelled_share": 0.5}
    here = list(train_batches(toy.train, num_steps=5, **settings))
    source = dataclasses.replace(toy.train)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "RESIDENT_BYTES", 0)  # too large for the device: read on the host
        same(here, list(train_batches(source, num_steps=5, workers=2, **settings)))


def test_workers_read_on_at_ctrl_c(toy, rows_over):
    """A terminal sends it to them too, and the process that they read for saves first."""
    settings = {"batch_size": 8, "seed": 0, "sharding": rows_over(1), "labelled_share": 0.5, "num_steps": 12}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "RESIDENT_BYTES", 0)
        read = train_batches(dataclasses.replace(toy.train), workers=1, **settings)
        first = next(read)
        children = multiprocessing.active_children()
        assert children
        for child in children:
            os.kill(child.pid, signal.SIGINT)
        time.sleep(0.5)
        same(list(train_batches(toy.train, **settings)), [first, *read])


def test_labelled_rows_come_first(toy, rows_over):
    settings = {"batch_size": 8, "seed": 0, "sharding": rows_over(1), "num_steps": 6}
    for share, rows in ((0.25, 2), (0.0, 0), (1.0, 8)):
        for batch in train_batches(toy.train, labelled_share=share, **settings):
            np.testing.assert_array_equal(batch["labelled"], np.arange(8) < rows)
            np.testing.assert_array_equal(np.asarray(batch["label"]) >= 0, batch["labelled"])
    # where every example has a label the share does not matter
    same(
        list(train_batches(toy.test, labelled_share=0.25, **settings)),
        list(train_batches(toy.test, labelled_share=None, **settings)),
    )


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("batch_size", [8, 24])
def test_evaluation_sees_every_example_once(toy, rows_over, batch_size, stream):
    source = streamed(toy.test) if stream else toy.test
    with jax.transfer_guard("disallow"):
        batches = list(eval_batches(source, batch_size=batch_size, sharding=rows_over(8)))
    assert len(batches) == -(-21 // batch_size)
    whole = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
    np.testing.assert_array_equal(whole["mask"], np.arange(len(batches) * batch_size) < 21)
    np.testing.assert_array_equal(whole["index"][:21], np.arange(21))
    np.testing.assert_array_equal(whole["image"][:21], toy.test.images)
    np.testing.assert_array_equal(whole["label"][:21], toy.test.labels)
    assert whole["mask"].dtype == bool and not whole["view"].any()


def test_features_and_float_images(rows_over):
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    source = from_arrays(train=(x, np.arange(20) % 2), test=(x, np.arange(20) % 2)).train
    (batch,) = train_batches(source, batch_size=4, seed=0, num_steps=1, sharding=rows_over(4))
    np.testing.assert_array_equal(batch["image"], x[np.asarray(batch["index"])])
    assert batch["image"].dtype == np.float32


def test_images_cross_once_and_a_batch_needs_no_communication(toy, rows_over, monkeypatch):
    sharding, put = rows_over(8), []
    real = jax.device_put
    monkeypatch.setattr(jax, "device_put", lambda array, where: put.append(array.nbytes) or real(array, where))
    for start in (0, 5):
        list(train_batches(toy.train, batch_size=16, seed=0, num_steps=5, start_step=start, sharding=sharding))
    once = [toy.train.images.nbytes, toy.train.labels.nbytes, toy.train.labelled.nbytes]
    assert sorted(put, reverse=True) == sorted(once + [16 * 2 * 4] * 10, reverse=True)
    placed, _ = batches.resident_rows(
        toy.train, batch_size=16, seed=0, start_step=0, num_steps=2, size=2, sharding=sharding
    )
    table = real(np.zeros((16, 2), np.int32), sharding)
    program = jax.jit(batches.gathered, out_shardings=sharding).lower(placed, table).compile().as_text()
    assert not any(name in program for name in ("all-gather", "all-reduce", "all-to-all", "collective-permute"))


def test_streamed_real_images(write_tfds, pictures, rows_over):
    names, splits = ["a", "b"], {"train": (pictures(20), np.arange(20) % 2), "test": (pictures(5, 1), [0, 1, 0, 1, 0])}
    folder = write_tfds("toy", splits, names)
    loaded = load({"name": "tfds:toy", "directory": folder, "image_size": 8, "validation": 0.2, "labels": 4})
    sharding = rows_over(2)
    settings = {"batch_size": 4, "seed": 1, "sharding": sharding, "labelled_share": 0.5}
    here = list(train_batches(loaded.train, num_steps=6, **settings))
    same(here[4:], list(train_batches(loaded.train, num_steps=2, start_step=4, **settings)))
    for batch in here:
        for row in range(4):
            index, view = int(batch["index"][row]), int(batch["view"][row])
            np.testing.assert_array_equal(batch["image"][row], loaded.train.example(index, view, 1)["image"])
    (held,) = eval_batches(loaded.validation, batch_size=4, sharding=sharding)
    np.testing.assert_array_equal(held["label"], loaded.validation.labels)
    np.testing.assert_array_equal(held["image"][2], loaded.validation.example(2)["image"])
    last = list(eval_batches(loaded.test, batch_size=4, sharding=sharding))[-1]
    np.testing.assert_array_equal(last["mask"], [True, False, False, False])


def test_bad_requests(toy, rows_over):
    good = {"batch_size": 8, "seed": 0, "num_steps": 1, "sharding": rows_over(8)}
    for change, message in (
        ({"batch_size": 12}, "batch_size=12 does not divide over the devices"),
        ({"batch_size": 0}, "not positive"),
        ({"seed": -1}, "negative"),
        ({"start_step": -1}, "negative"),
        ({"labelled_share": 2.0}, "labelled_share"),
        ({"labelled_share": 0.001}, "rounds to 0 rows"),
    ):
        with pytest.raises(ValueError, match=message):
            train_batches(toy.train, **{**good, **change})
    none = toy.train.with_labels(np.full(70, -1))
    for share in (0.5, 1.0, 0.0):  # where nothing has a label, no share of it has to
        assert not any(batch["labelled"].any() for batch in train_batches(none, **good, labelled_share=share))
    with pytest.raises(ValueError, match="workers"):
        train_batches(streamed(toy.train), **good, workers=-1)
    empty = dataclasses.replace(toy.test, images=toy.test.images[:0], labels=toy.test.labels[:0])
    with pytest.raises(ValueError, match="no examples"):
        eval_batches(empty, batch_size=8, sharding=rows_over(1))


def test_further_fields_come_with_their_example(toy, rows_over):
    held = {"node": np.arange(70, dtype=np.int32), "sound": np.arange(140.0, dtype=np.float32).reshape(70, 2)}
    source = dataclasses.replace(toy.train, fields=held)
    (batch,) = train_batches(source, batch_size=8, seed=0, num_steps=1, sharding=rows_over(8))
    np.testing.assert_array_equal(batch["node"], held["node"][np.asarray(batch["index"])])
    np.testing.assert_array_equal(batch["sound"], held["sound"][np.asarray(batch["index"])])
    assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
        k: (v.shape, v.dtype) for k, v in batch_shapes(source, 8).items()
    }
    half = subset(source, np.array([3, 5]))
    np.testing.assert_array_equal(half.fields["node"], [3, 5])
    with pytest.raises(ValueError, match="field 'node' has 70 rows for 11"):
        dataclasses.replace(source, images=source.images[:11], labels=source.labels[:11])
    with pytest.raises(ValueError, match="'label'"):
        dataclasses.replace(source, fields={"label": held["node"]})
