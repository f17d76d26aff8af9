"""What an export says of its network (model.json): what `kd_jax.load` builds, prepares and answers with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kd_jax.core.evaluate import scored_by
from kd_jax.core.paths import calls_in, entry_paths
from kd_jax.core.prepare import Preparation
from kd_jax.data.batches import batch_shapes
from kd_jax.data.source import BATCH, Source
from kd_jax.models.adapters import name_of
from kd_jax.models.described import NotDescribable, Origin, describe, factory
from kd_jax.models.hub import find_model
from kd_jax.system.workdir import git_hash, versions
from kd_jax.types import Model, Scheme

SCHEMA = 1  # of model.json
TOKENIZER = "tokenizer.json"


@dataclasses.dataclass(frozen=True)
class About:
    """What a training's exports say that its scheme does not: `origins` are the models that factories made."""

    prepare: Preparation | None = None
    origins: tuple[Origin, ...] = ()


def origins_of(models: Mapping[str, tuple[Model, Callable[..., Any], Mapping[str, Any]]]) -> tuple[Origin, ...]:
    """Returns the descriptions of {role: (model, the factory that made it, its arguments)}.

    A factory that reads a folder is left out: its product is described, for which the folder need not lie anywhere.
    """
    origins = []
    for model, fn, kwargs in models.values():
        if not any(_is_place(value) for value in kwargs.values()):
            try:
                origins.append((model, factory(fn, kwargs)))
            except NotDescribable:  # what it made may be
                continue
    return tuple(origins)


def _is_place(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_is_place, value.values()))
    if not isinstance(value, str) or not value:
        return False
    try:
        return Path(value).expanduser().exists() or find_model(value).exists()
    except (ValueError, OSError):
        return False


def info_of(
    role: str, scheme: Scheme, source: Source, facts: About, which: str, scores: Mapping[str, Any], seed: int
) -> dict[str, Any]:
    """Returns model.json of a role at its "last" or "best" step, without checksums; `scores` are {split: {entry: ...}}.

    "architecture" is {"name", "kwargs"} (kd_jax/models/described.py), or {"name": None, "class", "why"} where only the
    caller's code can build it. "input" is the shape and type of one raw example, "fields" are those of what else it
    has, with the "range" of numbers (of a user, say), "columns" how a table becomes features; "inputs" are the paths of
    the prepared batch, "entry" is what was scored first, "entries" all of it.
    """
    task, entries = scored_by(scheme), _entries(scheme, role)
    raw = {name: _spec(x) for name, x in batch_shapes(source, 1).items() if "/" not in name}
    return {
        "schema": SCHEMA,
        "role": role,
        "main": calls_in(entry_paths(scheme.evaluate[0])[:1]) == {role},
        "which": which,
        "architecture": architecture(scheme.roles[role].model, facts.origins),
        "entry": entries[0],
        "entries": entries,
        "inputs": list(scheme.roles[role].inputs),
        "input": raw[source.entry],
        "fields": {
            name: spec | _range(source, name) for name, spec in raw.items() if name not in (*BATCH, source.entry)
        },
        "columns": list(source.columns),
        "label": raw["label"],
        "preparation": _preparation(facts.prepare or scheme.prepare, source, raw[source.entry]),
        "task": {
            "name": task.name,
            "predicts": task.predicts,
            "predict": _described(task.predict),
            "headline": task.headline._asdict(),
        },
        "classes": [] if source.per_token else list(map(str, source.class_names)),
        "data": {"name": source.name, "noun": source.noun, "num_classes": source.num_classes, "end": _ends(source)},
        "scores": {
            "step": scores["step"],
            **{s: {e: scores[s][e] for e in entries if e in scores[s]} for s in scores if s != "step"},
        },
        "seed": seed,
        "versions": versions(),
        "git": git_hash(),
    }


def _ends(source: Source) -> list[int] | None:
    """The tokens that end a text, None of other data."""
    if source.end is None:
        return None
    return [source.end] if isinstance(source.end, int) else list(source.end)


def texts_of(source: Source) -> dict[str, str]:
    """Returns the further files of an export: the tokenizer of a source of texts."""
    return {TOKENIZER: source.texts.tokenizer} if source.texts is not None else {}


def architecture(model: Model, origins: tuple[Origin, ...]) -> dict[str, Any]:
    """Returns how the model is built: {"name", "kwargs"}, or {"name": None, "class", "why"} where nothing else can."""
    try:
        return describe(model, origins)
    except NotDescribable as e:
        return {"name": None, "class": name_of(model), "why": str(e)}


def _entries(scheme: Scheme, role: str) -> list[str]:
    """What is scored of the role alone, the most important first."""
    return [e for e in scheme.evaluate if calls_in(entry_paths(e)) == {role}] or [role]


def _spec(value: Any) -> dict[str, Any]:
    return {"shape": list(value.shape[1:]), "dtype": str(value.dtype)}


def _range(source: Source, name: str) -> dict[str, list[int]]:
    """The least and the greatest number of a field that has one an example: others were never seen."""
    values = source.fields.get(name)
    if values is None or values.ndim != 1 or values.dtype.kind not in "iu" or not len(values):
        return {}
    return {"range": [int(values.min()), int(values.max())]}


def _described(value: Any) -> Any:
    """A description, None of nothing, {"why"} where there is none."""
    try:
        return describe(value)
    except NotDescribable as e:
        return {"why": str(e)}


def _preparation(prepare: Any, source: Source, raw: Mapping[str, Any]) -> dict[str, Any]:
    """From what lies in the data to what the network reads: (x / scale - mean) / std, and whatever `prepare` adds.

    "prepare" is all of it, described; the other entries say it to people, and to other languages.
    """
    shape = raw["shape"]
    base = {
        "entry": source.entry,
        "scale": 255 if raw["dtype"] == "uint8" else 1,
        "mean": None,
        "std": None,
        "size": shape[:2] if len(shape) == 3 else None,
        "crop": "centre" if source.fetch is not None and len(shape) == 3 else "",
        "prepare": None,
        "text": _described(source.texts.entries) if source.texts is not None else None,
    }
    if prepare is None:
        return base
    if not isinstance(prepare, Preparation):
        return base | {"prepare": {"why": "the scheme prepares its batches by a function of its own"}}
    if prepare.pictures:
        base |= {"mean": list(prepare.mean), "std": list(prepare.std)}
    plain = dataclasses.replace(prepare, augmentations=dict.fromkeys(prepare.augmentations, ()))
    return base | {"prepare": _described(plain)}
