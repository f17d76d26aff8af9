"""Batches as global device arrays, a pure function of (seed, step), for one device or many processes.

A set in memory is put on the devices once; a batch is then a jitted gather, and only its row numbers cross to the
device. Other sets are read by Grain ahead of the step. Every batch has

    image  uint8 or float32 [B, ...] as stored     label  [B, ...] as stored       labelled  bool [B]
    tokens int32 [B, L] in its place, of text;     label and labelled are [B, M] where tokens have labels
    index  int32 [B], the example's number         view   int32 [B], how often it has been seen
    <name> [B, ...] for each of Source.fields      <role>/<field> [B, ...] for each of Source.answers

and an evaluation batch has `mask` bool [B], False where the last batch is padded.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from kd_jax.data import order, stream
from kd_jax.data.answers import dtype_of
from kd_jax.data.placement import Batch, local_rows, put, to_global
from kd_jax.data.source import Source, has_label
from kd_jax.data.stream import Rows

Placed = tuple[Batch, dict[str, tuple]]  # arrays by name; (starts, views, {field: rows}) of the answers of each teacher

RESIDENT_BYTES = 4 << 30  # a larger set in memory stays on the host and is streamed
AHEAD = 2  # streamed batches that are on their way to the devices while a step runs

_placed: weakref.WeakKeyDictionary[Source, dict] = weakref.WeakKeyDictionary()


def train_batches(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    num_steps: int,
    sharding: NamedSharding,
    start_step: int = 0,
    labelled_share: float | None = None,
    workers: int = 0,
    views: int = 0,
    repeats: int = 1,
) -> Iterator[Batch]:
    """Returns an iterator over the batches of the steps start_step .. start_step + num_steps - 1; a resume is exact.

    `sharding` is that of a [B, ...] array. `labelled_share` only matters where some examples have no label: the first
    round(labelled_share * B) rows are then labelled ones, the rest others, each kind in epochs of its own; None draws
    from all alike. `workers` processes decode a streamed set (0 = threads of this process). `views` > 0: each example
    has so many views, which come again in turn. A batch has each example `repeats` times, each time another view; of
    labelled and other rows in one batch that is not defined. Raises ValueError for arguments that do not fit, at the
    call.
    """
    _check(source, batch_size, sharding)
    if num_steps < 0 or start_step < 0 or seed < 0:
        raise ValueError(f"negative seed, start_step or num_steps: {(seed, start_step, num_steps)}")
    rows = _order(source, batch_size, seed, labelled_share, views, repeats)
    rows(start_step)  # a share that cannot be served fails here, not inside the loop
    steps = range(start_step, start_step + num_steps)
    return batches_of(source, rows, steps, batch_size, sharding=sharding, seed=seed, workers=workers)


def batches_of(
    source: Source,
    rows: Rows,
    steps: range,
    batch_size: int,
    *,
    sharding: NamedSharding,
    seed: int | None,
    workers: int = 0,
) -> Iterator[Batch]:
    """Returns an iterator over the batches whose (examples, views) are rows(step), one for each of `steps`.

    `seed` is that of random crops; None takes the centre crop, as in evaluation.
    """
    if _resident(source):
        batches = _gathered(source, (np.stack(rows(step), axis=1) for step in steps), sharding)
    else:
        local, bare = local_rows(batch_size, sharding), dataclasses.replace(source, answers={})
        count = {"start": steps.start, "count": len(steps)}
        host = stream.host_batches(bare, rows, local, seed=seed, **count, workers=workers)
        batches = _ahead(to_global(batch, local, batch_size, sharding) for batch in host)
    return _answered(source, batches, map(rows, steps), batch_size, sharding)


def resident_rows(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    sharding: NamedSharding,
    start_step: int,
    num_steps: int,
    size: int,
    labelled_share: float | None = None,
    views: int = 0,
    repeats: int = 1,
) -> tuple[Placed, Iterator[jax.Array]]:
    """Returns the arrays on the devices, and an iterator over row numbers [size, B, 2] of `size` batches at a time.

    Inside a program of several steps, `gathered` makes of both the batches that `train_batches` yields. `num_steps` is
    a multiple of `size`. Raises ValueError where the data are streamed.
    """
    _check(source, batch_size, sharding)
    check_resident(source)
    rows = _order(source, batch_size, seed, labelled_share, views, repeats)
    whole = NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec))

    def tables() -> Iterator[jax.Array]:
        for first in range(start_step, start_step + num_steps, size):
            yield put(np.stack([np.stack(rows(step), axis=1) for step in range(first, first + size)]), whole)

    return _place(source, sharding), tables()


def check_resident(source: Source) -> None:
    """Raises ValueError unless the source and the teachers' answers to it are in memory and fit on the devices."""
    if not answers_fit(source):
        raise ValueError(
            f"{source.name}/{source.split} is streamed (not in memory, or above {RESIDENT_BYTES >> 30} GiB, or a "
            "teacher's answers to it are), and several steps in one dispatch read data that lie on the devices: set "
            "config.steps_per_dispatch to 1."
        )


def batch_shapes(source: Source, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a training batch, from one example: no reader is started."""
    example = {name: np.asarray(value) for name, value in source.example(0).items()}
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        name: (value.shape, value.dtype) for name, value in example.items()
    }
    shapes["labelled"] = (shapes["label"][0] if source.per_place else (), np.bool_)
    shapes |= {"index": ((), np.int32), "view": ((), np.int32)}
    for role, answers in source.answers.items():
        shapes |= {f"{role}/{name}": (shape, dtype_of(dtype)) for name, (shape, dtype) in answers.fields.items()}
    return {k: jax.ShapeDtypeStruct((batch_size, *shape), dtype) for k, (shape, dtype) in shapes.items()}


def eval_batches(source: Source, *, batch_size: int, sharding: NamedSharding, workers: int = 0) -> Iterator[Batch]:
    """Returns an iterator over all examples once, in order; the last batch is padded with example 0, mask False."""
    _check(source, batch_size, sharding)
    count = -(-len(source) // batch_size)
    rows = functools.partial(_eval_rows, len(source), batch_size)
    if _resident(source):
        batches = _gathered(source, (_eval_table(len(source), batch_size, step) for step in range(count)), sharding)
        return _answered(source, batches, map(rows, range(count)), batch_size, sharding)
    local, bare = local_rows(batch_size, sharding), dataclasses.replace(source, answers={})
    host = stream.host_batches(bare, rows, local, seed=None, start=0, count=count, workers=workers)
    masked = (
        batch | {"mask": _eval_table(len(source), batch_size, step)[local, 2].astype(bool)}
        for step, batch in enumerate(host)
    )
    batches = _ahead(to_global(batch, local, batch_size, sharding) for batch in masked)
    return _answered(source, batches, map(rows, range(count)), batch_size, sharding)


def _check(source: Source, batch_size: int, sharding: NamedSharding) -> None:
    if len(source) == 0:
        raise ValueError(f"{source.name}/{source.split} has no examples")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} is not positive")
    try:
        sharding.shard_shape((batch_size,))
    except ValueError as error:
        raise ValueError(f"batch_size={batch_size} does not divide over the devices: {sharding}") from error


def _resident(source: Source) -> bool:
    return source.images is not None and source.images.nbytes <= RESIDENT_BYTES


def answers_fit(source: Source) -> bool:
    """Returns whether the teachers' answers are gathered on the devices, as the images are."""
    return _resident(source) and sum(answers.nbytes for answers in source.answers.values()) <= RESIDENT_BYTES


def _answered(
    source: Source, batches: Iterator[Batch], tables: Iterable[tuple], batch_size: int, sharding: NamedSharding
) -> Iterator[Batch]:
    """Adds the teachers' answers to the batches; those that are not on the devices are read ahead of the step."""
    if not source.answers or answers_fit(source):
        yield from batches
        return
    local, tables, asked = local_rows(batch_size, sharding), iter(tables), collections.deque()
    for batch in batches:
        for index, view in itertools.islice(tables, AHEAD + 1 - len(asked)):
            asked.append({r: (a, a.ask(index[local], view[local])) for r, a in source.answers.items()})
        entries: dict[str, np.ndarray] = {}
        for role, (answers, futures) in asked.popleft().items():
            entries |= {f"{role}/{name}": values for name, values in answers.receive(futures).items()}
        yield batch | to_global(entries, local, batch_size, sharding)


def _order(
    source: Source, batch_size: int, seed: int, share: float | None, views: int = 0, repeats: int = 1
) -> Callable[[int], tuple]:
    """Returns step -> (index, view), a partial and not a closure: worker processes get it too."""
    labelled = source.labelled
    if views:
        return functools.partial(order.repeated, _order(source, batch_size, seed, share, 0, repeats), views)
    alike = share is None or labelled.all() or not labelled.any()  # of a transfer set alone every row is unlabelled
    if repeats > 1:
        if not alike:
            raise ValueError(f"train.repeats={repeats}: some examples of {source.name} have a label and others none.")
        return functools.partial(order.repeated_indices, len(source), batch_size, seed, repeats)
    if alike:
        return functools.partial(order.batch_indices, len(source), batch_size, seed)
    ids, others = (np.flatnonzero(side).astype(np.int32) for side in (labelled, ~labelled))
    return functools.partial(order.mixed_indices, ids, others, batch_size, share, seed)


def _eval_table(n: int, batch_size: int, step: int) -> np.ndarray:
    """Returns int32 [B, 3]: index, view, mask."""
    position = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int32)
    mask = position < n
    return np.stack([np.where(mask, position, 0), np.zeros_like(position), mask], axis=1)


def _eval_rows(n: int, batch_size: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    table = _eval_table(n, batch_size, step)
    return table[:, 0], table[:, 1]


def _gathered(source: Source, tables: Iterable[np.ndarray], sharding: NamedSharding) -> Iterator[Batch]:
    placed = _place(source, sharding)
    gather = _gather(sharding)
    for table in tables:
        yield gather(placed, put(table, sharding))


def gathered(placed: Placed, table: jax.Array) -> Batch:
    """Returns the batch of a table int32 [B, 2] of index and view, or [B, 3] with mask."""
    arrays, answers = placed
    index = table[:, 0]
    batch = {name: values.at[index].get(mode="promise_in_bounds") for name, values in arrays.items()}
    for role, (starts, views, fields) in answers.items():
        rows = starts[index] + table[:, 1] % views[index]
        batch |= {f"{role}/{n}": values.at[rows].get(mode="promise_in_bounds") for n, values in fields.items()}
    batch |= {"index": index, "view": table[:, 1]}
    return batch | ({"mask": table[:, 2] > 0} if table.shape[1] == 3 else {})


@functools.lru_cache(maxsize=16)
def _gather(sharding: NamedSharding) -> Callable[..., Batch]:
    return jax.jit(gathered, out_shardings=sharding)


def _place(source: Source, sharding: NamedSharding) -> Placed:
    """Puts all arrays of the source and the answers to it on every device, once: all stages share them."""
    by_sharding = _placed.setdefault(source, {})
    everywhere = NamedSharding(sharding.mesh, PartitionSpec())
    if everywhere not in by_sharding:
        labels, labelled = source.labels, has_label(source.labels, source.per_place)
        arrays = {source.entry: source.images, "label": labels, "labelled": labelled, **source.fields}
        answers: dict[str, tuple] = {}
        if answers_fit(source):
            answers = {r: (a.starts[:-1].astype(np.int32), a.views, a.whole()) for r, a in source.answers.items()}
        by_sharding[everywhere] = jax.tree.map(lambda values: put(values, everywhere), (arrays, answers))
    return by_sharding[everywhere]


def _ahead(batches: Iterable[Batch]) -> Iterator[Batch]:
    queue: collections.deque[Batch] = collections.deque()
    for batch in batches:
        queue.append(batch)
        if len(queue) > AHEAD:
            yield queue.popleft()
    yield from queue
