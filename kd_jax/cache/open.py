"""Opens a teacher's cache for a run, once it is clear that it holds the answers of this teacher to these pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kd_jax.cache.plan import TeacherCache
from kd_jax.data import answers
from kd_jax.data.answers import Answers
from kd_jax.files import digest
from kd_jax.system import workdir
from kd_jax.system.exports import CARD
from kd_jax.types import PyTree


def hash_of(variables: tuple[PyTree, PyTree]) -> str:
    """Returns the SHA-256 of the parameters and stats: paths, types, shapes and bytes."""
    total = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        leaf = np.asarray(leaf)
        total.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        total.update(np.ascontiguousarray(leaf).tobytes())
    return total.hexdigest()


def hash_of_files(folder: Path) -> str:
    """Returns the SHA-256 of the files of an export, which tells teachers apart without reading their parameters."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / CARD)
    lines = [f"{path.relative_to(folder)} {digest(path)}\n" for path in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def opened(
    cache: TeacherCache, *, files: str = "", trained: Any = None, parameters: Callable[[], str] | None = None
) -> dict[str, Answers]:
    """Returns {split: answers} of a finished cache; raises CacheError that says what was expected for other answers.

    The teacher is the same if `files`, the hash of its export, equals that in the cache, or else if `parameters()`, the
    hash of its values, does. Without either the teacher is not on this machine, and only the config of its training,
    `trained`, is compared.
    """
    result: dict[str, Answers] = {}
    computed = ""
    for split, (_, _, wanted, identity) in cache.splits.items():
        folder = cache.folder / split
        manifest = answers.manifest_of(folder)
        built_from = manifest["about"]["teacher"]
        expected = {**identity, "teacher": {**built_from, **identity["teacher"]}}
        if parameters and (not files or files != built_from["files"]):
            computed = computed or parameters()
            expected["teacher"]["parameters"] = computed
        elif not files:
            expected["teacher"]["trained"] = trained
        lines = answers.differences(workdir.plain(expected), manifest["about"])
        fields = {name: (tuple(f["shape"]), f["dtype"]) for name, f in manifest["fields"].items()}
        lines += [
            f"  {name}: expected {wanted.fields[name]}, the cache has {fields.get(name, sorted(fields))}"
            for name in cache.store.names
            if fields.get(name) != wanted.fields[name]
        ]
        answers.refuse(folder, lines)
        content = answers.open_answers(folder).only(cache.store.names)
        if (short := np.flatnonzero(content.views < wanted.views)).size:
            i = int(short[0])
            line = (
                f"  views: this run shows {wanted.views[i]} views of example {i}, the cache has {content.views[i]} "
                f"(config.{cache.name}.cache.views={content.views.min()} would repeat those)"
            )
            answers.refuse(folder, [line])
        result[split] = content
    return result
