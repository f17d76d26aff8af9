"""CIFAR-10 and CIFAR-100 (A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009).

They are read from a prepared TFDS folder, the official binary archive, or that archive extracted. A record is 1 label
byte (CIFAR-100: the coarse, then the fine label; the fine one is used) and 3,072 bytes of a 3x32x32 image.
"""

from __future__ import annotations

import dataclasses
import hashlib
import http.client
import os
import tarfile
import tempfile
import urllib.request
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from kd_jax.data.arrays import in_memory
from kd_jax.data.folders import not_found, places
from kd_jax.data.images import prepared
from kd_jax.data.source import Source, Splits

URL = "https://www.cs.toronto.edu/~kriz/"
TIMEOUT = 10.0
IMAGE_BYTES = 3 * 32 * 32


@dataclasses.dataclass(frozen=True)
class Archive:
    """The official archive of a data set."""

    file: str
    md5: str
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str  # the file of class names
    label_bytes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


SETS: dict[str, Archive] = {
    "cifar10": Archive(
        file="cifar-10-binary.tar.gz",
        md5="c32a1d4ab5d03f1284b67883e8d87530",
        folder="cifar-10-batches-bin",
        train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        test=("test_batch.bin",),
        names="batches.meta.txt",
        label_bytes=1,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
    ),
    "cifar100": Archive(
        file="cifar-100-binary.tar.gz",
        md5="03b5dce01913d631647c71ecec9e9cb8",
        folder="cifar-100-binary",
        train=("train.bin",),
        test=("test.bin",),
        names="fine_label_names.txt",
        label_bytes=2,
        mean=(0.5071, 0.4867, 0.4408),  # those of published CIFAR-100 teachers
        std=(0.2675, 0.2565, 0.2761),
    ),
}


def load(
    name: str, directory: str, *, download: bool = False, archives: Mapping[str, Archive] = SETS, url: str = URL
) -> Splits:
    """Loads 50,000 training and 10,000 test images, 32x32x3.

    With `download` a missing archive is fetched once, into `directory` or $KD_JAX_DATA if one is set, else into
    ~/.cache/kd_jax. Raises ValueError for an archive whose MD5 is not that of `archives`, DataNotFound where there is
    nothing to load.
    """
    archive = archives[name]
    if prepared.find(name, directory):
        return prepared.load(name, directory)
    looked = places(directory)
    for place in looked:
        for folder in (place, place / archive.folder, place / name):
            if (folder / archive.train[0]).is_file():
                return _splits(name, archive, lambda file, folder=folder: _plain(folder / file))
            if (folder / archive.file).is_file():
                return _from_archive(name, archive, folder / archive.file)
    fetch = [f"{url}{archive.file}, or data.download=True", *prepared.fetch_commands(name)]
    if not download:
        raise not_found(name, looked, fetch)
    target = (looked[0] if directory or os.environ.get("KD_JAX_DATA") else looked[-1]) / archive.file
    try:
        _download(url + archive.file, target, archive.md5)
    except (OSError, http.client.HTTPException) as error:
        raise not_found(name, [*looked, f"{url}{archive.file} (download failed: {error})"], fetch) from error
    return _from_archive(name, archive, target)


def _download(url: str, target: Path, md5: str) -> None:
    """Downloads into a file beside the target and renames it once it is whole and its checksum is right."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=target.name, delete=False) as scratch:
            try:
                digest = hashlib.md5()
                while block := response.read(1 << 20):
                    digest.update(block)
                    scratch.write(block)
                scratch.flush()
                _check_md5(url, digest.hexdigest(), md5)
                os.replace(scratch.name, target)
            except BaseException:
                os.unlink(scratch.name)
                raise


def _check_md5(what: str | Path, md5: str, expected: str) -> None:
    if md5 != expected:
        raise ValueError(f"{what} is corrupt or not the official file: its MD5 is {md5}, expected {expected}")


def _from_archive(name: str, archive: Archive, path: Path) -> Splits:
    with open(path, "rb") as file:
        _check_md5(path, hashlib.file_digest(file, "md5").hexdigest(), archive.md5)
    wanted = {*archive.train, *archive.test, archive.names}
    try:
        with tarfile.open(path) as tar:  # read in one pass: a member of a .tar.gz is reached by unpacking up to it
            members = ((Path(m.name).name, tar.extractfile(m)) for m in tar if Path(m.name).name in wanted)
            content = {name: file.read() for name, file in members if file is not None}
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is corrupt: {error}") from error

    def read(file: str) -> bytes:
        if file not in content:
            raise ValueError(f"{path} holds no {file}")
        return content[file]

    return _splits(name, archive, read)


def _plain(path: Path) -> bytes:
    if not path.is_file():
        raise not_found(path.name, [path.parent], ["the whole archive again; a part of it is missing"])
    return path.read_bytes()


def _splits(name: str, archive: Archive, read: Callable[[str], bytes]) -> Splits:
    class_names = tuple(read(archive.names).decode().split())
    sources = []
    for split, files in (("train", archive.train), ("test", archive.test)):
        images, labels = zip(*(_records(file, read(file), archive.label_bytes) for file in files), strict=True)
        sources.append(_source(name, split, np.concatenate(images), np.concatenate(labels), class_names, archive))
    return Splits(sources[0], None, sources[1])


def _records(file: str, raw: bytes, label_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    size = label_bytes + IMAGE_BYTES
    if not raw or len(raw) % size:
        raise ValueError(f"{file} is corrupt or truncated: {len(raw)} bytes are no whole number of {size}-byte records")
    table = np.frombuffer(raw, np.uint8).reshape(-1, size)
    images = table[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return images, table[:, label_bytes - 1].astype(np.int32)


def _source(
    name: str, split: str, images: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...], archive: Archive
) -> Source:
    return in_memory(name, split, images, labels, class_names=class_names, mean=archive.mean, std=archive.std)
