"""Answers without a teacher: logits or probabilities, and features, in arrays or a file, in a teacher's place.

The answers lie beside the examples of a split, in their order; every view of an example has the same one, as with
teacher.view="clean". In a run they are what a teacher's cache is: entries `batch.teacher/<field>`, decoded by
cache/model.py, so every term, metric and check that works with a cache works with them.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorstore as ts

from kd_jax.cache import answer_files
from kd_jax.cache.answer_arrays import checked
from kd_jax.cache.model import CachedTeacher, Store, unpack
from kd_jax.cache.plan import hash_of_examples
from kd_jax.core import paths
from kd_jax.data.answers import Answers
from kd_jax.data.batches import batch_shapes
from kd_jax.data.source import Source, Splits
from kd_jax.data.text import topk_files
from kd_jax.types import Array, Outputs, PyTree, Role

Arrays = Mapping[str, np.ndarray]
SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class StoredAnswers:
    """A teacher of which there are only answers: a Model without parameters whose inputs are their fields.

    `arrays` {split: {field: [n, ...]}} are those of arrays and files, `opened` {split: answers} those of a teacher's
    cache, with `examples`, the hashes of the data that they answer. `classes` is None where top-k answers leave open
    how many there are.
    """

    store: Store
    classes: int | None
    arrays: Mapping[str, Arrays] = dataclasses.field(default_factory=dict)
    opened: Mapping[str, Answers] = dataclasses.field(default_factory=dict)
    examples: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        counts = {split: len(fields[self.store.names[0]]) for split, fields in self.arrays.items()}
        counts |= {split: len(one.views) for split, one in self.opened.items()}
        shown = ", ".join(f"{n:,} of {split}" for split, n in counts.items())
        return f"StoredAnswers({shown}; {', '.join(self.store.names)})"

    @functools.cached_property
    def stamp(self) -> str:
        """Returns a digest of all answers."""
        total = hashlib.sha256(repr((self.store, sorted(self.examples.items()))).encode())
        for split, fields in sorted(self.arrays.items()):
            for name, values in sorted(fields.items()):
                total.update(f"{split} {name} {values.dtype} {values.shape}".encode())
                total.update(np.ascontiguousarray(values).tobytes())
        for split, one in sorted(self.opened.items()):
            total.update(f"{split} {answer_files.seal_of(one)}".encode())
        return total.hexdigest()

    def init(self, key: Array, *inputs: Array) -> tuple[PyTree, PyTree]:
        return {}, {}

    def apply(
        self, params: PyTree, stats: PyTree, *inputs: Array, train: bool, key: Array, taps: tuple[str, ...] = ()
    ) -> tuple[Outputs, PyTree]:
        teacher = CachedTeacher(self.store, self.classes or 0)
        return teacher.apply(params, stats, *inputs, train=train, key=key, taps=taps)


def from_answers(
    train: Any = None,
    *,
    validation: Any = None,
    test: Any = None,
    features: Mapping[str, Any] | None = None,
    probabilities: bool = False,
    temperature: float = 1.0,
    num_classes: int | None = None,
    path: str | Path = "",
) -> StoredAnswers:
    """Returns a teacher for `kd_jax.run(..., teacher=)` of which there are only answers to the examples of each split.

    `train`, `validation` and `test` are arrays of logits [n, ..., classes] (`probabilities`: of those), or {"logits" or
    "probabilities": [n, ..., classes]}, or {"top_log_probs": [n, ..., k], "top_ids": [n, ..., k]} at `temperature`,
    beside "features:TAP": [n, ...]; `features` are those of train by tap. They are in the order of the data that the
    run reads, of all its examples or of those that are left when some were held out. Without answers to the splits
    that are evaluated nobody is compared with the teacher. `path`, or a path for `train`, is a file: .npz, .safetensors
    or .parquet (kd_jax/cache/answer_files.py says what it holds), DistillKit's or MaxText's, or the folder of a
    teacher's cache. Raises ValueError for what is no number, for probabilities whose sum is not 1, and for arrays that
    do not fit together.
    """
    if isinstance(train, (str, os.PathLike)):
        train, path = None, Path(train)
    values = {"train": train, "validation": validation, "test": test}
    if not temperature > 0:
        raise ValueError(f"from_answers: temperature is above 0, not {temperature}.")
    if path:
        _check_file(path, (*values.values(), features or None), probabilities, temperature)
        where = Path(path).expanduser()
        if answer_files.is_cache(where):
            return _of_cache(where, num_classes)
        return _checked(str(where), answer_files.read(where), temperature, num_classes)
    by_split = {split: _named(value, probabilities) for split, value in values.items() if value is not None}
    if features and "train" in by_split:
        by_split["train"] |= {f"features:{tap}": x for tap, x in features.items()}
    return _checked("from_answers", by_split, temperature, num_classes)


def _check_file(path: str | Path, arrays: tuple[Any, ...], probabilities: bool, temperature: float) -> None:
    """Raises ValueError for what is said beside a file that says it itself."""
    if any(values is not None for values in arrays):
        raise ValueError(f"from_answers: the answers are in {path}, or in arrays: give one of both.")
    if probabilities:
        raise ValueError(f"from_answers: {path} says itself what it holds: probabilities= is of arrays.")
    if temperature != 1.0 and answer_files.is_cache(Path(path).expanduser()):
        raise ValueError(f"from_answers: the cache {path} says its own temperature, not {temperature}.")


def _checked(
    where: str, by_split: Mapping[str, Mapping[str, Any]], temperature: float, classes: int | None
) -> StoredAnswers:
    if "train" not in by_split:
        raise ValueError(f"{where} has no answers to train, which is what a student learns from.")
    arrays = {split: checked(f"{where}, {split}", dict(one), classes) for split, one in by_split.items()}
    return _stored(where, arrays, temperature, classes)


def _named(value: Any, probabilities: bool) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {"probabilities" if probabilities else "logits": value}


def _stored(where: str, arrays: dict[str, dict[str, np.ndarray]], temperature: float, classes: int | None) -> Any:
    """The answers of all splits, alike: with the same fields and shapes; features that train alone has are nan."""
    first = arrays["train"]
    main = "log_probs" if "log_probs" in first else "logits"
    _fill(where, arrays, main)
    taps = tuple(sorted(name.removeprefix("features:") for name in first if name.startswith("features:")))
    if main == "logits":
        classes = first[main].shape[-1]
    k = first[main].shape[-1] if main == "log_probs" else 0
    if temperature != 1.0 and not k:
        raise ValueError(f"{where}: temperature={temperature} is of the k largest, and all logits are there.")
    return StoredAnswers(Store(k, "float32", float(temperature), taps), classes, arrays)


def _fill(where: str, arrays: dict[str, dict[str, np.ndarray]], main: str) -> None:
    """Fills features that train alone has with nan; ValueError where answers to another split are of another form."""
    first = arrays["train"]
    for split, fields in arrays.items():
        if main not in fields or fields[main].shape[1:] != first[main].shape[1:]:
            shapes = {s: {k: v.shape[1:] for k, v in one.items()} for s, one in arrays.items()}
            raise ValueError(f"{where}: an answer to {split} is not what one to train is: {shapes}.")
        for name, values in first.items():
            if name not in fields:
                fields[name] = np.full((len(fields[main]), *values.shape[1:]), np.nan, values.dtype)
        if extra := sorted({*fields} - {*first}):
            raise ValueError(f"{where}: {split} has {extra[0]!r}, which train lacks.")


def _of_cache(folder: Path, classes: int | None) -> StoredAnswers:
    """The answers in the folder of a teacher's cache, to pictures that never vary."""
    opened, stores, examples = answer_files.open_cache(folder)
    if len({*stores.values()}) != 1:
        raise ValueError(f"{folder}: its splits are stored in different ways.")
    (store,) = {*stores.values()}
    if "train" not in opened:
        raise ValueError(f"{folder} has no answers to train, which is what a student learns from.")
    logits = opened["train"].fields.get("logits")
    return StoredAnswers(store, logits[0][-1] if logits else classes, opened=opened, examples=examples)


def write_answers(answers: StoredAnswers, path: str | Path, data: Splits | None = None, k: int = 0) -> None:
    """Writes answers as `from_answers` and other tools read them, by the name of `path`.

    .npz, .safetensors and .parquet take all of them. A folder (DistillKit's) and an .array_record (MaxText's) take
    those to the tokens of `data.train`, the `k` likeliest of each where all logits are there. Raises ValueError for
    another ending, and where `data` or `k` is missing.
    """
    path = Path(path).expanduser()
    fields = {split: dict(one) for split, one in answers.arrays.items()}
    fields |= {split: one.whole() for split, one in answers.opened.items()}
    if path.suffix in answer_files.SUFFIXES:
        answer_files.write(path, {split: _as_written(answers, one) for split, one in fields.items()})
        return
    if path.suffix not in ("", topk_files.RECORDS):
        raise ValueError(
            f"{path}: answers are written as {', '.join((*answer_files.SUFFIXES, topk_files.RECORDS))}, or a folder."
        )
    if data is None or data.train.entry != "tokens":
        raise ValueError(f"{path}: DistillKit's and MaxText's files hold tokens beside the answers: data= has them.")
    if not answers.store.k and k < 1:
        raise ValueError(f"{path} holds the k likeliest tokens, and the answers are all logits: k= says how many.")
    answered = with_stored("teacher", answers, {"train": data.train})["train"]
    assert answered is not None
    log_p, ids = _likeliest(answers, answered.answers["teacher"].whole(), k)
    tokens, labels = data.train.in_memory()
    segments = data.train.fields.get("segments", np.ones_like(tokens))
    rows = topk_files.TopK(tokens, labels, segments, ids, log_p, data.train.num_classes)
    (topk_files.write_maxtext if path.suffix else topk_files.write_distillkit)(path, rows)


def _as_written(answers: StoredAnswers, fields: Arrays) -> dict[str, np.ndarray]:
    """The arrays that from_answers takes, of the fields of a store."""
    store = answers.store
    features = {f"features:{tap}": np.asarray(unpack(f"features:{tap}", fields)) for tap in store.features}
    if not store.k:
        return {"logits": np.asarray(unpack("logits", fields)), **features}
    return {"top_log_probs": np.asarray(unpack("log_probs", fields)), "top_ids": fields["ids"], **features}


def _likeliest(answers: StoredAnswers, fields: Arrays, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(log-probabilities, ids) of the k likeliest classes, the likeliest first."""
    made = _as_written(answers, fields)
    if answers.store.k:
        log_p, ids = made["top_log_probs"], made["top_ids"].astype(np.int32)
    else:
        log_p = np.asarray(jax.nn.log_softmax(made["logits"]))
        ids = np.argsort(-log_p, axis=-1, kind="stable")[..., :k].astype(np.int32)
        log_p = np.take_along_axis(log_p, ids, axis=-1)
    order = np.argsort(-log_p, axis=-1, kind="stable")
    return np.take_along_axis(log_p, order, axis=-1), np.take_along_axis(ids, order, axis=-1)


def role_of(name: str, model: StoredAnswers, role: Role, classes: int) -> Role:
    """Returns the role of a teacher of which there are only answers; `classes` are those of the data."""
    model = model if model.classes is not None else dataclasses.replace(model, classes=classes)
    inputs = tuple(f"batch.{name}/{field}" for field in model.store.names)
    return dataclasses.replace(role, model=model, inputs=inputs, initial=({}, {}))


def with_stored(name: str, model: StoredAnswers, sources: Mapping[str, Source | None]) -> dict[str, Source | None]:
    """Returns the sources with the answers to those that the model has answers to.

    Raises ValueError where there are more or fewer than examples, and where a cache answers other data.
    """
    made: dict[str, Source | None] = {}
    for split, source in sources.items():
        made[split] = source
        if source is not None and (answers := _answers_to(name, model, split, source)) is not None:
            made[split] = dataclasses.replace(source, answers={**source.answers, name: answers})
    return made


def _answers_to(name: str, model: StoredAnswers, split: str, source: Source) -> Answers | None:
    if split in model.opened:
        if hash_of_examples(source) != model.examples[split]:
            raise ValueError(
                f"The {name}'s answers in {model.opened[split].folder} are to other data than {source.name}/{split}, "
                f"which has {len(source)} examples; the cache answers {len(model.opened[split].views)}."
            )
        return model.opened[split].only(model.store.names)
    origin, fields = source.origin, model.arrays.get(split)
    if fields is not None and len(fields[model.store.names[0]]) == len(source):
        return _in_memory(model, fields, None)
    if origin is not None and (whole := model.arrays.get(origin.split)) is not None:
        if len(whole[model.store.names[0]]) == origin.size:
            return _in_memory(model, whole, origin.rows)
    if fields is None:
        return None
    count = len(fields[model.store.names[0]])
    before = f" ({origin.size} of {origin.split} before some were taken)" if origin is not None else ""
    raise ValueError(
        f"The {name} has {count} answers to {split}, and {source.name}/{split} has {len(source)} examples{before}: one "
        "for each is expected, in their order."
    )


def _in_memory(model: StoredAnswers, arrays: Arrays, rows: np.ndarray | None) -> Answers:
    chosen = {n: arrays[n] if rows is None else arrays[n][rows] for n in model.store.names}
    count = len(next(iter(chosen.values())))
    fields = {n: (x.shape[1:], str(x.dtype)) for n, x in chosen.items()}
    stores = {n: ts.array(np.ascontiguousarray(x)) for n, x in chosen.items()}
    return Answers(fields, np.ones(count, np.int32), stores)


def check_pictures(name: str, job: Any) -> None:
    """Raises ValueError where a training shows mixtures of examples, of which there are no answers."""
    scheme, batch = job.scheme, batch_shapes(job.source, job.settings.batch_size)
    if scheme.prepare is not None:
        batch = jax.eval_shape(lambda b: scheme.prepare(b, jax.random.key(0), True), batch)
    if "mix_label" in batch:
        raise ValueError(
            f"mixup and cutmix show two examples at once, and the answers of the {name} are to single ones."
        )


def has_answers(source: Source | None, role: Role) -> bool:
    """Returns whether a role that reads stored answers finds them in this split; True for any other role."""
    asked = {p.owner.partition("/")[0] for p in map(paths.Path.parse, role.inputs) if "/" in p.owner}  # as in `role_of`
    return source is not None and asked <= {*source.answers}
