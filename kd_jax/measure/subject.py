"""What a measure looks at, and what it returns.

A measure is a function `(subject, **options) -> Measured`, held by a Measure that says what it needs of a run and how
its numbers are shown. What is computed of a network lies beside it as a pure function of arrays.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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

Batch = Mapping[str, Any]  # arrays of JAX or NumPy


class Measured(NamedTuple):
    """What a measure found: {role: {metric: number, None where it was not measured}}.

    `rows` {metric: (label, unit)} are the lines of the report's table, where shares have the unit "%"; `sections` are
    further ones of the report, of which kd_jax/report/forms.py says what they are.
    """

    values: Mapping[str, Mapping[str, Any]]
    rows: Mapping[str, tuple[str, str]]
    sections: Sequence[dict[str, Any]] = ()


class Measure(NamedTuple):
    """A measure of networks.

    `run(subject, **options) -> Measured`; `needs` are names of NEEDS; `cheap` ones are made by default: they cost one
    pass over the held-out data. `check(subject, **options)` raises ValueError, before anything is trained, for options
    that do not fit the run, of whose networks only the roles are known.
    """

    run: Callable[..., Measured]
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
    costs: Mapping[str, Mapping[str, Any]] | None = None  # kd_jax/system/cost.py, by role; None: not counted

    def source(self, split: str) -> Source:
        """Returns the examples of a split; ValueError where the run has none."""
        source = self.sources.get(split)
        if source is None:
            raise ValueError(f"This run has no {split} examples.")
        return source

    def of(self, split: str, source: Source) -> Subject:
        """Returns the same networks on other examples in place of a split; nothing that was computed is shared."""
        return dataclasses.replace(self, sources={**self.sources, split: source})

    def batches(self, split: str) -> Iterator[Batch]:
        """Returns the raw batches of a split in order, on one device; rows with mask False are padding."""
        mesh = jax.make_mesh((1,), ("data",), (AxisType.Auto,), devices=jax.local_devices()[:1])
        sharding = NamedSharding(mesh, PartitionSpec("data"))
        size = min(self.batch_size, len(self.source(split)))
        return eval_batches(self.source(split), batch_size=size, sharding=sharding)

    def prepared(self, batch: Batch) -> Batch:
        """Returns a raw batch as the networks see it in evaluation."""
        return {**batch, **self._prepared(batch)}

    @functools.cached_property
    def _prepared(self) -> Callable[[Batch], Batch]:
        prepare = self.prepare
        return dict if prepare is None else jax.jit(lambda batch: prepare(batch, jax.random.key(0), False))

    def network(self, role: str) -> Network | None:
        """Returns a network that can be asked anything; None of a teacher whose stored answers are all that is here."""
        if role not in self._networks:
            network = self.networks[role]
            self._networks[role] = network.whole() if network.whole else None if network.cost is not None else network
        return self._networks[role]

    @functools.cached_property
    def _networks(self) -> dict[str, Network | None]:
        return {}

    def differentiable(self, role: str) -> Network | None:
        """Returns a network that has gradients; None of stored answers and of functions on the host."""
        network = self.network(role)
        return None if network is None or isinstance(network.model, HostModel) else network

    def answering(self, split: str) -> dict[str, Network]:
        """Returns the networks that answer to a split: a cached teacher by its stored answers, where it has them."""
        stored = self.source(split).answers
        of = {r: n if n.cost is None or r in stored else self.network(r) for r, n in self.networks.items()}
        return {role: network for role, network in of.items() if network is not None}

    def logits(self, split: str) -> Mapping[str, np.ndarray]:
        """Returns what the networks answer to a split, float64 [n, classes] by role; computed once for all measures."""
        if split not in self._logits:
            infer = {role: infer_of(network) for role, network in self.answering(split).items()}
            parts: dict[str, list[np.ndarray]] = {role: [] for role in infer}
            for batch in self.batches(split):
                prepared, rows = self.prepared(batch), np.asarray(batch["mask"])
                for role, answer in infer.items():
                    parts[role].append(np.asarray(answer(prepared), np.float64)[rows])
            self._logits[split] = {role: np.concatenate(answers) for role, answers in parts.items()}
        return self._logits[split]

    @functools.cached_property
    def _logits(self) -> dict[str, dict[str, np.ndarray]]:
        return {}

    def labels(self, split: str) -> np.ndarray:
        """Returns the labels of a split, int [n]; -1 where there is none."""
        source = self.source(split)
        if source.labels is not None:
            return source.labels
        return np.concatenate([np.asarray(b["label"])[np.asarray(b["mask"])] for b in self.batches(split)])

    def labelled(self, split: str) -> tuple[Mapping[str, np.ndarray], np.ndarray]:
        """Returns ({role: logits}, labels) of the examples of a split that have a label."""
        labels = self.labels(split)
        rows = labels >= 0
        return {role: answers[rows] for role, answers in self.logits(split).items()}, labels[rows]


def infer_of(network: Network) -> Callable[[Batch], Any]:
    """Returns what gives the main output of a network for a prepared batch; compiled once."""

    @jax.jit
    def infer(params: PyTree, stats: PyTree, *inputs: PyTree) -> PyTree:
        return answer_at(network.path, network.model, params, stats, inputs)

    return lambda batch: infer(network.params, network.stats, *network.inputs(batch))


def rows_until(batches: Iterable[Batch], count: int) -> Iterator[Batch]:
    """Returns the batches with everything after the first `count` examples masked; all of them where it is 0."""
    for batch in batches:
        mask = np.asarray(batch["mask"]) & ((np.asarray(batch["index"]) < count) if count else True)
        if not mask.any():
            return
        yield {**batch, "mask": mask}


def _classes(subject: Subject) -> str:
    labels = subject.source("test").labels
    if subject.task.name == "classify":
        return "no test example has a label" if labels is not None and not (labels >= 0).any() else ""
    return f"it is of classification, and the task of this run is {subject.task.name or 'one of its own'!r}"


def _pictures(subject: Subject) -> str:
    source = subject.source("test")
    example = np.asarray(source.example(0)[source.entry])
    if source.noun == "image" and example.dtype == np.uint8 and example.shape[-1] in (1, 3):
        return ""
    kind = f"{source.noun}s, {example.dtype} {list(example.shape)}"
    return f"it is of uint8 images [H, W, 1] or [H, W, 3], and {source.name} has {kind}"


def _arrays(subject: Subject) -> str:
    source = subject.source("test")
    return "" if source.entry == "image" else f"it changes pictures or features, and {source.name} has {source.entry}"


def _validation(subject: Subject) -> str:
    source = subject.sources.get("validation")
    if source is not None:
        unlabelled = source.labels is not None and not source.labelled.any()
        return "it is chosen on validation, where no example has a label" if unlabelled else ""
    return "it is chosen on validation, and nothing is held out: config.data.validation=0.1 holds out a tenth"


def _training_labels(subject: Subject) -> str:
    return "" if subject.source("train").labelled.any() else "no training example has a label"


def _teacher(subject: Subject) -> str:
    return "" if "teacher" in subject.networks else "it compares with a teacher, and this run has none"


_REPORT = "FLOPs are counted with the report of a run, and there is none: config.report is False, or this is a sweep"


def _costs(subject: Subject) -> str:
    return "" if subject.costs is not None else _REPORT


# What a measure may need of a run: why it is not there, "" where it is. Only the roles of the networks are known then.
NEEDS: Mapping[str, Callable[[Subject], str]] = {
    "classes": _classes,
    "pictures": _pictures,
    "validation": _validation,
    "arrays": _arrays,
    "training_labels": _training_labels,
    "teacher": _teacher,
    "costs": _costs,
}
