"""What a measure looks at, and what it returns.

A measure is a function `(subject, **options) -> Measured`, held by a Measure that says what it needs of a run and how
its numbers are shown. What is computed of a network lies beside it as a pure function of arrays.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from kd_jax.core.evaluate import answer_at
from kd_jax.core.network import Network
from kd_jax.data.batches import eval_batches
from kd_jax.data.source import Source
from kd_jax.models.host import HostModel
from kd_jax.types import PyTree, Task

Batch = Mapping[str, jax.Array]


class Measured(NamedTuple):
    """What a measure found: {role: {metric: number, None where it was not measured}}, and sections of the report.

    kd_jax/report/forms.py says what a section is.
    """

    values: Mapping[str, Mapping[str, Any]]
    sections: list[dict[str, Any]] = []  # noqa: RUF012 (a NamedTuple; nobody changes it)


class Measure(NamedTuple):
    """A measure of networks.

    `run(subject, **options) -> Measured`; `rows` {metric: (label, unit)} are the lines of the report's table, where a
    label may name options ("{coverage:.0%}") and shares have the unit "%"; `needs` names entries of NEEDS; `cheap` ones
    are made by default: they cost one pass over the held-out data. `check(subject, **options)` raises ValueError,
    before anything is trained, for options that do not fit the data.
    """

    run: Callable[..., Measured]
    rows: Mapping[str, tuple[str, str]]
    needs: tuple[str, ...] = ()
    cheap: bool = False
    check: Callable[..., None] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """The networks of a finished run by role, teachers first, and the data that they are measured on.

    `sources` has "train", "validation" (None where nothing was held out) and "test"; `prepare(batch, key, train)` is
    Scheme.prepare. `batch_size` examples are asked at once. Every number that is drawn comes from `seed`.
    """

    networks: Mapping[str, Network]
    sources: Mapping[str, Source | None]
    prepare: Callable[..., Batch] | None
    task: Task
    batch_size: int = 256
    seed: int = 0

    def source(self, split: str) -> Source:
        """Returns the examples of a split; ValueError where the run has none."""
        source = self.sources.get(split)
        if source is None:
            raise ValueError(f"This run has no {split} examples.")
        return source

    def batches(self, split: str) -> Iterator[Batch]:
        """Returns the raw batches of a split in order, on one device; rows with mask False are padding."""
        mesh = jax.make_mesh((1,), ("data",), (AxisType.Auto,), devices=jax.local_devices()[:1])
        sharding = NamedSharding(mesh, PartitionSpec("data"))
        size = min(self.batch_size, len(self.source(split)))
        return eval_batches(self.source(split), batch_size=size, sharding=sharding)

    def prepared(self, batch: Batch) -> Batch:
        """Returns a raw batch as the networks see it in evaluation."""
        return dict(batch) if self.prepare is None else {**batch, **self._prepared(batch)}

    @functools.cached_property
    def _prepared(self) -> Callable[[Batch], Batch]:
        return jax.jit(lambda batch: self.prepare(batch, jax.random.key(0), False))

    def network(self, role: str) -> Network | None:
        """Returns a network that can be asked anything; None of a teacher whose stored answers are all that is here."""
        network = self.networks[role]
        return network.whole() if network.whole else None if network.cost is not None else network

    def differentiable(self, role: str) -> Network | None:
        """Returns a network that has gradients; None of stored answers and of functions on the host."""
        network = self.network(role)
        return None if network is None or isinstance(network.model, HostModel) else network

    @functools.cached_property
    def _logits(self) -> dict[tuple[str, str], np.ndarray]:
        return {}

    def logits(self, role: str, split: str) -> np.ndarray:
        """Returns what a network answers to a whole split, [n, classes]; computed once for all measures."""
        if (role, split) not in self._logits:
            infer, parts = infer_of(self.networks[role]), []
            for batch in self.batches(split):
                answers = np.asarray(infer(self.prepared(batch)))
                parts.append(answers[np.asarray(batch["mask"])])
            self._logits[role, split] = np.concatenate(parts)
        return self._logits[role, split]

    def labels(self, split: str) -> np.ndarray:
        """Returns the labels of a split, int [n]; -1 where there is none."""
        source = self.source(split)
        if source.labels is not None:
            return source.labels
        return np.concatenate([np.asarray(b["label"])[np.asarray(b["mask"])] for b in self.batches(split)])

    def labelled(self, role: str, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns (logits, labels) of the examples of a split that have a label."""
        labels = self.labels(split)
        return self.logits(role, split)[labels >= 0], labels[labels >= 0]


def infer_of(network: Network) -> Callable[[Batch], Any]:
    """Returns what gives the main output of a network for a prepared batch; compiled once."""

    @jax.jit
    def infer(params: PyTree, stats: PyTree, *inputs: PyTree) -> PyTree:
        return answer_at(network.path, network.model, params, stats, inputs)

    return lambda batch: infer(network.params, network.stats, *network.inputs(batch))


def _classes(subject: Subject) -> str:
    if subject.task.name == "classify":
        return ""
    return f"it is of classification, and the task of this run is {subject.task.name or 'one of its own'!r}"


def _pictures(subject: Subject) -> str:
    source = subject.source("test")
    if source.noun == "image" and np.asarray(source.example(0)["image"]).dtype == np.uint8:
        return ""
    dtype = np.asarray(source.example(0)[source.entry]).dtype
    return f"it is of uint8 images [H, W, C], and {source.name} has {source.noun}s, {dtype} {list(source.image_shape)}"


def _validation(subject: Subject) -> str:
    if subject.sources.get("validation") is not None:
        return ""
    return "it is chosen on validation, and nothing is held out: config.data.validation=0.1 holds out a tenth"


def _teacher(subject: Subject) -> str:
    return "" if "teacher" in subject.networks else "it compares with a teacher, and this run has none"


# What a measure may need of a run: why it is not there, "" where it is. Only the roles of the networks are known then.
NEEDS: Mapping[str, Callable[[Subject], str]] = {
    "classes": _classes,
    "pictures": _pictures,
    "validation": _validation,
    "teacher": _teacher,
}
