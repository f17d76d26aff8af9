"""Files as torch.save writes them, without PyTorch; `files_of` puts a checkpoint of a network of kd_jax into one."""

from __future__ import annotations

import io
import pickle
import sys
import types
import zipfile
from collections import OrderedDict

import numpy as np

STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "int64": "LongStorage", "bfloat16": "BFloat16Storage"}

UTILS, REBUILD = "_utils", "_rebuild_tensor_v2"


class Storage:
    """Stands in a pickle for the numbers of an array, which lie in a file of their own."""

    def __init__(self, key, array):
        self.key, self.array = key, array


def modules():
    """What the pickle names, under PyTorch's names, so that pickle can refer to it."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def _rebuild_tensor_v2(*args):
        raise AssertionError("only its name is used")

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    setattr(utils, REBUILD, _rebuild_tensor_v2)
    for name in STORAGES.values():
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    setattr(torch, UTILS, utils)
    return {"torch": torch, "torch._utils": utils}


def write_pth(path, value, monkeypatch):
    """Writes `value`, in which arrays stand for tensors, as torch.save does."""
    made = modules()
    for name, module in made.items():
        monkeypatch.setitem(sys.modules, name, module)
    storages = []

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            if not isinstance(obj, Storage):
                return None
            kind = getattr(made["torch"], STORAGES[str(obj.array.dtype)])
            return ("storage", kind, obj.key, "cpu", obj.array.size)

        def reducer_override(self, obj):
            if not isinstance(obj, np.ndarray):
                return NotImplemented
            storages.append(Storage(str(len(storages)), np.ascontiguousarray(obj).reshape(-1)))
            strides = tuple(s // obj.itemsize for s in np.empty(obj.shape, obj.dtype).strides)
            rebuild = getattr(made["torch._utils"], REBUILD)
            return rebuild, (storages[-1], 0, obj.shape, strides, False, OrderedDict())

    text = io.BytesIO()
    Pickler(text, protocol=2).dump(value)
    monkeypatch.undo()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", text.getvalue())
        archive.writestr("net/byteorder", "little")
        for storage in storages:
            archive.writestr(f"net/data/{storage.key}", storage.array.tobytes())
    return path
