"""Functions of splits and a seed that make a stream of tasks, for lifelong learning."""

from __future__ import annotations

import dataclasses

import numpy as np

from kd_jax.data.source import Source, Splits, subset
from kd_jax.resolve import near

DOMAINS = ("shift", "permute")


def classes(splits: Splits, tasks: int = 5, order_seed: int = 0) -> dict[str, Source]:
    """Returns tasks of different classes: {"task0", "upto0", "validation_task0", "test_task0", ...}.

    "uptoK" is the union of the tasks 0..K; an example without a label is in none. The classes keep their numbers. They
    are dealt out in the order 0, 1, 2, ..., or with `order_seed` > 0 in an order drawn from it; the first tasks get one
    more if they do not divide evenly. Raises ValueError unless 2 <= tasks <= number of classes.
    Class- and task-incremental learning differ in the scheme, not in the data.
    """
    total = splits.train.num_classes
    if not 2 <= tasks <= total:
        raise ValueError(f"{total} classes make 2 to {total} tasks, not {tasks}")
    order = np.random.default_rng((order_seed, 4)).permutation(total) if order_seed else np.arange(total)
    of_task = np.array_split(order, tasks)
    sources: dict[str, Source] = {}
    for k in range(tasks):
        sources[f"task{k}"] = _of_classes(splits.train, of_task[k], f"task{k}")
        sources[f"upto{k}"] = _of_classes(splits.train, np.concatenate(of_task[: k + 1]), f"upto{k}")
        for name, source in (("validation", splits.validation), ("test", splits.test)):
            if source is not None:
                sources[f"{name}_task{k}"] = _of_classes(source, of_task[k], f"{name}_task{k}")
    return sources


def domains(splits: Splits, tasks: int = 5, kind: str = "shift", order_seed: int = 0) -> dict[str, Source]:
    """Returns tasks of all classes and all images, changed in a way of the task's own; names as in `classes`.

    kind="shift" rolls the images of task k to the right by k / tasks of their width. kind="permute" orders the pixels
    of task k > 0 by a permutation drawn from (order_seed, k): Goodfellow, Mirza, Xiao, Courville, Bengio, "An Empirical
    Investigation of Catastrophic Forgetting", 2013, arXiv 1312.6211. "validation" and "test" become those of all tasks
    together. Raises ValueError for another kind, fewer than 2 tasks, and images that are not in memory.
    """
    if kind not in DOMAINS:
        raise ValueError(f"There is no domain kind {kind!r}. {near(kind, DOMAINS)}")
    if splits.train.images is None or splits.train.images.ndim != 4 or tasks < 2:
        raise ValueError(f"domains are 2 or more views of images in memory; {splits.train.name} with tasks={tasks}")
    sources: dict[str, Source] = {}
    for k in range(tasks):
        sources[f"task{k}"] = _changed(splits.train, k, tasks, kind, order_seed, f"task{k}")
        sources[f"upto{k}"] = _joined([sources[f"task{i}"] for i in range(k + 1)], f"upto{k}")
        for name, source in (("validation", splits.validation), ("test", splits.test)):
            if source is not None:
                sources[f"{name}_task{k}"] = _changed(source, k, tasks, kind, order_seed, f"{name}_task{k}")
    for name, source in (("validation", splits.validation), ("test", splits.test)):
        if source is not None:
            sources[name] = _joined([sources[f"{name}_task{k}"] for k in range(tasks)], name)
    return sources


def _of_classes(source: Source, classes: np.ndarray, split: str) -> Source:
    if source.labels is None:
        raise ValueError(f"{source.name}/{source.split}: tasks need a data set whose labels are all known")
    rows = np.flatnonzero(np.isin(source.labels, classes))
    if not len(rows):
        raise ValueError(f"{source.name}/{source.split} has no example of the classes {sorted(classes.tolist())}")
    return subset(source, rows, split)


def _changed(source: Source, task: int, tasks: int, kind: str, seed: int, split: str) -> Source:
    images, _ = source.in_memory()
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
