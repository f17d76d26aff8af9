import numpy as np
import pytest

pytest.importorskip("sklearn")

from kd_jax.data import scenes

IMAGES, LABELS = scenes.digits_of("validation")
FEW = scenes.make(IMAGES, LABELS, 30, seed=1)


def test_the_same_seed_makes_the_same_scenes():
    again = scenes.make(IMAGES, LABELS, 30, seed=1)
    other = scenes.make(IMAGES, LABELS, 30, seed=2)
    assert all(np.array_equal(a, b) for a, b in zip(FEW, again, strict=True))
    assert not np.array_equal(FEW.images, other.images)


def test_boxes_lie_inside_and_padding_comes_last():
    there = FEW.classes >= 0
    assert there[:, 0].all() and (np.diff(there.astype(int), axis=1) <= 0).all()
    boxes = FEW.boxes[there]
    assert (boxes >= 0).all() and (boxes <= scenes.SIZE).all() and (boxes[:, 2:] > boxes[:, :2]).all()
    assert not FEW.boxes[~there].any() and set(FEW.classes[there]) <= set(range(10))


def test_a_box_is_the_smallest_around_its_digit_where_nothing_covers_it():
    alone = np.flatnonzero((FEW.classes >= 0).sum(1) == 1)
    assert len(alone)
    for n in alone:
        rows, columns = np.nonzero(FEW.masks[n] >= 0)
        tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_array_equal(FEW.boxes[n, 0], tight)
        assert set(FEW.masks[n][FEW.masks[n] >= 0]) == {FEW.classes[n, 0]}


def test_every_object_is_visible_and_brighter_than_what_is_around():
    for n in range(len(FEW.images)):
        assert set(FEW.masks[n][FEW.masks[n] >= 0]) == set(FEW.classes[n][FEW.classes[n] >= 0])
    ink = FEW.masks >= 0
    assert FEW.images[..., 0][ink].mean() > FEW.images[..., 0][~ink].mean() + 50


def test_the_splits_are_made_of_different_digit_images():
    parts = {name: {image.tobytes() for image in scenes.digits_of(name)[0]} for name in scenes.COUNTS}
    assert not parts["train"] & parts["test"] and not parts["validation"] & parts["test"]
    assert not parts["train"] & parts["validation"]


@pytest.mark.parametrize(
    ("options", "says"),
    [(dict(sides=(12, 80)), "sides=.12, 80."), (dict(objects=(0, 3)), "objects=.0, 3.")],
)
def test_scenes_that_cannot_be_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        scenes.make(IMAGES, LABELS, 1, seed=0, **options)
