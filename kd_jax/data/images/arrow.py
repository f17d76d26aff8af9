"""Data sets of Hugging Face's `datasets` that `save_to_disk` wrote: Arrow files, read in any order by pyarrow alone.

One column holds pictures (Image: bytes, or the path of a file), one the labels (ClassLabel with its names, or
integers); further columns of numbers become fields. A folder with dataset_dict.json has a folder a split; one without
is a single split, of which a share is held out.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from kd_jax.data.images.encoded import Encoded, Options, splits_of, stamp_of
from kd_jax.data.images.files import split_of
from kd_jax.data.source import DataNotFound, Splits

SAVED = "datasets.load_dataset(NAME).save_to_disk(FOLDER)"


def pyarrow() -> Any:
    """Returns the package pyarrow; ImportError that says how to get it."""
    try:
        import pyarrow
    except ImportError as e:
        raise ImportError("Arrow and Parquet files need pyarrow: pip install 'kd_jax[arrow]'") from e
    return pyarrow


def parquet() -> Any:
    """Returns pyarrow's module of Parquet files, which is not loaded with the rest."""
    pyarrow()
    from pyarrow import parquet

    return parquet


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """Records that are rows of Arrow files; `starts` are the first rows of each, and the number of all."""

    files: tuple[str, ...]
    starts: np.ndarray
    column: str

    def read(self, index: int) -> bytes:
        which = int(np.searchsorted(self.starts, index, side="right")) - 1
        value = _column(self.files[which], self.column)[index - int(self.starts[which])].as_py()
        if isinstance(value, bytes):
            return value
        value = value or {}
        if value.get("bytes") is not None:
            return value["bytes"]
        if not value.get("path"):
            raise ValueError("the row has no picture")
        return Path(self.files[which]).parent.joinpath(value["path"]).read_bytes()

    def place(self, index: int) -> str:
        which = int(np.searchsorted(self.starts, index, side="right")) - 1
        return f"{self.files[which]}, row {index - int(self.starts[which])}"


@functools.lru_cache(maxsize=512)
def _table(file: str) -> Any:
    pa = pyarrow()
    try:
        return pa.ipc.open_stream(pa.memory_map(file)).read_all()  # mapped: no row is copied yet
    except pa.ArrowInvalid as e:
        raise ValueError(f"{file} is no Arrow file of save_to_disk, or cut off: {e}") from e


def _column(file: str, name: str) -> Any:
    return _table(file)[name]


def load(fields: SimpleNamespace) -> Splits:
    """Loads data.name="hf_dataset" from data.directory.

    Raises DataNotFound where no data set was saved, ImportError without pyarrow, ValueError where no column or several
    may be the pictures or the labels.
    """
    options = Options(fields.image_size, fields.crop, fields.channels, fields.on_error)
    root = Path(fields.directory)
    if not fields.directory or not ((root / "dataset_dict.json").is_file() or (root / "state.json").is_file()):
        raise DataNotFound(
            f"data.name='hf_dataset' reads what {SAVED} writes; in data.directory={fields.directory!r} there is none."
        )
    parts = {split: _split(folder) for split, folder in _folders(root).items()}
    class_names = parts["train"][1]
    for split, (_, other, _) in parts.items():
        if other and class_names and other != class_names:
            raise ValueError(f"{root}: the classes of {split} are not those of train.")
    encoded = {split: part[0] for split, part in parts.items()}
    class_names = class_names or tuple(map(str, range(1 + max(int(e.labels.max()) for e in encoded.values()))))
    stamp = functools.partial(stamp_of, [file for *_, files in parts.values() for file in files], root)
    return splits_of("hf_dataset", encoded, class_names, options, test=fields.test, stamp=stamp)


def _folders(root: Path) -> dict[str, Path]:
    """The folder of each split that is read; says which are not."""
    names = _json(root / "dataset_dict.json")["splits"] if (root / "dataset_dict.json").is_file() else [""]
    folders: dict[str, Path] = {}
    for name in names:
        split = split_of(name) if name else "train"
        if split in ("", "unlabelled") or split in folders:
            print(f"hf_dataset: the split {name!r} is not read")
            continue
        folders[split] = root / name
    if "train" not in folders:
        raise ValueError(f"{root} has the splits {', '.join(names)}, and none is train.")
    return folders


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as e:
        raise ValueError(f"{path} is not readable: {e}") from e


def _split(folder: Path) -> tuple[Encoded, tuple[str, ...], list[Path]]:
    """(the pictures of a split, the names of its classes where they have any, its files)."""
    features: Mapping[str, Any] = _json(folder / "dataset_info.json")["features"]
    files = [folder / entry["filename"] for entry in _json(folder / "state.json")["_data_files"]]
    image, label = _columns(folder, features)
    tables = [_table(str(file)) for file in files]
    starts = np.cumsum([0, *(len(table) for table in tables)])
    columns = {n: np.concatenate([t[n].to_numpy() for t in tables]) for n in features if _is_number(features[n])}
    labels = np.nan_to_num(columns.pop(label).astype(np.float64), nan=-1).astype(np.int32)
    fields = {n: x.astype(np.int32 if x.dtype.kind in "iub" else np.float32) for n, x in columns.items()}
    records = Rows(tuple(map(str, files)), starts, image)
    return Encoded(records, np.arange(starts[-1]), labels, fields), tuple(features[label].get("names") or ()), files


def _columns(folder: Path, features: Mapping[str, Any]) -> tuple[str, str]:
    """The columns of the pictures and of the labels; ValueError where several may be, or none."""
    images = [name for name, f in features.items() if f.get("_type") == "Image"]
    classes = [name for name, f in features.items() if f.get("_type") == "ClassLabel"]
    labels = classes or [name for name in ("label", "labels") if name in features]
    if len(images) != 1 or len(labels) != 1:
        shown = ", ".join(f"{name}: {f.get('_type')} {f.get('dtype', '')}".strip() for name, f in features.items())
        raise ValueError(
            f"{folder}: one Image and one ClassLabel (or a column `label`) are expected, there is {shown}."
        )
    return images[0], labels[0]


def _is_number(feature: Any) -> bool:
    kind = feature.get("_type") if isinstance(feature, Mapping) else None
    return kind == "ClassLabel" or (kind == "Value" and feature["dtype"].startswith(("int", "uint", "float", "bool")))
