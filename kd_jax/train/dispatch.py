"""How many steps a call of the device makes: one on a batch, or several that gather their batches themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from kd_jax.core.step import make_train_steps
from kd_jax.data.batches import check_resident, gathered, resident_rows
from kd_jax.system import parallel
from kd_jax.train.fit import Fit, Settings
from kd_jax.types import Stage, TrainState

Programs = list[tuple[Stage, Any, dict[int, Any]]]  # (stage, structure of the state, jitted steps by their number)


def check_dispatch(
    name: str, settings: Settings, sources: Mapping[str, Any], splits: Iterable[str], mesh: Mesh
) -> None:
    """Raises ValueError where dispatches are too long, their data not on the devices, or a batch does not divide."""
    size, every, parts = settings.steps_per_dispatch, settings.eval_every, settings.accumulate
    if not 1 <= size <= every:
        raise ValueError(
            f"{name}: steps_per_dispatch = {size}; it is at least 1 and at most eval_every = {every}, since a dispatch "
            "ends before an evaluation."
        )
    for split in splits if size > 1 else ():
        if sources.get(split) is not None:
            check_resident(sources[split])
    if parts < 1 or settings.batch_size % parts:
        raise ValueError(f"{name}: batch_size = {settings.batch_size} does not divide into accumulate = {parts} parts.")
    parallel.check_batch_size(mesh, settings.batch_size // parts, f"a microbatch of {name}")


def dispatches(run: Fit, split: str, first: int, start: int, end: int) -> Iterator[tuple[int, tuple]]:
    """Yields (how many steps, what their program reads) for steps start .. end - 1 of the stage that began at `first`.

    As many dispatches of `steps_per_dispatch` steps as fit come before each evaluation and the end, then single steps.
    """
    settings = run.settings
    size, every = settings.steps_per_dispatch, settings.eval_every
    while start < end:
        until = end if size == 1 else min(end, (start // every + 1) * every)
        many = (until - start) // size * size if size > 1 else 0
        if many:
            data, tables = resident_rows(
                run.sources[split],
                batch_size=settings.batch_size,
                seed=settings.data_seed,
                start_step=start - first,
                num_steps=many,
                size=size,
                labelled_share=settings.labelled_share,
                sharding=parallel.batch_sharding(run.mesh),
                views=settings.views,
                repeats=settings.repeats,
            )
            yield from ((size, (data, rows)) for rows in tables)
        rest = run.batches(split, start + many - first, until - start - many)
        yield from ((1, (batch,)) for batch in rest)
        start = until


def compiled(run: Fit, stage: Stage, programs: Programs) -> dict[int, Any]:
    """Returns {steps in a call: jitted function}; stages with the same phases and hooks share those of the first."""
    layout = jax.tree.structure(run.state)  # a stage between the two may have added the optimizer of another group
    for other, structure, functions in programs:
        hooks = other.pre_update is stage.pre_update and other.post_update is stage.post_update
        if other.phases is stage.phases and hooks and structure == layout:
            return functions
    sharding, size = parallel.batch_sharding(run.mesh), run.settings.steps_per_dispatch
    step = run.members.train_step(run.scheme, stage, run.mesh, run.settings.accumulate)

    def batch_of(data: Any, rows: jax.Array) -> Mapping[str, jax.Array]:
        return jax.lax.with_sharding_constraint(gathered(data, rows), sharding)

    functions = {1: step} | ({size: make_train_steps(step, batch_of)} if size > 1 else {})
    jitted = {n: _jitted(run.state, function) for n, function in functions.items()}
    programs.append((stage, layout, jitted))
    return jitted


def _jitted(state: TrainState, function: Callable[..., tuple[TrainState, Any]]) -> Callable:
    """Frozen networks are read and not donated: the trainings of a run share one copy of a teacher."""

    def update(state: TrainState, frozen: Mapping, *rest: Any) -> tuple[TrainState, Any]:
        state, metrics = function(state.replace(frozen=frozen), *rest)
        return state.replace(frozen={}), metrics

    update.__name__ = function.__name__
    update = jax.jit(update, donate_argnums=0, out_shardings=(shardings_of(state.replace(frozen={})), None))

    def program(state: TrainState, *rest: Any) -> tuple[TrainState, Any]:
        new, metrics = update(state.replace(frozen={}), state.frozen, *rest)
        return new.replace(frozen=state.frozen), metrics

    return program


def shardings_of(tree: TrainState) -> TrainState:
    return jax.tree.map(lambda x: x.sharding, tree)
