"""The vocabulary of kd_jax: plain dataclasses and one protocol, no logic.

A role is the name of a network in a run ("student", "teacher", "generator", "kd/connector").
A group is a set of roles that one optimizer updates. Everything else is built of these two words.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax

Array = jax.Array
PyTree = Any
Variables = tuple[PyTree, PyTree]  # (params, stats) of a network
Schedule = Callable[[Array], Array | float]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Outputs:
    """What a model returns: `logits`, its main output (any pytree), and the intermediate values that were tapped.

    `features` maps a tap (the exact path of a module) to the value that this module returned.
    """

    logits: PyTree
    features: dict[str, Array] = dataclasses.field(default_factory=dict)


@runtime_checkable
class Model(Protocol):
    """A network as two pure functions. kd_jax.models.adapters makes one from Linen, NNX or plain functions."""

    def init(self, key: Array, *inputs: Array) -> tuple[PyTree, PyTree]:
        """Returns (params, stats); stats is what changes without gradients, such as BatchNorm averages."""

    def apply(
        self, params: PyTree, stats: PyTree, *inputs: Array, train: bool, key: Array, taps: tuple[str, ...] = ()
    ) -> tuple[Outputs, PyTree]:
        """Returns (outputs, new stats). `taps=("*",)` records every tap there is."""


@dataclasses.dataclass(frozen=True)
class Role:
    """A network of the run. `group=None`: frozen, kept out of checkpoints, in eval mode unless it is `training`.

    `training` runs a frozen network as in training wherever a term reads it: BatchNorm normalises by the batch, its
    averages stay as they are. Some published code leaves its teachers so; evaluation never does.

    A group without an optimizer in any phase (an EMA teacher) is saved, since it changes.
    `inputs` are the batch paths that evaluation feeds it; a call of a phase names its own.
    `initial` is (params, stats) loaded from elsewhere, or the name of the role to start as a copy of;
    without it the network is initialised from the seed. `dtype` casts the parameters of a frozen role, or
    rounds its weights ("int8", kd_jax/system/precision.py). `preparation` says what it is shown of a picture
    (kd_jax/core/role_preparation.py), whose entry of the batch `inputs` name; None where it reads no picture.
    `scored` {entry: entry} of the batch stand in for others where it is scored by itself (a teacher of other tokens).
    `projection` is the tap of its `Projected` logits (kd_jax/models/projected.py), which core.bind finds.
    """

    model: Model
    inputs: tuple[str, ...] = ("batch.image",)
    group: str | None = None
    initial: tuple[PyTree, PyTree] | str | None = None
    dtype: str | None = None
    training: bool = False
    preparation: Any = None
    scored: Mapping[str, str] = dataclasses.field(default_factory=dict)
    projection: str = ""


@dataclasses.dataclass(frozen=True)
class Call:
    """One forward pass in a phase: `role` applied to `inputs`; later paths name its result by `name` or `role`."""

    role: str
    inputs: tuple[str, ...] = ("batch.image",)
    train: bool = True
    name: str = ""


@dataclasses.dataclass(frozen=True)
class Memory:
    """What a term keeps from step to step (a memory bank): its path "memory", and `extra.<term>` to everybody else.

    `first` is its content at step 0; `update(memory, inputs, context) -> memory` ends the phase of the term, with the
    inputs that the loss saw (after the connector).
    """

    first: PyTree
    update: Callable[[PyTree, tuple[Any, ...], Mapping[str, Any]], PyTree]


@dataclasses.dataclass(frozen=True)
class Term:
    """One summand of a loss: weight * mean(fn(*inputs, *targets, **kwargs, **options)).

    `inputs`, `targets`, `where` and the values of `options` are paths into the step's context, such as
    `student.logits`, `teacher.features:stage2`, `batch.label`, `extra.queue`, `params.teacher.head`, `step`, `memory`.
    Inputs are differentiated; targets, options and `where` are stop_gradient'ed.
    `fn` returns one value an example; `where` names a mask over examples, given to `fn` too if it takes one. What `fn`
    gets is cleared there: masked rows of float arrays, of the batch and of what networks return, are 1.
    Floats in `weight` and `kwargs` are traced, so changing them never recompiles; callables there are
    schedules of the step; anything else is static. `connector` builds a model from the shapes of the inputs
    and targets; it is trained with the phase's group and maps the inputs to what `fn` gets in their place; later
    terms find what it returned under `<term>/connector`.
    """

    fn: Callable[..., Array]
    inputs: tuple[str, ...]
    targets: tuple[str, ...] = ()
    weight: float | Schedule = 1.0
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    where: str | None = None
    connector: Callable[..., Model] | None = None
    memory: Memory | None = None


class Headline(NamedTuple):
    """The metric that decides: it chooses the best step, and heads table, verdict, sweeps and searches.

    `sign` is +1 where more is better, -1 where less is. `unit` is how people read it: "%" of a share, "nats" of a mean
    log-probability (shown as perplexity), any other unit as it is. `error` is the metric with its standard error.
    """

    metric: str
    sign: int = 1
    unit: str = ""
    error: str = ""


@dataclasses.dataclass(frozen=True)
class Shown:
    """What a task can show of a finished run: test examples, and what each network says of them.

    `batch` holds the first test examples as they are stored, `outputs` by role what the networks answered (NumPy),
    `scores` by role {split: metrics} at the last step; `terms` are those of the student, `count` how many examples a
    report has room for.
    """

    batch: Mapping[str, Any]
    outputs: Mapping[str, Outputs]
    scores: Mapping[str, Mapping[str, Mapping[str, Any]]]
    source: Any
    terms: Mapping[str, Term]
    count: int


Run = Callable[..., Outputs]
Sums = Mapping[str, tuple[Array, Array]]


@dataclasses.dataclass(frozen=True)
class Task:
    """What is learned and how it is scored, apart from how it is trained.

    `terms(source) -> {name: Term}`: what teacher and baseline learn from; a term of the config that has a name of these
    and no `fn` is that one.
    `check(outputs, batch)` raises a ValueError that says what fits, from shapes alone.
    `sums(run, batch, reference, key) -> {name: (sum, count)}` of a batch, on the device: `run()` gives the network's
    Outputs on its inputs, `run(*other)` on others; `batch` is prepared, rows with batch["mask"] False are padding;
    `reference` holds the Outputs of the network that this one is compared with, or None.
    `collect(run, batch, key) -> {name: [batch, ...]}`: what cannot be summed. `reads` names further splits whose
    collected arrays `finish` needs ("train").
    `finish(sums, collected) -> {metric: value}` on the host: sums over the whole split in float64; `collected` is
    {"scored": arrays of the split that is scored, <split of `reads`>: its arrays}. None says "not measured".
    `headline` is (metric, sign, unit, error metric).
    `chance(labels) -> value`: the headline's, of a split's labels, where every answer is the labels' frequencies; a
    teacher that is not better is said to be at chance level.
    `rows` are the lines of the summary table, {metric: (label, unit)}; without it every number is shown by its name.
    `watch(path, batch) -> {name: Term}`: metrics of the main output at `path` that a training shows live.
    `show(Shown) -> sections` of the report (kd_jax/report/forms.py).
    `predict(logits) -> [batch, ...]`: what a loaded network answers to its user (kd_jax.load), in the words of
    `predicts`; a function that can be imported, since an export names it.
    """

    terms: Callable[[Any], Mapping[str, Term]]
    check: Callable[[Outputs, Mapping[str, Any]], None]
    sums: Callable[[Run, Mapping[str, Array], Outputs | None, Array], Sums]
    finish: Callable[[Mapping[str, tuple[Any, Any]], Mapping[str, Mapping[str, Any]]], Mapping[str, Any]]
    headline: Headline  # or a plain tuple of its four, which becomes one
    collect: Callable[[Run, Mapping[str, Array], Array], Mapping[str, Array]] | None = None
    reads: tuple[str, ...] = ()
    rows: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    watch: Callable[[str, str], Mapping[str, Term]] | None = None
    show: Callable[[Shown], list[dict[str, Any]]] | None = None
    name: str = ""
    chance: Callable[[Any], float] | None = None
    predict: Callable[[Any], Any] | None = None
    predicts: str = ""

    def __post_init__(self) -> None:
        headline = self.headline
        if not isinstance(headline, (tuple, list)) or not 1 <= len(headline) <= 4 or [*headline, 1][1] not in (1, -1):
            example = "(metric, +1 or -1, unit, error metric), such as ('iou', 1, '%', 'iou_error')"
            raise ValueError(f"The headline of a task is {example}, not {headline!r}.")
        for name, row in self.rows.items():
            if not isinstance(row, (tuple, list)) or len(row) != 2:
                raise ValueError(f"The rows of a task are {{metric: (label, unit)}}; that of {name!r} is {row!r}.")
        object.__setattr__(self, "headline", Headline(*headline))


@dataclasses.dataclass(frozen=True)
class Phase:
    """One update: run the calls, sum the terms, differentiate for `group`, apply `tx`; `metrics` are only watched."""

    group: str
    forward: tuple[Call, ...]
    terms: Mapping[str, Term]
    tx: Any
    metrics: Mapping[str, Term] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Stage:
    """`steps` steps of the same phases, in order.

    `pre_update(state, batch, key) -> entries` begins every step: what the batch holds because of the state (sequences
    that the student samples), in place of entries of the prepared batch of the same shape and type;
    `post_update(state, context) -> state` ends every step (EMA, queues);
    `on_enter(state) -> state` runs once in Python before the first step of the stage (generations, tasks);
    `data` names the split that the stage learns from. The best step lies in a stage that `selects`; one that comes
    before the result (an assistant's, more bits, an earlier task) does not.
    """

    steps: int
    phases: tuple[Phase, ...]
    post_update: Callable[[TrainState, Mapping[str, Any]], TrainState] | None = None
    on_enter: Callable[[TrainState], TrainState] | None = None
    name: str = ""
    data: str = "train"
    selects: bool = True
    pre_update: Callable[[TrainState, Mapping[str, Array], Array], Mapping[str, Array]] | None = None


@dataclasses.dataclass(frozen=True)
class Scheme:
    """Who is trained on what.

    `evaluate` names what is scored by `task`, the first selects the best step: a role ("student"),
    a path of one ("student.features:exit1", "peers.logits@0" for one of several along axis 1), or several joined by
    "+", whose probabilities are averaged. `reference` is the one that they are compared with (fidelity).
    `copies` names the roles whose parameters the scheme reads itself, in Python, beside what calls and terms say.
    `extra` is the first content of TrainState.extra; `prepare(batch, key, train)` turns a raw batch into what the calls
    read; its key is the same in every step, so that an example's picture depends on its index and view alone.
    `stage_splits` are scored after every stage, for the record; `summary(state, record) -> sections` adds to the
    report what the scheme alone knows: `record["stages"]` holds the scores after every stage, and
    kd_jax/report/forms.py says what a section is. `chain` is (role, what was done) of networks made one of the other.
    """

    roles: Mapping[str, Role]
    stages: tuple[Stage, ...]
    evaluate: tuple[str, ...] = ("student",)
    reference: str | None = None
    copies: tuple[str, ...] = ()
    extra: Mapping[str, PyTree] = dataclasses.field(default_factory=dict)
    prepare: Callable[[Mapping[str, Array], Array, bool], Mapping[str, Array]] | None = None
    task: Task | None = None
    stage_splits: tuple[str, ...] = ()
    chain: tuple[tuple[str, str], ...] = ()
    summary: Callable[[TrainState, Mapping[str, Any]], list[dict[str, Any]]] | None = None


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a config hands to a scheme: `build(parts, **config.scheme.kwargs) -> Scheme`.

    `roles` holds "student" (group "student"), "teacher" (frozen) unless there is none, and by their names the further
    ones of config.teachers (frozen) and config.roles. `make_tx(steps, group)` is the optimizer of a stage, that of
    config.optimizers[group] or else config.train.optimizer. `sources` holds the data by split: "train", "validation"
    (None where nothing was held out), "test", and what config.splits adds. `task` is what is learned.
    """

    roles: Mapping[str, Role]
    terms: Mapping[str, Term]
    steps: int
    make_tx: Callable[..., Any]
    prepare: Callable[[Mapping[str, Array], Array, bool], Mapping[str, Array]]
    sources: Mapping[str, Any]
    task: Task


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that a step reads and writes. `frozen` is not saved; everything else is, so that resume is exact."""

    step: Array
    params: dict[str, dict[str, PyTree]]  # group -> role -> parameters
    stats: dict[str, PyTree]  # role -> BatchNorm averages and the like
    opt: dict[str, PyTree]  # group -> optimizer state
    frozen: dict[str, tuple[PyTree, PyTree]]  # role -> (parameters, stats)
    extra: dict[str, PyTree]

    def replace(self, **changes: Any) -> TrainState:
        return dataclasses.replace(self, **changes)
