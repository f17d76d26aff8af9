"""Files of answers: .npz, .safetensors, .parquet, those of DistillKit and MaxText, and the folder of a teacher's cache.

.npz and .safetensors hold arrays <split>_logits, <split>_probabilities, or <split>_top_log_probs and <split>_top_ids,
and maybe <split>_features:TAP, where <split> is train, validation or test. .parquet holds one row an example with the
columns logits, probabilities, or top_log_probs and top_ids, maybe features:TAP, all lists of numbers, and maybe split
(without it all rows are train).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from kd_jax.cache.model import Store
from kd_jax.data import answers
from kd_jax.data.answers import MANIFEST, Answers, CacheError
from kd_jax.data.images.arrow import parquet, pyarrow
from kd_jax.data.text import topk_files

SPLITS = ("train", "validation", "test")
SUFFIXES = (".npz", ".safetensors", ".parquet")
KINDS = ("logits", "probabilities", "top_log_probs", "top_ids")


def read(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Returns {split: {field: array}} of a file; raises ValueError for one that is not there, or of another kind."""
    if not path.exists():
        raise ValueError(f"There is no file of answers {str(path)!r}.")
    if topk_files.is_topk(path):
        return {"train": topk_files.read(path).answers()}
    if path.suffix == ".npz":
        return _by_split(path, _npz(path))
    if path.suffix == ".safetensors":
        return _by_split(path, _safetensors(path))
    if path.suffix == ".parquet":
        return _parquet(path)
    raise ValueError(
        f"{path} is no file of answers: .npz, .safetensors, .parquet, DistillKit's folder of Parquet files, MaxText's "
        ".array_record, or the folder of a teacher's cache (with train/manifest.json)."
    )


def write(path: Path, splits: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Writes {split: {field: array}} as .npz, .safetensors or .parquet, as `read` reads them."""
    flat = {
        f"{split}_{name}": np.ascontiguousarray(x) for split, fields in splits.items() for name, x in fields.items()
    }
    if path.suffix == ".npz":
        np.savez(path, **flat)
    elif path.suffix == ".safetensors":
        save_file(flat, path)
    elif path.suffix == ".parquet":
        pa, columns = pyarrow(), {}
        for name in next(iter(splits.values())):
            columns[name] = pa.array([row.tolist() for fields in splits.values() for row in fields[name]])
        columns["split"] = pa.array([split for split, fields in splits.items() for _ in next(iter(fields.values()))])
        parquet().write_table(pa.table(columns), path)
    else:
        raise ValueError(f"Answers are written as .npz, .safetensors or .parquet, not {path.name}.")


def _npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path) as file:  # no pickles
            return {name: file[name] for name in file}
    except Exception as e:  # zipfile, zlib and NumPy raise many kinds
        raise ValueError(f"{path} cannot be read as .npz: it is cut off or of another kind ({e}).") from e


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as e:
        raise ValueError(f"{path} cannot be read as safetensors: {e}") from e


def _by_split(path: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    made: dict[str, dict[str, np.ndarray]] = {}
    for name, values in arrays.items():
        split, _, field = name.partition("_")
        if split not in SPLITS or not (field in KINDS or field.startswith("features:")):
            raise ValueError(
                f"{path} holds {name!r}; expected <split>_<field> with train, validation or test, and "
                f"{', '.join(KINDS)} or features:TAP."
            )
        made.setdefault(split, {})[field] = values
    return made


def _parquet(path: Path) -> dict[str, dict[str, np.ndarray]]:
    pa = pyarrow()
    try:
        table = parquet().read_table(path)
    except (pa.ArrowInvalid, OSError) as e:
        raise ValueError(f"{path} cannot be read as Parquet: {e}") from e
    columns = {n: table[n] for n in table.column_names if n in KINDS or n.startswith("features:")}
    if not columns:
        raise ValueError(f"{path} has the columns {', '.join(table.column_names)}; expected one of {', '.join(KINDS)}.")
    arrays = {}
    for name, column in columns.items():
        try:
            arrays[name] = np.array(column.to_pylist())
        except ValueError as e:
            raise ValueError(f"{path}: the rows of the column {name!r} have several lengths.") from e
    splits = np.array(table["split"].to_pylist() if "split" in table.column_names else ["train"] * len(table))
    if unknown := sorted({*splits.tolist()} - {*SPLITS}):
        raise ValueError(f"{path}: split is train, validation or test, not {unknown[0]!r}.")
    return {s: {n: x[splits == s] for n, x in arrays.items()} for s in SPLITS if (splits == s).any()}


def is_cache(folder: Path) -> bool:
    """Returns whether a folder is that of a teacher's cache."""
    return any((folder / split / name).exists() for split in SPLITS for name in (MANIFEST, answers.PLAN))


def open_cache(folder: Path) -> tuple[dict[str, Answers], dict[str, Store], dict[str, str]]:
    """Returns the answers of a cache, how they are stored, and the hashes of the data that they answer, by split.

    Raises CacheError where answers are to augmented pictures, which another run does not show.
    """
    opened, stores, examples = {}, {}, {}
    for split in SPLITS:
        if not (folder / split).exists():
            continue
        manifest = answers.manifest_of(folder / split)["about"]
        if manifest["pictures"]["seed"] is not None:
            raise CacheError(
                f"The cache {folder} has answers to augmented pictures, which are those of one config: name it as "
                "config.teacher.cache.directory. Answers for every run are built without augmentation."
            )
        store = manifest["answers"]
        if arrays := store.get("arrays"):
            raise CacheError(
                f"The cache {folder} has answers of several arrays, {', '.join(arrays)}, which are read where their "
                "teacher is configured: name the folder as config.teacher.cache.directory."
            )
        opened[split] = answers.open_answers(folder / split)
        taps = tuple(
            name.removeprefix("features:")
            for name in opened[split].fields
            if name.startswith("features:") and not name.endswith("/scale")
        )
        stores[split] = Store(store["k"], store["dtype"], store["temperature"] or 1.0, taps)
        examples[split] = manifest["data"]["sha256"]
    return opened, stores, examples


def seal_of(opened: Answers) -> str:
    """Returns the digest of a cache's manifest, which holds those of its files."""
    record: Any = {} if opened.folder is None else json.loads((opened.folder / MANIFEST).read_text())
    return str(record.get("seal"))
