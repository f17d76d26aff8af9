import dataclasses
import functools
import hashlib
import http.server
import io
import tarfile
import threading
import time

import numpy as np
import pytest

from kd_jax.data.images import cifar
from kd_jax.data.source import DataNotFound

COUNT = 6  # records a file


def files_of(name: str) -> dict[str, bytes]:
    archive = cifar.SETS[name]
    rng = np.random.default_rng(0)
    out = {
        archive.names: "\n".join(f"class{i}" for i in range(10 if archive.label_bytes == 1 else 100)).encode() + b"\n\n"
    }
    for file in (*archive.train, *archive.test):
        table = rng.integers(0, 256, (COUNT, archive.label_bytes + cifar.IMAGE_BYTES), dtype=np.uint8)
        table[:, 0] = 9  # CIFAR-100: the coarse label
        table[:, archive.label_bytes - 1] = np.arange(COUNT)
        out[file] = table.tobytes()
    return out


def pack(name: str) -> tuple[bytes, dict[str, cifar.Archive]]:
    """The bytes of a small archive in the official format, and the list of archives with its checksum."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for file, content in files_of(name).items():
            member = tarfile.TarInfo(f"{cifar.SETS[name].folder}/{file}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    data = buffer.getvalue()
    return data, {name: dataclasses.replace(cifar.SETS[name], md5=hashlib.md5(data).hexdigest())}


def check_cifar(name: str, loaded) -> None:
    files = len(cifar.SETS[name].train)
    assert len(loaded.train) == files * COUNT and len(loaded.test) == COUNT and loaded.validation is None
    np.testing.assert_array_equal(loaded.train.labels, np.tile(np.arange(COUNT), files))
    record = np.frombuffer(files_of(name)[cifar.SETS[name].train[0]], np.uint8)[cifar.SETS[name].label_bytes :]
    assert loaded.train.images[0, 3, 5, 2] == record[2 * 1024 + 3 * 32 + 5]
    assert loaded.train.image_shape == (32, 32, 3) and loaded.train.class_names[1] == "class1"


@pytest.mark.parametrize("name", cifar.SETS)
def test_archive(name, tmp_path):
    data, archives = pack(name)
    (tmp_path / archives[name].file).write_bytes(data)
    check_cifar(name, cifar.load(name, str(tmp_path), archives=archives))
    with pytest.raises(ValueError, match="MD5"):
        cifar.load(name, str(tmp_path))


@pytest.mark.parametrize("name", cifar.SETS)
def test_extracted(name, tmp_path):
    folder = tmp_path / cifar.SETS[name].folder
    folder.mkdir()
    for file, content in files_of(name).items():
        (folder / file).write_bytes(content)
    for directory in (tmp_path, folder):
        check_cifar(name, cifar.load(name, str(directory)))
    last = folder / cifar.SETS[name].train[-1]
    last.write_bytes(last.read_bytes()[:-1])
    with pytest.raises(ValueError, match=f"{last.name} is corrupt or truncated"):
        cifar.load(name, str(tmp_path))
    (folder / cifar.SETS[name].test[0]).unlink()
    with pytest.raises((DataNotFound, ValueError)):
        cifar.load(name, str(tmp_path))


def test_truncated_archive(tmp_path):
    data, archives = pack("cifar10")
    short = data[: len(data) // 2]
    archives["cifar10"] = dataclasses.replace(archives["cifar10"], md5=hashlib.md5(short).hexdigest())
    (tmp_path / archives["cifar10"].file).write_bytes(short)
    with pytest.raises(ValueError, match="corrupt"):
        cifar.load("cifar10", str(tmp_path), archives=archives)


@pytest.fixture
def server(tmp_path):
    """A folder, and the address at which it is served on this machine."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()


def test_download(tmp_path, server):
    served, url = server
    data, archives = pack("cifar10")
    target = tmp_path / "data"
    with pytest.raises(DataNotFound, match="download failed.*404"):
        cifar.load("cifar10", str(target), download=True, archives=archives, url=url)
    (served / archives["cifar10"].file).write_bytes(data + b"x")
    with pytest.raises(ValueError, match="MD5"):
        cifar.load("cifar10", str(target), download=True, archives=archives, url=url)
    assert list(target.iterdir()) == []
    (served / archives["cifar10"].file).write_bytes(data)
    check_cifar("cifar10", cifar.load("cifar10", str(target), download=True, archives=archives, url=url))
    (served / archives["cifar10"].file).unlink()  # the second time it is there
    check_cifar("cifar10", cifar.load("cifar10", str(target), download=True, archives=archives, url=url))
    assert [path.name for path in target.iterdir()] == ["cifar-10-binary.tar.gz"]


def test_unreachable_server(tmp_path):
    start = time.monotonic()
    with pytest.raises(DataNotFound, match="download failed"):
        cifar.load("cifar100", str(tmp_path), download=True, url="http://127.0.0.1:9/")
    assert time.monotonic() - start < 12
    with pytest.raises(DataNotFound, match="data.download=True"):
        cifar.load("cifar100", str(tmp_path))
