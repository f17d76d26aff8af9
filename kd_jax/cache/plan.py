"""What the cache of a teacher must hold for a run, and the role that reads it in the teacher's place.

config.teacher.cache.directory turns it on. The role "teacher" then has no parameters: its inputs are the entries
`batch.teacher/<field>` that every batch brings, and cache/model.py decodes them into the logits and features that terms
read. An answer belongs to one picture, since a picture is a function of (seed, example, view). kd_jax/cache/build.py
asks the teacher where answers are not there yet.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from kd_jax import prng
from kd_jax.cache.model import CachedTeacher, Store, encode, parts_of
from kd_jax.config.fields import teachers_of
from kd_jax.core.chunked import projection_tap
from kd_jax.core.paths import lookup
from kd_jax.core.prepare import Preparation, preparation_of
from kd_jax.data import answers, order
from kd_jax.data.answers import Answers
from kd_jax.data.batches import batch_shapes
from kd_jax.data.source import Source
from kd_jax.system import precision, workdir
from kd_jax.types import Array, Outputs, PyTree, Role, Stage


class CachedSplit(NamedTuple):
    """One split of a cache: its data, and the answers to it that are wanted."""

    source: Source
    train: bool  # pictures vary as in training
    content: Answers  # their shape; of a planned cache without the answers themselves
    identity: dict[str, Any]  # what a manifest says of them: which teacher, pictures and data


@dataclasses.dataclass(frozen=True, eq=False)
class TeacherCache:
    """What the cache of one teacher must hold for a run, and how to compute it.

    `role` is the teacher itself, `stand_in` the role that takes its place. `seed` is that of the pictures; that they do
    not depend on the batch around them is known of a config's augmentations alone, and `unproven` of all else.
    `trained` is the config of the teacher's training, or of what it is loaded from.
    """

    name: str
    folder: Path
    store: Store
    role: Role
    stand_in: Role
    prepare: Callable[..., Mapping[str, Array]]
    extra: Mapping[str, PyTree]
    seed: int
    unproven: bool
    trained: Any
    splits: Mapping[str, CachedSplit]
    batch_size: int

    @property
    def varies(self) -> bool:
        """Tells whether there is more than one picture of an example."""
        return any(split.identity["pictures"]["seed"] is not None for split in self.splits.values())

    @property
    def whole(self) -> bool:
        return all(answers.is_whole(self.folder / split) for split in self.splits)

    def key(self) -> Array:
        """Returns the key with which the training step prepares a batch."""
        return prng.stream(jax.random.key(self.seed), "prepare", 0)

    def ask(self, train: bool) -> Callable[..., Outputs]:
        """Returns the function (variables, extra, batch) -> the teacher's answers to the batch.

        Where the k largest logits are stored, with what the logits are built of, if the teacher taps that.
        """

        def outputs(variables: tuple[PyTree, PyTree], extra: PyTree, batch: Mapping[str, Array]) -> Outputs:
            key = self.key()
            context = {"batch": self.prepare(batch, key, train), "extra": extra}
            inputs = [lookup(context, p) for p in self.role.inputs]
            params, stats = precision.restored(variables[0]), variables[1]
            tap = projection_tap(self.role.model, (params, stats), inputs) if self.store.k else ""
            taps = (*self.store.features, *([tap] if tap else []))
            return self.role.model.apply(params, stats, *inputs, train=False, key=key, taps=taps)[0]

        return outputs


def of_network(cache: TeacherCache, digest: str) -> TeacherCache:
    """Returns the cache of which the answers are known to be those of a network with this digest."""
    splits = {}
    for name, split in cache.splits.items():
        teacher = {**split.identity["teacher"], "network": digest}
        splits[name] = split._replace(identity={**split.identity, "teacher": teacher})
    return dataclasses.replace(cache, splits=splits)


def hash_of_examples(source: Source) -> str:
    """Returns the SHA-256 of a data set without its labels: of all examples in memory, or of 64 of a streamed set.

    The 64 are spread over the set; name, split, size, image shape, fields and the stamp of its files always count.
    """
    total = hashlib.sha256(f"{source.name} {source.split} {len(source)} {source.image_shape}".encode())
    total.update(source.stamp.encode())
    for array in (source.images, *(source.fields[name] for name in sorted(source.fields))):
        if array is not None:
            total.update(np.ascontiguousarray(array).tobytes())
    if source.images is None:
        for i in np.unique(np.linspace(0, len(source) - 1, 64).astype(int)):
            example = source.example(int(i))
            for name in (source.entry, "segments"):  # which texts of a row see one another
                total.update(np.ascontiguousarray(example.get(name, ())).tobytes())
    return total.hexdigest()


def views_of(
    source: Source, stages: list[Stage], batch_size: int, share: float | None, fixed: int, varies: bool
) -> np.ndarray:
    """Returns int32 [examples], how many views of each example the stages show, or `fixed` where that is not 0.

    An example whose picture never varies has one view.
    """
    if not varies or fixed:
        return np.full(len(source), fixed if varies else 1, np.int32)
    labelled, steps = source.labelled, max(stage.steps for stage in stages)  # every stage begins with view 0
    if share is None or labelled.all():
        return np.full(len(source), order.views_needed(len(source), batch_size, steps), np.int32)
    first = order.labelled_rows(batch_size, share)
    sides = ((labelled, first), (~labelled, batch_size - first))
    one, other = (max(1, order.views_needed(int(side.sum()), rows, steps)) for side, rows in sides)
    return np.where(labelled, one, other).astype(np.int32)


def plan_cache(
    name: str, config: ConfigDict, role: Role, reads: Role, store: Store, job: Any, trained: Any
) -> TeacherCache:
    """Returns what the cache of the teacher `name` must hold for the student's job.

    Raises every error that shapes can show.
    `role` is the teacher, `reads` the role in its place; the folder is not known yet.
    """
    scheme, settings = job.scheme, job.settings
    as_configured = isinstance(scheme.prepare, Preparation)
    preparation = scheme.prepare if as_configured else preparation_of(config.train, job.source, config.prepare)
    unproven = not as_configured or preparation.more is not None
    pictures = {p: workdir.plain(preparation.augmentations_at(p)) for p in role.inputs}
    shown = role.preparation.as_dict() if role.preparation is not None and role.preparation.entries else None
    in_training = {stage.data for stage in scheme.stages} | ({"train"} if config.baseline else set())
    splits = {
        split: _planned_split(name, config, store, job, split, split in in_training, pictures, shown, unproven)
        for split in sorted({*in_training, "validation", "test"})
        if job.sources.get(split) is not None
    }
    pictures_of = (scheme.prepare, scheme.extra, settings.data_seed, unproven)
    cache = TeacherCache(name, Path(), store, role, reads, *pictures_of, trained, splits, settings.eval_batch_size)
    return _with_shapes(cache)


def _planned_split(
    name: str,
    config: ConfigDict,
    store: Store,
    job: Any,
    split: str,
    train: bool,
    pictures: Mapping[str, Any],
    shown: Mapping[str, Any] | None,
    unproven: bool,
) -> CachedSplit:
    """A split of the cache, still without the fields of an answer.

    `pictures` are the augmentations by input path, `shown` what the teacher sees in a form of its own.
    """
    fields, source, settings = teachers_of(config)[name], job.sources[split], job.settings
    # Without a hand in the preparation the picture of a set in memory varies only by its augmentations.
    varies = train and (source.fetch is not None or any(pictures.values()) or unproven)
    stages = [stage for stage in job.scheme.stages if stage.data == split]
    repeats = varies and bool(stages)
    views = views_of(source, stages, settings.batch_size, settings.labelled_share, fields.cache.views, repeats)
    identity = {
        "teacher": {"model": workdir.plain(fields.model), "dtype": fields.dtype},
        "answers": {"k": store.k, "dtype": store.dtype, "temperature": store.temperature if store.k else None},
        "pictures": {
            "of": pictures if varies else dict.fromkeys(pictures, []),
            "seed": settings.data_seed if varies else None,
            "mean": list(source.mean),
            "std": list(source.std),
            "prepare": workdir.plain(config.prepare),
            "shown": shown,
        },
        "data": {"name": source.name, "examples": len(source), "sha256": hash_of_examples(source)},
        "split": split,
    }
    return CachedSplit(source, train, Answers({}, views), identity)


def _with_shapes(cache: TeacherCache) -> TeacherCache:
    """With the fields of one answer and the model that reads them, from shapes alone."""
    splits, size, classes, parts = {}, cache.batch_size, 0, None
    for split, (source, train, content, identity) in cache.splits.items():
        batch = batch_shapes(dataclasses.replace(source, answers={}), size)
        entries = jax.eval_shape(lambda b, train=train: cache.prepare(b, jax.random.key(0), train), batch)
        if "mix_label" in entries:
            raise ValueError(
                f"mixup and cutmix show two examples at once, and config.{cache.name}.cache knows single ones."
            )
        inputs = [lookup({"batch": entries, "extra": cache.extra}, p) for p in cache.role.inputs]
        variables = jax.eval_shape(cache.role.model.init, jax.random.key(0), *inputs)
        outputs = jax.eval_shape(cache.ask(train), variables, dict(cache.extra), batch)
        encoded = jax.eval_shape(lambda o: encode(cache.store, o), outputs)
        for name, x in encoded.items():
            if x.shape[:1] != (size,):
                raise ValueError(f"A cache holds one answer an example; {name} is {x.shape} for {size} examples.")
        fields = {name: (x.shape[1:], str(x.dtype)) for name, x in encoded.items()}
        if (parts := parts_of(cache.store, outputs)) is None:
            classes = outputs.logits.shape[-1]
        else:  # caches of plain logits do not say so
            shapes = {jax.tree_util.keystr(p): [*x.shape] for p, x in jax.tree_util.tree_leaves_with_path(parts)}
            identity = {**identity, "answers": {**identity["answers"], "arrays": shapes}}
        splits[split] = CachedSplit(source, train, dataclasses.replace(content, fields=fields), identity)
    model = CachedTeacher(cache.store, classes, parts)
    return dataclasses.replace(cache, splits=splits, stand_in=dataclasses.replace(cache.stand_in, model=model))
