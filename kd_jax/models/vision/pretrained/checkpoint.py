"""What lies at a path: the config and the arrays of a checkpoint of vision networks, whoever wrote it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from kd_jax.files import path_of
from kd_jax.models.hub import find_model
from kd_jax.models.safetensors_io import CONFIG, INDEX, WEIGHTS, Tensors, read_config
from kd_jax.models.vision.pretrained.torch_files import read_torch

TORCH = (".pth", ".pt", ".bin", ".tar", ".ckpt")
ENDINGS = (".safetensors", *TORCH)
# Where trainers keep the parameters of a network beside those of its optimizer, and what wraps a network there.
NESTED = ("state_dict", "model", "net", "model_state", "state_dict_ema", "model_ema")
WRAPPERS = ("module.", "_orig_mod.", "timm_model.")


class Checkpoint(NamedTuple):
    """`config` is config.json, or what the file is called as "architecture"; `arrays` are read when looked up."""

    path: str
    folder: Path
    config: dict[str, Any]
    arrays: Mapping[str, np.ndarray]


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Returns the config and the arrays at `path`: a folder, a file, "package:NAME/PATH" or an id of the hub.

    ValueError for what is none of them, lists the files that are there.
    """
    file = None if str(path).startswith("package:") else path_of(path, "path")
    if file is not None and file.is_file():
        return Checkpoint(str(path), file.parent, {"architecture": file.stem}, _arrays(file))
    folder = file if file is not None and file.is_dir() else find_model(str(path))
    config = read_config(folder) if (folder / CONFIG).exists() else {}
    if config.get("model_type") == "timm_wrapper":
        del config["model_type"]
    if (folder / INDEX).exists() or (folder / WEIGHTS).exists():
        return Checkpoint(str(path), folder, config, Tensors(folder))
    file = _only_file(folder)
    return Checkpoint(str(path), folder, config or {"architecture": file.stem}, _arrays(file))


def weights_of(folder: Path) -> list[Path]:
    """Returns the files of weights in a folder."""
    return sorted(file for file in folder.iterdir() if file.suffix in ENDINGS)


def _only_file(folder: Path) -> Path:
    files = weights_of(folder)
    if len(files) == 1:
        return files[0]
    there = ", ".join(sorted(file.name for file in folder.iterdir())) or "nothing"
    wanted = "one file of weights; name one of several" if files else f"a file of weights ({', '.join(ENDINGS)})"
    raise ValueError(f"{folder}: expected {wanted}. It has {there}.")


def _arrays(file: Path) -> Mapping[str, np.ndarray]:
    if file.suffix not in ENDINGS:
        raise ValueError(f"{file}: expected a file of weights ({', '.join(ENDINGS)}) or a folder with one.")
    if file.suffix == ".safetensors":
        return _unwrapped(_Safetensors(file))
    return _unwrapped(_inside(file, read_torch(file)))


class _Safetensors(Mapping[str, np.ndarray]):
    """The tensors of one .safetensors file; one is read when it is looked up."""

    def __init__(self, file: Path) -> None:
        try:
            self._file = safe_open(file, "np")
        except SafetensorError as e:
            raise ValueError(f"{file} is not readable: it is cut off or of another kind ({e})") from e
        self._names = dict.fromkeys(self._file.keys())

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        return self._file.get_tensor(name)

    def __contains__(self, name: object) -> bool:  # a file's own error for a name that it lacks is no KeyError
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of a tensor, without reading it."""
        return tuple(self._file.get_slice(name).get_shape())


def _inside(file: Path, read: Any) -> dict[str, np.ndarray]:
    """The parameters in what a .pth holds, which may keep them beside other things."""
    where = [name for name in NESTED if isinstance(read, Mapping) and isinstance(read.get(name), Mapping)]
    if where:
        return _inside(file, read[where[0]])
    arrays = {k: v for k, v in read.items() if isinstance(v, np.ndarray)} if isinstance(read, Mapping) else {}
    if not arrays:
        what = f"{{{', '.join(map(str, list(read)[:6]))}}}" if isinstance(read, Mapping) else type(read).__name__
        raise ValueError(f"{file} holds no parameters, alone or under {', '.join(NESTED)}: it is {what}.")
    return arrays


def _unwrapped(arrays: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """The arrays without the name of a wrapper (DataParallel, torch.compile) that all of them begin with."""
    for wrapper in WRAPPERS:
        if len(arrays) and all(name.startswith(wrapper) for name in arrays):
            return _unwrapped({name.removeprefix(wrapper): arrays[name] for name in arrays})
    return arrays
