"""Pictures with boxes: padded labels, pictures without objects and without labels, scenes as splits."""

import numpy as np
import pytest

from kd_jax.data.boxes import digit_scenes, with_boxes

PICTURES = np.zeros((3, 8, 10, 1), np.uint8)
BOXES = [[(1, 1, 4, 4), (0, 0, 10, 8)], [], None]
CLASSES = [[1, 0], [], None]


def test_labels_are_padded_and_say_what_is_not_known():
    train = with_boxes(
        train=(PICTURES, BOXES, CLASSES), test=(PICTURES[:1], BOXES[:1], CLASSES[:1]), names=("a", "b")
    ).train
    assert train.labels.shape == (3, 2, 5) and train.labels.dtype == np.float32
    np.testing.assert_array_equal(train.labels[0], [[1, 1, 4, 4, 1], [0, 0, 10, 8, 0]])
    np.testing.assert_array_equal(train.labels[1], [[0, 0, 0, 0, -1]] * 2)
    assert np.isnan(train.labels[2]).all()
    np.testing.assert_array_equal(train.labelled, [True, True, False])  # that there is nothing is known too
    assert train.num_classes == 2 and train.class_names == ("a", "b")


def test_a_share_is_held_out():
    splits = with_boxes(
        train=(PICTURES, BOXES, CLASSES), test=(PICTURES, BOXES, CLASSES), validation=0.34, names=("a", "b")
    )
    assert len(splits.train) + len(splits.validation) == 3


def test_scenes_are_the_splits_of_a_run():
    pytest.importorskip("sklearn")
    splits = digit_scenes({})
    assert [len(split) for split in splits] == [2000, 300, 500]
    labels = splits.test.labels
    assert labels.shape == (500, 5, 5) and splits.train.num_classes == 10 and splits.test.labelled.all()
    there = labels[..., 4] >= 0
    assert 1 <= there.sum(1).min() and (labels[there][:, 2] > labels[there][:, 0]).all()
    other = digit_scenes({"split_seed": 1})
    assert not np.array_equal(splits.test.labels, other.test.labels)
