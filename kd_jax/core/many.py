"""Many runs of one scheme as one program: they share data, pictures and frozen networks, and differ in the rest.

A state of n members has an axis of length n at the front of everything that a run changes; the one step runs for every
member, between frozen networks that have answered once for all. Where there are several devices and n is a multiple of
them, every device takes whole members. One run (`Single`) has the same interface.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kd_jax.core.evaluate import make_eval_step
from kd_jax.core.step import Metrics, answered, make_prepared_step, make_train_step
from kd_jax.core.terms import hyper_of
from kd_jax.prng import Keys
from kd_jax.resolve import near
from kd_jax.system import parallel
from kd_jax.types import Array, PyTree, Scheme, Stage, TrainState

KINDS = ("vmap", "map", "unroll")
AXES = TrainState(None, 0, 0, 0, None, 0)  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class Single:
    """One run, of its own seed and with the hyper-parameters of its scheme."""

    seed: int
    prefixes = ("",)

    def keys(self) -> Array:
        return jax.random.key(self.seed)

    def hyper_at(self, number: int, stage: Stage) -> PyTree:
        """Returns the hyper-parameters of `stage`, the stage of this number."""
        return hyper_of(stage)

    def first(self, init: Callable[..., TrainState], keys: Array, loaded: Mapping[str, Any]) -> TrainState:
        return init(keys, loaded)

    def each(self, change: Callable[[TrainState], TrainState], state: TrainState) -> TrainState:
        return change(state)

    def one(self, state: TrainState, number: int) -> TrainState:
        return state

    def seed_of(self, number: int) -> int:
        return self.seed

    def shardings(self, shapes: TrainState, rules: Mapping[str, parallel.Rules], mesh: Mesh) -> TrainState:
        return parallel.state_shardings(shapes, rules, mesh)

    def train_step(
        self, scheme: Scheme, stage: Stage, mesh: Mesh, accumulate: int = 1
    ) -> Callable[..., tuple[TrainState, Metrics]]:
        return make_train_step(scheme, stage, accumulate)

    def eval_step(self, scheme: Scheme, mesh: Mesh, collect_only: bool = False) -> Callable[..., dict[str, Any]]:
        return make_eval_step(scheme, collect_only)

    def sections(self, scheme: Scheme, state: TrainState, record: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what the scheme's summary adds to the results."""
        return {} if scheme.summary is None else {"sections": scheme.summary(state, record)}

    def joined(self, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Returns the results of every run as done.json has them; `parted` is the inverse."""
        return results[0]

    def parted(self, results: dict[str, Any]) -> list[dict[str, Any]]:
        return [results]


@dataclasses.dataclass(frozen=True)
class Members:
    """n runs: their seeds, the hyper-parameters of every stage stacked to [n] leaves (`stack`), and how they are run.

    "vmap" runs all members at once (their convolutions become grouped ones), "map" one after the other in a loop of the
    program, "unroll" one after the other without a loop: the program grows with n and takes longer to compile, but
    XLA's CPU compiler brings convolutions into their fast form outside of loops alone.
    """

    seeds: tuple[int, ...]
    hyper: tuple[PyTree, ...]
    how: str = "vmap"

    def __post_init__(self) -> None:
        if self.how not in KINDS:
            raise ValueError(f"Members are run by {', '.join(KINDS)}, not {self.how!r}. {near(self.how, KINDS)}")
        lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(self.hyper)} | {(len(self.seeds),)}
        if len(lengths) != 1 or not self.seeds:
            raise ValueError(f"{len(self.seeds)} seeds and hyper-parameters of {sorted(lengths)} members do not agree.")

    @property
    def prefixes(self) -> list[str]:
        """Returns the prefix of each member's entries, where scores are listed by entry: "0/", "1/", ..."""
        return [f"{i}/" for i in range(len(self.seeds))]

    def keys(self) -> Array:
        return jnp.stack([jax.random.key(seed) for seed in self.seeds])

    def hyper_at(self, number: int, stage: Stage) -> PyTree:
        return self.hyper[number]

    def first(self, init: Callable[..., TrainState], keys: Array, loaded: Mapping[str, Any]) -> TrainState:
        """Returns the states of all members at step 0; `init(key, loaded)` makes that of one run."""
        return jax.vmap(lambda key: init(key, loaded), out_axes=AXES)(keys)

    def each(self, change: Callable[[TrainState], TrainState], state: TrainState) -> TrainState:
        return jax.vmap(change, in_axes=(AXES,), out_axes=AXES)(state)

    def seed_of(self, number: int) -> int:
        return self.seeds[number]

    def one(self, state: TrainState, number: int) -> TrainState:
        return jax.tree.map(
            lambda axis, tree: tree if axis is None else jax.tree.map(lambda x: x[number], tree),
            AXES,
            state,
            is_leaf=lambda x: x is None,
        )

    def split_ways(self, mesh: Mesh) -> tuple[str, ...]:
        """Returns the mesh axes over which whole members are spread.

        There are none on one device, or where the number of members is no multiple of the devices.
        """
        axes = tuple(a for a in parallel.BATCH_AXES if a in mesh.shape)
        ways = int(np.prod([mesh.shape[a] for a in axes]))
        return axes if ways > 1 and len(self.seeds) % ways == 0 else ()

    def shardings(self, shapes: TrainState, rules: Mapping[str, parallel.Rules], mesh: Mesh) -> TrainState:
        """Returns the shardings of a state of members: whole members on each device, frozen networks by their rules."""
        whole, apart = parallel.replicated(mesh), NamedSharding(mesh, PartitionSpec(self.split_ways(mesh) or None))
        frozen = parallel.state_shardings(TrainState(shapes.step, {}, {}, {}, shapes.frozen, {}), rules, mesh).frozen
        rest = jax.tree.map(lambda _: apart, dataclasses.replace(shapes, frozen={}))
        return dataclasses.replace(rest, step=whole, frozen=frozen)

    def train_step(
        self, scheme: Scheme, stage: Stage, mesh: Mesh, accumulate: int = 1
    ) -> Callable[..., tuple[TrainState, Metrics]]:
        """Makes the step of step.make_train_step for all members; metrics are [n]."""
        step = make_prepared_step(scheme, stage, accumulate)

        def train_step(state: TrainState, batch: Mapping, hyper: Mapping, key: Keys) -> tuple[TrainState, Metrics]:
            def member(varying: tuple, shared: tuple) -> tuple:
                (params, stats, opt, extra), hyper, key = varying
                number, frozen, batch, answers = shared
                before = TrainState(number, params, stats, opt, frozen, extra)
                after, metrics = step(before, batch, hyper, key, answers)
                return (after.params, after.stats, after.opt, after.extra), metrics

            varying = ((state.params, state.stats, state.opt, state.extra), hyper, key.run)
            shared = (state.step, state.frozen, *answered(scheme, stage, state, batch, key.view))
            (params, stats, opt, extra), metrics = self._spread(member, mesh, self.how)(varying, shared)
            metrics = jax.lax.with_sharding_constraint(metrics, parallel.replicated(mesh))
            return TrainState(state.step + 1, params, stats, opt, state.frozen, extra), metrics

        return train_step

    def eval_step(self, scheme: Scheme, mesh: Mesh, collect_only: bool = False) -> Callable[..., dict[str, Any]]:
        """Makes the step of evaluate.make_eval_step for all members: {"0/entry": sums, "1/entry": ...}."""
        step = make_eval_step(scheme, collect_only)

        def eval_step(state: TrainState, batch: Mapping[str, Array], key: Array) -> dict[str, Any]:
            def member(varying: tuple, shared: tuple) -> dict[str, Any]:
                number, frozen, batch, key = shared
                params, stats, opt, extra = varying
                return step(TrainState(number, params, stats, opt, frozen, extra), batch, key)

            varying = (state.params, state.stats, state.opt, state.extra)
            # vmap, since the frozen networks then answer once: they do not differ.
            sums = self._spread(member, mesh, "vmap")(varying, (state.step, state.frozen, batch, key))
            sums = jax.lax.with_sharding_constraint(sums, parallel.replicated(mesh))
            return {
                prefix + entry: jax.tree.map(lambda x, i=i: x[i], values)
                for i, prefix in enumerate(self.prefixes)
                for entry, values in sums.items()
            }

        return eval_step

    def sections(self, scheme: Scheme, state: TrainState, record: Mapping[str, Any]) -> dict[str, Any]:
        """Returns no sections: a summary is of one run."""
        return {}

    def joined(self, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {"members": list(results)}

    def parted(self, results: dict[str, Any]) -> list[dict[str, Any]]:
        return results["members"]

    def _spread(self, member: Callable[[tuple, tuple], PyTree], mesh: Mesh, how: str) -> Callable[..., PyTree]:
        """(varying, shared) -> what `member` makes of every member's values, on its devices."""
        if how == "vmap":
            run = jax.vmap(member, in_axes=(0, None))
        elif how == "map":

            def run(varying: tuple, shared: tuple) -> PyTree:
                return jax.lax.map(lambda one: member(one, shared), varying)
        else:

            def run(varying: tuple, shared: tuple) -> PyTree:
                here = range(jax.tree.leaves(varying)[0].shape[0])
                done = [member(jax.tree.map(lambda x, i=i: x[i], varying), shared) for i in here]
                return jax.tree.map(lambda *values: jnp.stack(values), *done)

        axes = self.split_ways(mesh)
        if not axes:
            return run
        # Not left to the partitioner: it would move members (lax.map) or parts of images (grouped convolutions).
        varying, shared = PartitionSpec(axes), PartitionSpec()
        return jax.shard_map(run, mesh=mesh, in_specs=(varying, shared), out_specs=varying, check_vma=False)


Runs = Single | Members


def stack(hypers: Sequence[Sequence[PyTree]]) -> tuple[PyTree, ...]:
    """Stacks trees [member][stage] to one tree for every stage, with leaves [n]."""
    return tuple(
        jax.tree.map(lambda *leaves: np.stack([np.asarray(x) for x in leaves]), *stages)
        for stages in zip(*hypers, strict=True)
    )


def obstacle(scheme: Scheme, rules: Mapping[str, parallel.Rules]) -> str:
    """Returns why runs of this scheme cannot share a program; "" if they can."""
    if any(stage.on_enter is not None for stage in scheme.stages):
        return "the scheme does something in Python between its stages"
    if split := [name for name, rule in rules.items() if rule and scheme.roles[name].group is not None]:
        return f"{', '.join(split)} is sharded by rules, and a member is whole on its devices"
    return ""
