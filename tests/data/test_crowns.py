"""Crowns: tiles of aerial pictures that share no ground between the splits."""

import numpy as np
import pytest
from PIL import Image

from kd_jax.data import crowns
from kd_jax.data.source import DataNotFound

OBJECT = (
    "<object><name>Tree</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)


def folder_of(path, width=1300, height=260):
    """Four pictures whose red is the column of tiles; each tile has a crown, and every border of columns another."""
    for name in crowns.PICTURES:
        picture = np.zeros((height, width, 3), np.uint8)
        boxes = []
        for column in range(width // crowns.TILE):
            left = column * crowns.TILE
            picture[:, left : left + crowns.TILE, 0] = 10 * column
            boxes += [(left + 20, 40, left + 60, 90), (left + 118, 100, left + 158, 120)]
        Image.fromarray(picture).save(path / f"{name}.png")
        text = "".join(OBJECT.format(*box) for box in boxes)
        (path / f"{name}.xml").write_text(f"<annotation>{text}</annotation>")
    return path


def test_strips_of_the_ground_are_in_one_split_each(tmp_path):
    splits = crowns.crowns({"directory": str(folder_of(tmp_path))})
    columns = [{int(image[0, 0, 0]) // 10 for image in split.images} for split in splits]
    assert columns == [set(range(6)), {6, 7}, {8, 9}]
    assert [len(split) for split in splits] == [48, 16, 16] and splits.train.image_shape == (64, 64, 3)


def test_boxes_are_cut_off_scaled_and_given_to_the_tile_that_shows_them(tmp_path):
    train = crowns.crowns({"directory": str(folder_of(tmp_path))}).train
    first, second = (train.labels[i][train.labels[i, :, 4] == 0] for i in (0, 1))
    np.testing.assert_array_equal(
        first, [[10, 20, 30, 45, 0]]
    )  # 10 of 40 pixels of the crown on the border are too few
    np.testing.assert_array_equal(sorted(map(tuple, second)), [(0, 50, 15, 60, 0), (10, 20, 30, 45, 0)])
    empty = train.labels[6]  # the second row of tiles has none
    assert (empty[:, 4] == -1).all() and train.labelled.all()


def test_the_real_pictures_are_read():
    try:
        splits = crowns.crowns({})
    except DataNotFound as e:
        pytest.skip(str(e))
    assert sum(int((split.labels[..., 4] >= 0).sum()) for split in splits) > 800


def test_what_is_missing_or_broken_is_said(tmp_path):
    with pytest.raises(DataNotFound, match="pip install --no-deps deepforest"):
        crowns.crowns({"directory": str(tmp_path / "none")})
    folder = folder_of(tmp_path)
    (folder / "OSBS_029.xml").write_text("<annotation>")
    with pytest.raises(ValueError, match="crowns: .*OSBS_029.xml and its picture are not those of deepforest"):
        crowns.crowns({"directory": str(folder)})
