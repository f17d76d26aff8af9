"""Files that torch.save wrote, read without PyTorch and without running what their pickle asks for.

A pickle is a program: it names functions and has them called. The one here answers to the names that a state dict needs
(tensors, storages, OrderedDict, numbers of NumPy, an argparse.Namespace that stays inert) and refuses every other name.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # the first two pickles of a file from before torch 1.6
STORAGES = {
    "FloatStorage": np.dtype(np.float32),
    "DoubleStorage": np.dtype(np.float64),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
SYSTEM = {"posix": "os", "nt": "os", "__builtin__": "builtins"}  # what pickles call modules that users know


class Refused(ValueError):
    """A pickle asks for something that no state dict needs."""


class Kind(NamedTuple):
    """A class of storages: the type of its numbers."""

    dtype: np.dtype


class Inert:
    """Stands for an object that only holds settings (argparse.Namespace, torch.device); it has no behaviour."""

    def __init__(self, *values: Any) -> None:
        self.values = values


def read_torch(file: Path) -> Any:
    """Returns what torch.save wrote to `file`, with NumPy arrays for tensors; no code of the file is run.

    Both formats are read, that of a zip archive and the one before torch 1.6. ValueError for a file that is cut off or
    of another kind, and for one whose pickle names anything but tensors and plain containers, with that name.
    """
    try:
        if zipfile.is_zipfile(file):
            return _read_archive(file)
        return _read_old(file)
    except Refused as e:
        raise ValueError(f"{file} is refused: {e}") from None
    except (MemoryError, OSError):
        raise
    except Exception as e:  # a damaged pickle ends in errors of any kind
        raise ValueError(
            f"{file} is not readable: it is cut off, or torch.save did not write it ({type(e).__name__}: {e})"
        ) from e


def _read_archive(file: Path) -> Any:
    """The zip format: data.pkl, and a file data/KEY for each storage."""
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name.endswith("data.pkl") and name.count("/") <= 1]
        if any(name.endswith("/constants.pkl") for name in names):
            raise Refused("it is a program of TorchScript. Save its arrays: torch.save(model.state_dict(), FILE)")
        if len(pickles) != 1:
            raise Refused(f"it is a zip archive without data.pkl; it has {', '.join(names[:6])}")
        root = pickles[0].removesuffix("data.pkl")
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
            raise Refused("its numbers are in big-endian order")
        storages: dict[str, np.ndarray] = {}

        def storage(kind: Kind, key: str, numel: int) -> np.ndarray:
            if key not in storages:
                storages[key] = np.frombuffer(archive.read(f"{root}data/{key}"), kind.dtype, numel)
            return storages[key]

        return _Unpickler(io.BytesIO(archive.read(pickles[0])), storage).load()


def _read_old(file: Path) -> Any:
    """The format before torch 1.6: pickles one after the other, then the storages in the order of the last pickle."""
    room = file.stat().st_size
    storages: dict[str, np.ndarray] = {}

    def storage(kind: Kind, key: str, numel: int) -> np.ndarray:
        if key not in storages:
            if not 0 <= numel * kind.dtype.itemsize <= room:
                raise EOFError(f"a storage of {numel} numbers in {room} bytes")
            storages[key] = np.zeros(numel, kind.dtype)
        return storages[key]

    with file.open("rb") as stream:
        start = stream.peek(2)[:2]
        if start[:1] != b"\x80":
            raise pickle.UnpicklingError(f"it begins with {start!r}")
        first = _Unpickler(stream, storage).load()
        if first != MAGIC:
            raise Refused(f"it is a pickle that torch.save did not write (a {type(first).__name__}). Save a state dict")
        if (protocol := _Unpickler(stream, storage).load()) != PROTOCOL:
            raise Refused(f"it is of protocol {protocol}, not {PROTOCOL}")
        if not _Unpickler(stream, storage).load()["little_endian"]:
            raise Refused("its numbers are in big-endian order")
        read = _Unpickler(stream, storage).load()
        for key in _Unpickler(stream, storage).load():
            values = storages[key]
            if int.from_bytes(stream.read(8), "little") != len(values):
                raise EOFError(f"storage {key} is of another length than its tensors say")
            if stream.readinto(memoryview(values.view(np.uint8))) != values.nbytes:
                raise EOFError(f"storage {key} is cut off")
    return read


class _Unpickler(pickle.Unpickler):
    """Reads a pickle of torch.save; `storage(kind, key, numel)` has the numbers of a storage."""

    def __init__(self, stream: Any, storage: Callable[[Kind, str, int], np.ndarray]) -> None:
        super().__init__(stream, encoding="utf-8")
        self._storage = storage

    def persistent_load(self, pid: Any) -> np.ndarray:
        what, kind, key, _, numel, *view = pid
        if what != "storage" or not isinstance(kind, Kind):
            raise Refused(f"it refers to a {what}, not to a storage")
        values = self._storage(kind, str(key), int(numel))
        if view and view[0] is not None:  # a storage inside another one
            _, offset, size = view[0]
            return values[offset : offset + size]
        return values

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in STORAGES:
            return Kind(STORAGES[name])
        if (module, name) in NAMES:
            return NAMES[module, name]
        if module == "torch" and name in TYPES:
            return Inert(name)
        called = f"{SYSTEM.get(module, module)}.{name}"
        raise Refused(
            f"it asks for {called}, which arrays do not need; nothing of it was run. "
            "Save the arrays alone: torch.save(model.state_dict(), FILE)"
        )


def tensor(storage: np.ndarray, offset: int, size: Any, stride: Any, *_: Any) -> np.ndarray:
    """Returns the view of a storage that a tensor is; ValueError for one beyond it, which would read other memory."""
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if not isinstance(storage, np.ndarray) or min((offset, *size, *stride)) < 0:
        raise ValueError("a tensor without a storage")
    if 0 in size:
        return np.zeros(size, storage.dtype)
    if last >= len(storage):
        raise ValueError(f"a tensor of shape {tuple(size)} beyond its storage of {len(storage)} numbers")
    steps = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], tuple(size), steps, writeable=False)


def _parameter(data: np.ndarray, *_: Any) -> np.ndarray:
    return data


def _number(dtype: Any, data: bytes = b"") -> Any:
    """A number of NumPy, such as the accuracy that trainers keep beside the parameters."""
    if not isinstance(dtype, np.dtype) or dtype.hasobject or not isinstance(data, bytes):
        raise Refused("it holds a NumPy object that is no number")
    return np.frombuffer(data, dtype, 1)[0]


def _dtype(text: str, *_: Any) -> np.dtype:
    dtype = np.dtype(text) if isinstance(text, str) else np.dtype(object)
    if dtype.hasobject:
        raise Refused(f"it holds a NumPy object of type {text!r}")
    return dtype


def _bytes(text: str, *_: Any) -> bytes:
    """Bytes as pickles of protocol 2 write them: as the text of their Latin-1 letters."""
    return text.encode("latin1")


def _empty(*_: Any) -> defaultdict[Any, Any]:
    """A defaultdict without a function that makes its values."""
    return defaultdict()


NAMES: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): _empty,
    ("torch._utils", "_rebuild_tensor"): tensor,
    ("torch._utils", "_rebuild_tensor_v2"): tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch", "Size"): tuple,
    ("torch", "device"): Inert,
    ("argparse", "Namespace"): Inert,
    ("_codecs", "encode"): _bytes,
    ("numpy", "dtype"): _dtype,
    ("numpy.core.multiarray", "scalar"): _number,
    ("numpy._core.multiarray", "scalar"): _number,
    **{(module, "dict"): dict for module in ("builtins", "__builtin__")},
    **{(module, "set"): set for module in ("builtins", "__builtin__")},
}
TYPES = ("float16", "float32", "float64", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
