"""COCO's files: where they lie, what their boxes and categories become, and how pictures are resized."""

import numpy as np
import pytest
from coco_files import content, object_of, write

from kd_jax.data import coco
from kd_jax.data.load import load

THREE = [
    object_of(0, (2, 3, 10, 12)),
    object_of(0, (20, 0, 12.4, 24), 3),
    object_of(2, (0, 0, 4, 4), iscrowd=1),
    object_of(2, (8, 8, 4, 8), 3),
]


def test_boxes_categories_and_pictures_without_objects(tmp_path):
    for split in ("train", "valid", "test"):
        write(tmp_path / split / "_annotations.coco.json", content(3, THREE), tmp_path / split)
    train, validation, test = load({"name": "kd_jax.data.coco:folder", "directory": str(tmp_path), "validation": 0.1})
    assert len(train) == len(validation) == len(test) == 3 and train.class_names == ("cat", "dog")
    assert train.images.shape == (3, 24, 32, 3) and train.images[0, 4, 4].tolist() == [255] * 3
    np.testing.assert_allclose(train.labels[0], [[2, 3, 12, 15, 1], [20, 0, 32, 24, 0]])  # what rounding added is cut
    np.testing.assert_array_equal(train.labels[1], [[0, 0, 0, 0, -1]] * 2)  # no object, and that is known
    np.testing.assert_allclose(train.labels[2], [[8, 8, 12, 16, 0], [0, 0, 0, 0, -1]])  # the crowd is left out
    assert train.labelled.all()


def test_pictures_are_resized_with_their_boxes(tmp_path):
    write(tmp_path / "annotations.json", content(5, [THREE[0], object_of(4, (0, 0, 32, 24))]), tmp_path / "images")
    splits = coco.folder({"directory": str(tmp_path), "image_size": 16, "channels": 1, "test": 0.4, "validation": 0.3})
    assert [len(s) for s in splits] == [2, 1, 2] and splits.train.images.shape[1:] == (16, 16, 1)
    labels = np.concatenate([s.labels for s in splits]).reshape(-1, 5)
    there = labels[labels[:, 4] >= 0]
    np.testing.assert_allclose(sorted(there.tolist()), [[0, 0, 16, 16, 1], [1, 2, 6, 10, 1]], rtol=1e-6)


def test_files_of_coco_itself_are_known_by_the_words_in_their_paths(tmp_path):
    for split in ("train", "val", "test"):
        name = f"instances_{split}2017"
        write(tmp_path / "annotations" / f"{name}.json", content(1, THREE[:1]), tmp_path / f"{split}2017")
    files = coco.files_of(tmp_path)
    assert {split: path.name for split, path in files.items()} == {
        "test": "instances_test2017.json",
        "train": "instances_train2017.json",
        "validation": "instances_val2017.json",
    }
    assert len(coco.folder({"directory": str(tmp_path)}).validation) == 1
    (tmp_path / "annotations" / "captions_train2017.json").write_text("{}")
    with pytest.raises(ValueError, match="instances_train2017.json is of train, as captions_train2017.json is: leave"):
        coco.files_of(tmp_path)
