import io
import json
import tarfile

import numpy as np
import pytest
from digits_on_disk import encoded, shards, some

from kd_jax.data.images import shards as webdataset
from kd_jax.data.load import load


def fields(root, **more):
    return {"name": "webdataset", "directory": str(root), "channels": 1, **more}


def add(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def test_members_are_read_in_any_order(tmp_path):
    root = shards(tmp_path / "digits", {"train": 50, "val": 15, "test": 10})
    train, validation, test = load(fields(root))
    images, labels = some(75)
    np.testing.assert_array_equal(train.images[..., 0], images[:50])
    np.testing.assert_array_equal(validation.labels, labels[50:65])
    np.testing.assert_array_equal(test.images[..., 0], images[65:])
    streamed = load(fields(root, image_size=6)).train
    np.testing.assert_array_equal(streamed.example(31)["image"].shape, (6, 6, 1))
    assert streamed.stamp and streamed.example(31)["label"] == labels[31]


def test_offsets_are_looked_for_once_and_again_when_a_tar_has_changed(tmp_path, monkeypatch):
    root = shards(tmp_path / "digits", {"train": 30})
    first = load(fields(root))
    monkeypatch.setattr(webdataset, "_members", None)
    again = load(fields(root))
    np.testing.assert_array_equal(first.train.images, again.train.images)
    monkeypatch.undo()
    with tarfile.open(root / "train-00001.tar", "a") as tar:
        add(tar, "more.png", encoded(some(1)[0][0]))
        add(tar, "more.cls", b"7")
    assert len(load(fields(root)).train) + len(load(fields(root)).test) == 31
    (root / "train-00000.tar.kd_jax.npz").write_bytes(b"torn")
    assert len(load(fields(root)).train) == len(load(fields(root)).train)


def test_names_of_classes(tmp_path):
    images, labels = some(12)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            add(tar, f"part/{i}.png", encoded(image))
            add(tar, f"part/{i}.json", json.dumps({"label": f"digit {label}", "by": "me"}).encode())
    train, _, test = load(fields(tmp_path))
    assert train.class_names == tuple(sorted({f"digit {label}" for label in labels}))
    (tmp_path / "classes.txt").write_text("\n".join(f"digit {i}" for i in reversed(range(10))))
    named = load(fields(tmp_path)).train
    assert named.num_classes == 10 and named.class_names[0] == "digit 9"


def test_an_unlabelled_member_stays_unlabelled(tmp_path):
    root = shards(tmp_path / "digits", {"train": 20, "test": 5})
    with tarfile.open(root / "train-more.tar", "w") as tar:
        add(tar, "x.png", encoded(some(1)[0][0]))
    train = load(fields(root)).train
    assert len(train) == 21 and (~train.labelled).sum() == 1


def test_wrong_tars(tmp_path):
    root = shards(tmp_path / "digits", {"train": 20, "test": 5})
    tar = root / "train-00000.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:1000])
    with pytest.raises(ValueError, match="train-00000.tar is corrupt"):
        load(fields(root))
    tar.write_bytes(b"no tar at all" * 100)
    with pytest.raises(ValueError, match="train-00000.tar is corrupt"):
        load(fields(root))
    tar.write_bytes(whole)
    load(fields(root))
    start = np.load(root / "train-00000.tar.kd_jax.npz")["offset"][4]
    tar.write_bytes(whole[:start] + b"\0" * 8 + whole[start + 8 :])
    with pytest.raises(ValueError, match="train-00000.tar: 00000.*cannot be decoded"):
        load(fields(root))
