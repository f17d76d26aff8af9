import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from kd_jax.data.images import idx
from kd_jax.data.load import load
from kd_jax.data.source import DataNotFound

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def write(folder: Path, compress: bool = True) -> None:
    folder.mkdir(parents=True)
    for prefix, n in (("train", 40), ("t10k", 10)):
        images = np.arange(n * 784, dtype=np.uint32).astype(np.uint8)
        for stem, head, body in (
            (f"{prefix}-images-idx3-ubyte", struct.pack(">4B3i", 0, 0, 8, 3, n, 28, 28), images),
            (f"{prefix}-labels-idx1-ubyte", struct.pack(">4Bi", 0, 0, 8, 1, n), (np.arange(n) % 10).astype(np.uint8)),
        ):
            data = head + body.tobytes()
            if compress:
                (folder / f"{stem}.gz").write_bytes(gzip.compress(data))
            else:
                (folder / stem).write_bytes(data)


@pytest.mark.parametrize("below", ["", "mnist", "MNIST/raw"])
@pytest.mark.parametrize("compress", [True, False])
def test_reads_idx(tmp_path, below, compress):
    write(tmp_path / "data" / below, compress)
    splits = load({"name": "mnist", "directory": str(tmp_path / "data"), "validation": 0.25})
    assert [len(source) for source in splits] == [30, 10, 10]
    assert splits.test.images.shape == (10, 28, 28, 1)
    np.testing.assert_array_equal(splits.test.images[1].ravel(), (np.arange(784, 1568) % 256).astype(np.uint8))
    np.testing.assert_array_equal(splits.test.labels, np.arange(10))


def test_shared_folder_is_not_mistaken_for_another_set(tmp_path, monkeypatch):
    """MNIST's files and Fashion-MNIST's have the same names."""
    monkeypatch.setenv("KD_JAX_DATA", str(tmp_path))
    write(tmp_path / "fashion-mnist")
    assert load({"name": "fashion_mnist"}).train.class_names[0] == "T-shirt/top"
    with pytest.raises(DataNotFound):
        load({"name": "mnist"})


def test_broken_files(tmp_path):
    folder = tmp_path / "mnist"
    write(folder)
    path = folder / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    raw = gzip.decompress(whole)
    for broken, message in (
        (whole[: len(whole) // 2], "corrupt or truncated"),
        (whole[:200] + bytes([whole[200] ^ 255]) + whole[201:], "corrupt or truncated"),
        (raw[:-5], "needs 31360 bytes, there are 31355"),
        (raw[:10], "corrupt or truncated"),
        (b"", "not an idx file"),
        (b"<html>", "not an idx file"),
    ):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=message) as caught:
            idx.read_idx(path)
        assert str(path) in str(caught.value)
    path.write_bytes(whole)
    (folder / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataNotFound, match="train-labels-idx1-ubyte"):
        load({"name": "mnist", "directory": str(folder)})


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs the Debian package dataset-fashion-mnist")
def test_debian_fashion_mnist():
    splits = load({"name": "fashion_mnist", "labels": 1000, "train_slice": (20000, 40000), "validation": 0.1})
    assert [len(source) for source in splits] == [20000, 6000, 10000]
    assert splits.train.labelled.sum() == 1000
    np.testing.assert_array_equal(np.bincount(splits.validation.labels), np.full(10, 600))
    np.testing.assert_allclose((splits.train.images / 255).mean(), splits.train.mean[0], atol=2e-3)
    np.testing.assert_allclose((splits.train.images / 255).std(), splits.train.std[0], atol=2e-3)
