"""Digests: short texts that are equal in two runs where the data, variables and files are, and in no others.

They hold no addresses, times or orders of a hash, so that the same script has the same ones in another process and on
another machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from kd_jax.data.source import Source
from kd_jax.files import digest
from kd_jax.system.exports import CARD, SHA256
from kd_jax.types import PyTree

SAMPLE = 64  # examples of a streamed set that are looked at
DIGITS = 32


def of_texts(texts: Iterable[str]) -> str:
    """Returns the digest of several texts in their order."""
    total = hashlib.sha256()
    for text in texts:
        total.update(f"{len(text)} {text}".encode())
    return total.hexdigest()[:DIGITS]


def of_array(value: Any) -> str:
    """Returns the digest of an array: its type, shape and bytes. All processes must ask for one that they share."""
    if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    if isinstance(value, jax.Array) and not (value.is_fully_addressable or value.is_fully_replicated):
        value = multihost_utils.process_allgather(value, tiled=True)
    array = np.asarray(value)
    if array.dtype.hasobject:
        return of_texts(map(repr, (array.shape, *array.ravel().tolist())))
    total = hashlib.sha256(f"{array.dtype} {array.shape} ".encode())
    total.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return total.hexdigest()[:DIGITS]


def of_tree(tree: PyTree) -> str:
    """Returns the digest of a tree of arrays: the path of every leaf, its type, shape and bytes."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    arrays = ((path, leaf if hasattr(leaf, "dtype") else np.asarray(leaf)) for path, leaf in leaves)
    return of_texts(f"{jax.tree_util.keystr(path)} {of_array(leaf)}" for path, leaf in arrays)


def of_shapes(tree: PyTree) -> str:
    """Returns the digest of what `eval_shape` made: path, type and shape of every leaf."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return of_texts(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}" for path, leaf in leaves)


def of_files(path: Path) -> str:
    """Returns the digest of a file, or of the names and bytes of all files in a folder, wherever that lies.

    The card that may be written into an export is none of them.
    """
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    files = [p for p in files if p != path / CARD or not (path / SHA256).is_file()]
    return of_texts(f"{p.relative_to(path)} {digest(p)}" for p in files)


def of_source(source: Source) -> dict[str, str]:
    """Returns the digests of a split of the data, by the array.

    In memory all values count, wherever they came from. Of a streamed set its size, its labels, its stamp and SAMPLE
    examples spread over it do: reading all of it would take as long as an epoch.
    """
    facts = (source.name, source.num_classes, source.class_names, source.mean, source.std, source.image_shape)
    arrays = {source.entry: source.images, "label": source.labels, **source.fields}
    made = {name: of_array(array) for name, array in arrays.items() if array is not None}
    made["description"] = of_texts(map(repr, (*facts, len(source), source.end)))
    if source.stamp:
        made["files"] = source.stamp
    if source.fetch is not None:
        rows = np.unique(np.linspace(0, len(source) - 1, SAMPLE).astype(int)) if len(source) else ()
        examples = [source.example(int(i)) for i in rows]
        made[f"{SAMPLE} examples"] = of_texts(of_array(np.asarray(e[k])) for e in examples for k in sorted(e))
    return made


def of_splits(sources: Mapping[str, Source | None], made: dict[int, dict[str, str]]) -> dict[str, str]:
    """Returns {"train.image": digest, ...} of all splits; `made` keeps those of sources that trainings share."""
    digests = {}
    for split, source in sources.items():
        if source is not None:
            if id(source) not in made:
                made[id(source)] = of_source(source)
            digests |= {f"{split}.{name}": value for name, value in made[id(source)].items()}
    return digests
