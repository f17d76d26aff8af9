"""Pictures and boxes move together: where the box goes, the object is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.core.prepare import preparation_of
from kd_jax.data import arrays
from kd_jax.data.boxes import with_boxes
from kd_jax.data.moved_boxes import clipped, moved

COUNT, SIDE = 40, 20


def batch(count=COUNT):
    """Pictures with one bright rectangle each."""
    rng = np.random.default_rng(0)
    image, label = np.zeros((count, SIDE, SIDE, 1), np.float32), np.zeros((count, 2, 5), np.float32)
    label[:, 1, 4] = -1
    for i in range(count):
        x, y, width, height = rng.integers(0, 12), rng.integers(0, 12), rng.integers(2, 7), rng.integers(2, 7)
        image[i, y : y + height, x : x + width] = 1
        label[i, 0] = [x, y, x + width, y + height, i % 3]
    index = np.arange(count, dtype=np.int32)
    return {"image": image, "label": label, "index": index, "view": np.zeros_like(index), "teacher/x": image}


def test_the_box_is_where_the_object_went():
    before, key = batch(), jax.random.key(0)
    after = jax.tree.map(np.asarray, moved(before, True, key, flip=True, shift=6, visible=0.0))
    assert {*after} == {"image", "label", "target"}
    gone = 0
    for i in range(COUNT):
        rows, columns = np.nonzero(after["image"][i, ..., 0])
        if not len(rows):
            assert after["label"][i, 0, 4] == -1 and not after["label"][i, 0, :4].any()
            gone += 1
            continue
        tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_array_equal(after["label"][i, 0], [*tight, before["label"][i, 0, 4]])
        assert after["label"][i, 1, 4] == -1
    assert gone < COUNT / 4
    assert not np.array_equal(after["label"], before["label"])


def test_evaluation_moves_nothing_and_one_view_is_moved_in_one_way():
    whole, key = batch(), jax.random.key(0)
    assert moved(whole, False, key, flip=True, shift=6) == {}
    some = jax.tree.map(lambda x: x[5:9], whole)
    one, other = (moved(b, True, key, flip=True, shift=6) for b in (whole, some))
    np.testing.assert_array_equal(one["image"][5:9], other["image"])
    later = moved(whole | {"view": np.ones(COUNT, np.int32)}, True, key, flip=True, shift=6)
    assert not np.array_equal(one["image"], later["image"])


def test_a_box_is_cut_off_and_lost_where_little_is_left():
    objects = jnp.asarray([[[-4.0, 2, 6, 8, 1], [-8, 2, 2, 8, 1], [-9, 0, -1, 5, 2], [0, 0, 0, 0, -1]]])
    half = np.asarray(clipped(objects, (20, 20), 0.5))[0]
    np.testing.assert_array_equal(half, [[0, 2, 6, 8, 1], [0, 0, 0, 0, -1], [0, 0, 0, 0, -1], [0, 0, 0, 0, -1]])
    fifth = np.asarray(clipped(objects, (20, 20), 0.2))[0]
    np.testing.assert_array_equal(fifth[1], [0, 2, 2, 8, 1])
    unknown = np.asarray(clipped(jnp.full((1, 1, 5), jnp.nan), (20, 20), 0.5))
    assert np.isnan(unknown).all()  # not labelled, and no objects lost


def test_what_cannot_be_moved_is_refused():
    whole = batch(4)
    with pytest.raises(ValueError, match="moved needs objects"):
        moved(whole | {"label": np.zeros(4, np.int32)}, True, jax.random.key(0))
    with pytest.raises(ValueError, match="pictures of one size, .20, 20., and there is large .40, 40."):
        moved(whole | {"large": np.zeros((4, 40, 40, 1))}, True, jax.random.key(0))


def test_augmentations_of_the_picture_alone_are_refused():
    pictures = np.zeros((4, 8, 8, 1), np.uint8)
    part = (pictures, [[(1, 1, 4, 4)]] * 4, [[0]] * 4)
    source = with_boxes(train=part, test=part, names=("a",)).train
    with pytest.raises(ValueError, match="augment's flip changes the picture alone: config.prepare.name=data.moved"):
        preparation_of({"augment": ("flip",), "views": {}}, source)
    plain = arrays.from_arrays(train=(pictures, np.arange(4) % 2), test=(pictures, np.arange(4) % 2)).train
    assert preparation_of({"augment": ("flip",), "views": {}}, plain).augmentations["image"] == ("flip",)
