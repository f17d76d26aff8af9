"""A data set as a stream of tasks, for lifelong learning: pure functions of the splits and a seed."""

from __future__ import annotations

import dataclasses

import numpy as np

from kd_jax.data.source import Source, Splits, subset
from kd_jax.resolve import near

DOMAINS = ("shift", "permute")


def classes(splits: Splits, tasks: int = 5, order_seed: int = 0) -> dict[str, Source]:
    """Each task brings classes of its own: {"task0", "upto0", "validation_task0", "test_task0", ...}.

    "uptoK" is the union of the tasks 0..K; an example without a label is in none. The classes keep their numbers and
    are dealt out in the order 0, 1, 2, ..., or, if `order_seed` is not 0, in an order drawn from it; where they do not
    divide evenly the first tasks get one more. Raises ValueError for a number of tasks that the classes do not make.
    Class- and task-incremental learning differ in what the scheme asks of the student, not in the data.
    """
    total = splits.train.num_classes
    if not 2 <= tasks <= total:
        raise ValueError(f"{total} classes make 2 to {total} tasks, not {tasks}")
    order = np.random.default_rng((order_seed, 4)).permutation(total) if order_seed else np.arange(total)
    members = np.array_split(order, tasks)
    found: dict[str, Source] = {}
    for k in range(tasks):
        found[f"task{k}"] = _of(splits.train, members[k], f"task{k}")
        found[f"upto{k}"] = _of(splits.train, np.concatenate(members[: k + 1]), f"upto{k}")
        for name, source in (("validation", splits.validation), ("test", splits.test)):
            if source is not None:
                found[f"{name}_task{k}"] = _of(source, members[k], f"{name}_task{k}")
    return found


def domains(splits: Splits, tasks: int = 5, kind: str = "shift", order_seed: int = 0) -> dict[str, Source]:
    """Each task has all classes, and all images, seen in its own way; the names are those of `classes`.

    "shift": task k is moved to the right by k / tasks of the width, what leaves on one side comes back on the other.
    "permute": the pixels of task k > 0 are in an order drawn from (order_seed, k): Goodfellow, Mirza, Xiao, Courville,
    Bengio, "An Empirical Investigation of Catastrophic Forgetting", 2013, arXiv 1312.6211.
    "validation" and "test" become those of all tasks together. Needs images in memory.
    """
    if kind not in DOMAINS:
        raise ValueError(f"There is no domain kind {kind!r}. {near(kind, DOMAINS)}")
    if splits.train.images is None or splits.train.images.ndim != 4 or tasks < 2:
        raise ValueError(f"domains are 2 or more views of images in memory; {splits.train.name} with tasks={tasks}")
    found: dict[str, Source] = {}
    for k in range(tasks):
        found[f"task{k}"] = _seen(splits.train, k, tasks, kind, order_seed, f"task{k}")
        found[f"upto{k}"] = _joined([found[f"task{i}"] for i in range(k + 1)], f"upto{k}")
        for name, source in (("validation", splits.validation), ("test", splits.test)):
            if source is not None:
                found[f"{name}_task{k}"] = _seen(source, k, tasks, kind, order_seed, f"{name}_task{k}")
    for name, source in (("validation", splits.validation), ("test", splits.test)):
        if source is not None:
            found[name] = _joined([found[f"{name}_task{k}"] for k in range(tasks)], name)
    return found


def _of(source: Source, members: np.ndarray, split: str) -> Source:
    if source.labels is None:
        raise ValueError(f"{source.name}/{source.split}: tasks need a data set whose labels are all known")
    rows = np.flatnonzero(np.isin(source.labels, members))
    if not len(rows):
        raise ValueError(f"{source.name}/{source.split} has no example of the classes {sorted(members.tolist())}")
    return subset(source, rows, split)


def _seen(source: Source, task: int, tasks: int, kind: str, seed: int, split: str) -> Source:
    images = source.images
    if kind == "shift":
        images = np.roll(images, task * images.shape[2] // tasks, axis=2)
    elif task:
        n, height, width, channels = images.shape
        order = np.random.default_rng((seed, 5, task)).permutation(height * width)
        images = images.reshape(n, height * width, channels)[:, order].reshape(images.shape)
    return dataclasses.replace(source, split=split, images=images)


def _joined(sources: list[Source], split: str) -> Source:
    images, labels = (np.concatenate([getattr(s, name) for s in sources]) for name in ("images", "labels"))
    fields = {name: np.concatenate([s.fields[name] for s in sources]) for name in sources[0].fields}
    return dataclasses.replace(sources[0], split=split, images=images, labels=labels, fields=fields)
