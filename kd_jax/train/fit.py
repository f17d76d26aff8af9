"""A training in progress: how it is run (`Settings`), and its scheme, state and record (`Fit`)."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from kd_jax.core.bind import init_optimizers, init_state, variable_shapes
from kd_jax.core.evaluate import evaluate, gather, scored_by
from kd_jax.core.many import Runs
from kd_jax.data.batches import eval_batches, train_batches
from kd_jax.data.source import Source
from kd_jax.prng import Keys
from kd_jax.system import parallel
from kd_jax.system.checkpoint import Checkpoints
from kd_jax.train.about import About
from kd_jax.types import PyTree, Scheme, TrainState

DONE = "done.json"
Watch = Callable[[int, list[float]], None]  # (step, headline on validation of the run or of its members)


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a scheme is run; nothing here changes what a step computes (but see step.make_train_step on `accumulate`).

    `steps_per_dispatch` steps are one program, wherever so many are left before an evaluation or the end of a stage;
    signals are heard between two dispatches. `accumulate` microbatches make a batch. The steps from the first to the
    last of `profile` are traced into `<directory>/profile`. `tracker` is one of system.trackers.TRACKERS, or "".
    """

    batch_size: int
    seed: int
    log_every: int = 50
    eval_every: int = 500
    eval_batch_size: int = 256
    view_seed: int | None = None  # of the order of the data and what is random in preparing them; None = seed
    labelled_share: float | None = None
    keep: int = 2
    workers: int = 0
    steps_per_dispatch: int = 1
    accumulate: int = 1
    profile: tuple[int, int] = (0, 0)
    tracker: str = ""
    views: int = 0  # of each example, which come back in turn; 0 = another in every epoch
    repeats: int = 1  # of each example in a batch, each another view
    rules: Mapping[str, parallel.Rules] = dataclasses.field(default_factory=dict)

    @property
    def data_seed(self) -> int:
        return self.seed if self.view_seed is None else self.view_seed


@dataclasses.dataclass
class Fit:
    """A run in progress: the bound scheme, its state on the mesh, and the record that is saved beside it."""

    scheme: Scheme
    inputs: Mapping[str, Any]
    state: TrainState
    keys: Keys
    sources: Mapping[str, Source | None]
    settings: Settings
    mesh: Mesh
    checkpoints: Checkpoints
    record: dict[str, Any]
    members: Runs
    resumed: bool = False
    about: About = dataclasses.field(default_factory=About)

    @property
    def prefixes(self) -> list[str]:
        """Returns the prefix of the entries of each run in this one: "", or "0/", "1/", ... of members."""
        return list(self.members.prefixes)

    @property
    def bounds(self) -> list[int]:
        """Returns the first step of every stage, and the last step of all."""
        return list(itertools.accumulate((stage.steps for stage in self.scheme.stages), initial=0))

    def batches(self, split: str, start: int, count: int) -> Iterator[Mapping[str, jax.Array]]:
        return train_batches(
            self.sources[split],
            batch_size=self.settings.batch_size,
            seed=self.settings.data_seed,
            start_step=start,
            num_steps=count,
            labelled_share=self.settings.labelled_share,
            sharding=parallel.batch_sharding(self.mesh),
            workers=self.settings.workers,
            views=self.settings.views,
            repeats=self.settings.repeats,
        )

    def score(self, step: Callable[..., Any], split: str) -> dict[str, dict[str, Any]]:
        """Returns {entry: metrics} of a whole split."""
        data = eval_batches(
            self.sources[split],
            batch_size=self.settings.eval_batch_size,
            sharding=parallel.batch_sharding(self.mesh),
            workers=self.settings.workers,
        )
        return evaluate(step, scored_by(self.scheme), self.state, data, self.keys.view, self._collected())

    def _collected(self) -> dict[str, dict[str, Any]]:
        """{entry: {split: arrays}} of the further splits that the task reads."""
        collected: dict[str, dict[str, Any]] = {}
        reads = scored_by(self.scheme).reads
        step = self.eval_step(self.scheme, collect_only=True) if reads else None
        for split in reads:
            data = eval_batches(
                self.sources[split],
                batch_size=self.settings.eval_batch_size,
                sharding=parallel.batch_sharding(self.mesh),
                workers=self.settings.workers,
            )
            for entry, arrays in gather(step, self.state, data, self.keys.view)[1].items():
                collected.setdefault(entry, {})[split] = arrays
        return collected

    def eval_step(self, scheme: Scheme, collect_only: bool = False) -> Callable[..., Any]:
        return jax.jit(self.members.eval_step(scheme, self.mesh, collect_only))

    def first(self, key: jax.Array, loaded: Mapping) -> TrainState:
        init = functools.partial(init_state, self.scheme, self.inputs)
        return self.members.first(init, key, loaded)

    def fresh(self, state: TrainState, stage: int) -> TrainState:
        """Returns the state with the optimizers that are new in `stage`."""
        init = functools.partial(init_optimizers, self.scheme, stage=stage)
        return self.members.each(init, state)

    def hyper(self, stage: int) -> PyTree:
        return self.members.hyper_at(stage, self.scheme.stages[stage])

    def abstract(self, stage: int) -> TrainState:
        """Returns the shapes and shardings of the state while `stage` runs."""

        def create(key: jax.Array, loaded: Mapping) -> TrainState:
            state = self.first(key, loaded)
            for number in range(1, stage + 1):
                state = self.fresh(state, number)
            return state

        shapes = jax.eval_shape(create, self.keys.own, variable_shapes(self.scheme, self.inputs))
        shardings = self.members.shardings(shapes, self.settings.rules, self.mesh)
        return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)

    def template(self, step: int) -> TrainState:
        """Returns shapes and shardings of the state saved at `step`; one between two stages belongs to the earlier."""
        stage = max(i for i, start in enumerate(self.bounds[:-1]) if start < step or i == 0)
        return self.abstract(stage).replace(frozen=self.state.frozen)
