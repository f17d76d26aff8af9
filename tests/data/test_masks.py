"""Pictures with masks: made, read, and moved together."""

import importlib.util
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mask_files import write_pairs
from PIL import Image

import kd_jax
from kd_jax.data import mask_folder, masks, moved_masks
from kd_jax.data.source import DataNotFound

N, SIZE, CLASSES = 64, 8, 5
LABELS = np.random.default_rng(0).integers(0, CLASSES, (N, SIZE, SIZE)).astype(np.int32)


def batch(labels=LABELS, **more):
    """Pictures that say at every pixel which class it has, never 0."""
    picture = jnp.asarray(labels + 2, jnp.float32)[..., None]
    numbers = jnp.arange(len(labels))
    label = jnp.asarray(labels)
    entries = {"image": picture, "label": label, "target": label, "labelled": label >= 0}
    return {**entries, "index": numbers, "view": jnp.zeros_like(numbers), **more}


def move(entries, seed=0, **options):
    return moved_masks.moved(entries, True, jax.random.key(seed), **options)


def test_pictures_and_masks_are_moved_together():
    entries = batch(clean=batch()["image"] * 2)
    out = move(entries, flip=True, turn=True, shift=2)
    np.testing.assert_array_equal(out["image"][..., 0], np.where(out["label"] >= 0, out["label"] + 2, 0))
    np.testing.assert_array_equal(out["clean"], 2 * out["image"])
    np.testing.assert_array_equal(out["target"], out["label"])
    np.testing.assert_array_equal(out["labelled"], out["label"] >= 0)
    assert (out["label"] == -1).any() and set(out) == {"image", "clean", "label", "target", "labelled"}


def test_every_move_is_one_of_those_and_all_of_them_happen():
    out = np.asarray(move(batch(), flip=True, turn=True)["label"])
    ways_there = set()
    for i in range(N):
        ways = itertools.product((False, True), range(4))
        ways_there |= {
            (f, k) for f, k in ways if np.array_equal(out[i], np.rot90(LABELS[i][:, ::-1] if f else LABELS[i], k))
        }
    assert len(ways_there) == 8
    shifted = np.asarray(move(batch(), shift=1)["label"])
    padded = np.pad(LABELS, ((0, 0), (1, 1), (1, 1)), constant_values=-1)
    places = {
        (r, c)
        for i, r, c in itertools.product(range(N), range(3), range(3))
        if np.array_equal(shifted[i], padded[i, r : r + SIZE, c : c + SIZE])
    }
    assert len(places) == 9


def test_a_view_of_an_example_is_moved_in_one_way_whatever_the_batch():
    whole, half = batch(), jax.tree.map(lambda x: x[10:20], batch())
    options = dict(flip=True, turn=True, shift=2)
    jax.tree.map(
        np.testing.assert_array_equal, jax.tree.map(lambda x: x[10:20], move(whole, **options)), move(half, **options)
    )
    assert not np.array_equal(move(whole, **options)["label"], move(whole, seed=1, **options)["label"])
    other = {**whole, "view": whole["view"] + 1}
    assert not np.array_equal(move(whole, **options)["label"], move(other, **options)["label"])


def test_stored_answers_and_evaluation_stay_as_they_are():
    entries = batch(**{"teacher/logits": jnp.zeros((N, SIZE, SIZE, CLASSES))})
    assert "teacher/logits" not in move(entries, shift=1)
    assert moved_masks.moved(entries, False, jax.random.key(0), shift=1) == {}


def test_scenes_have_exact_masks_and_splits_of_other_digits():
    splits = masks.digit_scenes({"split_seed": 1})
    assert [len(s) for s in splits] == [600, 150, 300] and splits.train.num_classes == 11
    assert splits.train.per_pixel and splits.test.image_shape == (32, 32, 1)
    assert {*np.unique(splits.test.labels)} == {*range(11)}
    assert not np.array_equal(splits.train.images, masks.digit_scenes({"split_seed": 2}).train.images)


def test_a_few_masks_can_be_kept():
    config = kd_jax.base()
    config.data.name, config.data.labels = "kd_jax.data.masks:digit_scenes", 7
    from kd_jax.data.load import load

    train = load(config.data).train
    assert train.labelled.sum() == 7 and (train.labels[~train.labelled] == -1).all()
    assert train.batch(20)["labelled"].shape == (20, 32, 32)


def nuclei_files(folder):
    """Two blobs that touch, in a picture of the size of stardist's."""
    instances = np.zeros((512, 512), np.uint16)
    instances[10:20, 10:20], instances[10:20, 20:30] = 1, 2
    Image.fromarray(instances).save(folder / "mask2d.tif")
    Image.fromarray((instances * 100).astype(np.uint16)).save(folder / "img2d.tif")
    return folder


def test_nuclei_are_divided_in_space_and_edges_part_those_that_touch(tmp_path):
    splits = masks.nuclei({"directory": str(nuclei_files(tmp_path))})
    assert [len(s) for s in splits] == [20 * 12, 20, 20] and splits.train.class_names == masks.NUCLEI
    first = splits.train.labels[0]
    assert (first[11:19, 11:19] == 1).all() and (first[10:20, 19:21] == 2).all() and first[9, 15] == 0
    assert splits.train.images[0, 15, 15, 0] == 100 and not splits.test.labels.any()
    with pytest.raises(DataNotFound, match="there is no folder .*pip install --no-deps stardist"):
        masks.nuclei({"directory": str(tmp_path / "none")})


@pytest.mark.skipif(importlib.util.find_spec("stardist") is None, reason="pip install --no-deps stardist")
def test_the_nuclei_themselves():
    splits = masks.nuclei({})
    assert [len(s) for s in splits] == [240, 20, 20]
    assert 0.1 < (splits.test.labels == 1).mean() < 0.2


def test_a_folder_of_pictures_and_masks(tmp_path):
    x, y = write_pairs(tmp_path, 10, size=12)
    splits = mask_folder.from_folder(tmp_path, channels=1, test=0.3)
    assert [len(splits.train), len(splits.test)] == [7, 3] and splits.train.class_names == ("0", "1", "2")
    whole = np.concatenate([splits.train.labels, splits.test.labels])
    assert (whole == -1).sum() == (y == 255).sum() and whole.max() == 2
    rows = [i for i in range(10) if any(np.array_equal(x[i], one[..., 0]) for one in splits.test.images)]
    np.testing.assert_array_equal(splits.test.labels, np.where(y[rows] == 255, -1, y[rows]))


def test_a_folder_with_splits_names_and_sizes(tmp_path):
    for split, size in (("train", 12), ("validation", 10), ("test", 16)):
        write_pairs(tmp_path / split, 4, size=size)
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\n")
    splits = mask_folder.from_folder(tmp_path, image_size=8)
    assert [len(s) for s in splits] == [4, 4, 4] and splits.train.image_shape == (8, 8, 3)
    assert splits.test.class_names == ("sky", "road", "car") and splits.test.per_pixel
