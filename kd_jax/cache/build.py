"""cache.build: a teacher runs over the data once, jitted and sharded, and every process writes chunks of its own."""

from __future__ import annotations

import dataclasses
import functools
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding

from kd_jax.cache.model import decode, encode, parts_of, stored_top
from kd_jax.cache.open import hash_of
from kd_jax.cache.plan import TeacherCache
from kd_jax.core.chunked import answer_of
from kd_jax.core.paths import Path, lookup
from kd_jax.data import answers
from kd_jax.data.answers import CacheError
from kd_jax.data.batches import batches_of
from kd_jax.system import parallel, precision, workdir
from kd_jax.system.progress import Progress
from kd_jax.types import Array, PyTree

BATCHES_PER_CHUNK = 64  # at most: a killed build loses the work on one chunk of each process


def size_text(count: float) -> str:
    """Writes a number of bytes as 12 B, 3.4 kB, 5.6 MB, ..."""
    power = min(int(math.log(max(count, 1), 1000)), 4)
    return f"{count / 1000**power:.{min(power, 1)}f} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def sizes(cache: TeacherCache) -> list[str]:
    """Returns what a build would store, one line for each split and one for the total.

    The line of a split has the number of its answers, the bytes of an answer by field, and the bytes of all.
    """
    lines = []
    for split, (source, _, content, _) in cache.splits.items():
        each = {name: dataclasses.replace(content, fields={name: f}).row_bytes for name, f in content.fields.items()}
        fields = ", ".join(f"{name} {size:,}" for name, size in each.items())
        views = f"{content.views.min()}" if content.views.min() == content.views.max() else "1 or more"
        views = f"{content.views.min()} to {content.views.max()}" if views == "1 or more" else views
        lines.append(
            f"{split}: {len(source):,} examples x {views} views = {content.rows:,} answers of {content.row_bytes:,} "
            f"bytes ({fields}) = {size_text(content.nbytes)}"
        )
    total = sum(split.content.nbytes for split in cache.splits.values())
    return [*lines, f"total {size_text(total)} in {cache.folder}"]


def build(
    cache: TeacherCache,
    variables: tuple[PyTree, PyTree],
    mesh: Mesh,
    *,
    rules: parallel.Rules = (),
    files: str = "",
    trained: Any = None,
) -> None:
    """Computes what of the cache is not on disk; prints the sizes first.

    `variables` are the teacher's (params, stats), `rules` shard them; `files` is the hash of the export that they come
    from, `trained` the config of their training, if known. A killed build goes on where it was, and on as many
    processes ends in the same bytes. ValueError if another process is building there, CacheError if the disk is too
    small, an answer is no number or does not fit the cache's type, or another cache was begun in the folder.
    """
    with workdir.locked(cache.folder):
        if parallel.is_lead():
            print("\n  ".join([f"{cache.name}'s cache", *sizes(cache)]), flush=True)
        missing = {s: split for s, split in cache.splits.items() if not answers.is_whole(cache.folder / s)}
        parallel.on_lead(lambda: _check_disk(cache, [split.content.nbytes for split in missing.values()]))
        identity = {"parameters": hash_of(variables), "files": files, "trained": workdir.plain(trained)}
        with jax.set_mesh(mesh):
            placed = _place(cache, variables, mesh, rules)
            for split in missing:
                _build_split(cache, split, placed, identity, mesh)


def _check_disk(cache: TeacherCache, needed: Sequence[int]) -> None:
    free = shutil.disk_usage(cache.folder).free
    have = sum(p.stat().st_size for p in cache.folder.rglob("*") if p.is_file() and "/c/" in p.as_posix())
    if sum(needed) - have > free:
        raise CacheError(
            f"The disk of {cache.folder} has {size_text(free)} free, and {size_text(sum(needed))} are to be written: a "
            "smaller cache.k, cache.dtype or cache.views, or another directory."
        )


def _place(cache: TeacherCache, variables: tuple[PyTree, PyTree], mesh: Mesh, rules: parallel.Rules) -> Any:
    """((params, stats), extra) on the devices, the parameters as those of a frozen teacher are kept."""
    params, stats = variables
    whole = parallel.replicated(mesh)
    shardings = parallel.param_shardings(params, rules, mesh, cache.name)
    params = precision.stored(parallel.place(params, shardings), cache.role.dtype)
    stats, extra = (parallel.place(tree, jax.tree.map(lambda _: whole, tree)) for tree in (stats, dict(cache.extra)))
    return (params, stats), extra


def _writers(batch_size: int, sharding: NamedSharding) -> list[tuple[int, np.ndarray]]:
    """(process, its rows of a batch) of those that write: one for every set of rows that processes hold together."""
    rows: dict[int, set[int]] = {}
    for device, (index,) in sharding.devices_indices_map((batch_size,)).items():
        rows.setdefault(device.process_index, set()).update(range(*index.indices(batch_size)))
    writers: dict[tuple[int, ...], int] = {}
    for process in sorted(rows):
        writers.setdefault(tuple(sorted(rows[process])), process)
    if sum(map(len, writers)) != batch_size or len({*map(len, writers)}) != 1:
        raise CacheError("The processes hold rows of a batch in unequal parts: order the mesh by process.")
    return [(process, np.array(mine)) for mine, process in sorted(writers.items())]


def _batch_size(largest: int, rows_per_chunk: int, writers: int, ways: int) -> int:
    """The largest batch whose share for a writer divides a chunk; begun chunks keep their size on other processes."""
    for share in range(largest // writers, 0, -1):
        if (not rows_per_chunk or rows_per_chunk % share == 0) and share * writers % ways == 0:
            return share * writers
    raise CacheError(
        f"Chunks of {rows_per_chunk} rows were begun, and {writers} processes with {ways} shares of a batch cannot go "
        "on with them: use as many as before, or delete the folder."
    )


def _rows_of_step(
    starts: np.ndarray, chunks: np.ndarray, places: np.ndarray, size: int, step: int
) -> tuple[np.ndarray, np.ndarray]:
    """(index, view) of the batch of a step: every writer's next rows of the chunk that it works on.

    `chunks` [rounds, writers], -1 = none; `places` [writers, share] are the rows of a batch that each writer holds.
    """
    share = places.shape[1]
    number, part = divmod(step, size // share)
    rows = np.maximum(chunks[number], 0)[:, None] * size + part * share + np.arange(share)
    rows = np.minimum(rows, starts[-1] - 1)
    index = np.searchsorted(starts, rows, side="right") - 1
    table = np.empty((2, places.size), np.int32)
    table[:, places] = np.stack([index, rows - starts[index]])
    return table[0], table[1]


def _build_split(cache: TeacherCache, split: str, placed: Any, identity: Mapping[str, str], mesh: Mesh) -> None:
    content, planned = cache.splits[split].content, cache.splits[split].identity
    folder, sharding = cache.folder / split, parallel.batch_sharding(mesh)
    planned = {**planned, "teacher": {**planned["teacher"], **identity}}
    ways = cache.batch_size // sharding.shard_shape((cache.batch_size,))[0]
    share = cache.batch_size // len(_writers(cache.batch_size, sharding))
    wanted = min(answers.CHUNK_BYTES // content.row_bytes, BATCHES_PER_CHUNK * share, content.rows)
    begun: dict[str, Any] = {"size": max(1, -(-wanted // share)) * share, "done": set()}

    def begin() -> None:
        begun["size"], begun["done"] = answers.begin(folder, content, planned, begun["size"])

    parallel.on_lead(begin)
    if jax.process_count() > 1:
        begun["size"] = int(multihost_utils.broadcast_one_to_all(np.int32(begun["size"])))
    size = begun["size"]
    is_done = np.zeros(-(-content.rows // size), bool)
    is_done[list(begun["done"])] = True
    if jax.process_count() > 1:
        is_done = np.asarray(multihost_utils.broadcast_one_to_all(is_done))
    batch_size = _batch_size(cache.batch_size, size, len(_writers(cache.batch_size, sharding)), ways)
    writers = _writers(batch_size, sharding)
    todo = np.flatnonzero(~is_done)
    chunks = np.full((-(-len(todo) // len(writers)), len(writers)), -1)
    chunks.flat[: len(todo)] = todo
    _compute(cache, split, placed, chunks, writers, size, batch_size, sharding)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"cache {split}")
    parallel.on_lead(lambda: answers.finish(folder))


def _compute(
    cache: TeacherCache,
    split: str,
    placed: Any,
    chunks: np.ndarray,
    writers: list[tuple[int, np.ndarray]],
    size: int,
    batch_size: int,
    sharding: NamedSharding,
) -> None:
    source, train, content, _ = cache.splits[split]
    source = dataclasses.replace(source, answers={})
    places = np.stack([rows for _, rows in writers])
    share = places.shape[1]
    rows = functools.partial(_rows_of_step, content.starts, chunks, places, size)
    processes = [process for process, _ in writers]
    mine = processes.index(jax.process_index()) if jax.process_index() in processes else None
    steps = _steps(chunks, size, share, content.rows)
    batches = batches_of(source, rows, steps, batch_size, sharding=sharding, seed=cache.seed if train else None)
    answer = jax.jit(_answer(cache, train), out_shardings=(sharding, parallel.replicated(sharding.mesh)))
    progress = Progress(f"{cache.name}/{split}", len(steps), 0, batch_size, enabled=parallel.is_lead())
    writer = answers.Writer(cache.folder / split, content.fields, content.rows, size, jax.process_index())
    chunk = _empty_chunk(content, size)
    try:
        for step, batch in zip(steps, batches, strict=True):
            if step == 0 and train and cache.unproven:
                _check_single(cache, batch, placed[1])
            fields, wrong = answer(*placed, batch)
            if int(wrong) < batch_size:
                raise _no_number(cache, split, *(int(x[int(wrong)]) for x in rows(step)))
            number, part = divmod(step, size // share)
            if mine is not None:
                _fill(chunk, part, fields, places[mine])
                ends = step == steps[-1] or part == size // share - 1
                if ends and chunks[number][mine] >= 0:
                    writer.write(int(chunks[number][mine]), chunk)
            progress.update(step + 1)
    finally:
        writer.close()
        progress.close()


def _steps(chunks: np.ndarray, size: int, share: int, rows: int) -> range:
    """The steps of all rounds of chunks, in the last of which only what there is."""
    if not len(chunks):
        return range(0)
    last = min(size, rows - int(chunks[-1][0]) * size)
    return range((len(chunks) - 1) * (size // share) + -(-last // share))


def _no_number(cache: TeacherCache, split: str, index: int, view: int) -> CacheError:
    return CacheError(
        f"The {cache.name}'s answer to example {index}, view {view}, of {split} is no number or does not "
        f"fit {cache.store.dtype}: config.{cache.name}.cache.dtype, or the teacher itself."
    )


def _check_single(cache: TeacherCache, batch: Mapping[str, Array], extra: PyTree) -> None:
    """CacheError where what the teacher is shown of an example depends on the batch around it."""

    @jax.jit
    def apart(batch: Mapping[str, Array], extra: PyTree) -> Array:
        def shown(batch: Mapping[str, Array]) -> list[Array]:
            context = {"batch": cache.prepare(batch, cache.key(), True), "extra": extra}
            return [lookup(context, p).astype(jnp.float32) for p in cache.role.inputs if Path.parse(p).kind == "batch"]

        turned = shown(jax.tree.map(lambda x: x[::-1], batch))
        return jnp.stack([jnp.abs(x - y[::-1]).max() for x, y in zip(shown(batch), turned, strict=True)]).max()

    if float(apart(batch, extra)) > 1e-3:
        raise CacheError(
            f"What the {cache.name} is shown of an example depends on the batch around it; a cache needs pictures that "
            "depend on the example and its view alone."
        )


def _empty_chunk(content: answers.Answers, size: int) -> dict[str, np.ndarray]:
    return {n: np.zeros((size, *shape), answers.dtype_of(dtype)) for n, (shape, dtype) in content.fields.items()}


def _fill(chunk: dict[str, np.ndarray], part: int, fields: Mapping[str, Array], rows: np.ndarray) -> None:
    """Writes the rows that this process holds of a step's answers into the part of the chunk that is the step's."""
    share = len(rows)
    for name, x in fields.items():
        chunk[name][part * share : (part + 1) * share] = _local(x, rows)


def _local(x: Array, rows: np.ndarray) -> np.ndarray:
    """The rows of a global array that this process holds."""
    if len(rows) == len(x):
        return np.asarray(x)
    local = np.empty((len(rows), *x.shape[1:]), x.dtype)
    for shard in x.addressable_shards:
        place = np.searchsorted(rows, np.arange(len(x))[shard.index[0]])
        local[place] = np.asarray(shard.data)
    return local


def _answer(cache: TeacherCache, train: bool) -> Callable[..., tuple[dict[str, Array], Array]]:
    """(variables, extra, batch) -> (fields, the first row with what is no number, or the batch size)."""
    ask = cache.ask(train)

    def answer(variables: tuple[PyTree, PyTree], extra: PyTree, batch: Mapping[str, Array]):
        outputs = ask(variables, extra, batch)
        fields, parts = encode(cache.store, outputs, answer_of(outputs)), parts_of(cache.store, outputs)
        classes = 0 if parts is not None else outputs.logits.shape[-1]
        stored = decode(cache.store, classes, fields, parts)
        # A logit of -inf is a class that cannot be; all else is a number, and must still be one in the cache's type.
        if cache.store.k:  # of these alone: the logits are not built
            log_p, _, rest = stored_top(cache.store, classes, fields)
            numbers = [log_p, rest] if classes > log_p.shape[-1] else [log_p]
        else:
            numbers = jax.tree.leaves(stored.logits)
        lost = [jnp.isnan(x) | (x == jnp.inf) for x in numbers]
        if not cache.store.k:
            said = jax.tree.leaves(outputs.logits)
            lost += [jnp.isneginf(x) & ~jnp.isneginf(y) for x, y in zip(numbers, said, strict=True)]
        lost += [~jnp.isfinite(stored.features[tap]) for tap in cache.store.features]
        wrong = functools.reduce(jnp.logical_or, [x.reshape(len(x), -1).any(-1) for x in lost])
        return fields, jnp.where(wrong.any(), jnp.argmax(wrong), len(wrong))

    return answer
