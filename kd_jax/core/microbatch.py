"""Gradient accumulation: rows of a batch in n microbatches, and which terms do not allow it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.core.paths import lookup
from kd_jax.core.terms import context_of, has_rows, paths_of, term_values
from kd_jax.models.projected import Projected
from kd_jax.types import Array, PyTree, Term

Tried = tuple[Term, PyTree]
ROWS = 4  # of the small batch on which a term is tried; its first half is compared with that half alone


def unroll(length: int) -> int:
    """Returns how many rounds of a scan become one round of its loop: all on a CPU, else one.

    XLA's CPU compiler brings convolutions into their fast form only outside of loops: in a loop a ResNet8 step is 4 to
    8 times slower and rounds differently.
    """
    return length if jax.default_backend() == "cpu" else 1


def split(tree: PyTree, size: int, parts: int) -> PyTree:
    """Splits [size, ...] into [parts, size / parts, ...]; microbatch m has the rows m, m + parts, ...

    Every device then keeps its own rows, and each microbatch gets its share of a batch that has labelled rows first.
    What has no batch axis is repeated.
    """

    def again(x: Array) -> Array:
        return jnp.broadcast_to(x, (parts, *x.shape))

    def rows(x: Any) -> Any:
        if isinstance(x, Projected):  # a head may have as many classes as the batch has rows
            return dataclasses.replace(jax.tree.map(again, x), hidden=tuple(map(rows, x.hidden)))
        if x.ndim and x.shape[0] == size:
            return x.reshape(size // parts, parts, *x.shape[1:]).swapaxes(0, 1)
        return again(x)

    return jax.tree.map(rows, tree, is_leaf=lambda x: isinstance(x, Projected))


def whole(stacked: PyTree) -> PyTree:
    """Joins [parts, B / parts, ...] to [B, ...] in the order of the batch; scalars are averaged."""

    def rows(x: Array) -> Array:
        return x.swapaxes(0, 1).reshape(-1, *x.shape[2:]) if x.ndim > 1 else x.mean(0)

    return jax.tree.map(rows, stacked)


def gradients(
    part: Callable[..., Callable], params: PyTree, stats: PyTree, tree: PyTree, size: int, parts: int
) -> tuple[tuple[Array, dict[str, Any], PyTree, PyTree], PyTree]:
    """Computes ((loss, metrics, stats, outputs on all rows), gradients) of a tree of `size` rows in microbatches.

    `part(number, rows, stats, counts)` returns a function of the parameters, whose value is a microbatch's (share of
    the loss, (metrics, stats, outputs)). `counts` are those of the terms over the whole batch. Shares and gradients
    are summed over the microbatches.
    """

    def count(rows: tuple[Array, PyTree]) -> dict[str, Array]:  # the compiler drops the networks that no mask needs
        metrics = part(*rows, stats, None)(params)[1][0]
        return {name: number for name, (_, number) in metrics.items()}

    def add(carry: tuple, rows: tuple[Array, PyTree]) -> tuple:
        loss, grads, stats = carry
        differentiated = jax.value_and_grad(part(*rows, stats, counts), has_aux=True)
        (share, (metrics, stats, outputs)), new = differentiated(params)
        return (loss + share, jax.tree.map(jnp.add, grads, new), stats), (metrics, outputs)

    numbered = (jnp.arange(parts), split(tree, size, parts))
    counts = jax.tree.map(lambda c: c.sum(0), jax.lax.map(count, numbered))
    first = (jnp.float32(0.0), jax.tree.map(jnp.zeros_like, params), stats)
    (loss, grads, stats), (metrics, outputs) = jax.lax.scan(add, first, numbered, unroll=unroll(parts))
    return (loss, jax.tree.map(lambda m: m.sum(0), metrics), stats, whole(outputs)), grads


def check_terms(full: Mapping[str, Tried], half: Mapping[str, Tried]) -> None:
    """Raises ValueError for terms that relate examples.

    `full` and `half` are {name: (term, shapes)} for ROWS rows and for half as many. Each loss is tried on random
    numbers: its values for the first half must not depend on whether the second half is there.
    """
    relating = [name for name in full if full[name][0].memory is not None or _relates(*full[name], half[name][1])]
    if relating:
        raise ValueError(
            f"train.accumulate adds up microbatches, but the terms {relating} relate the examples of a batch (or keep "
            "a memory of it): on microbatches they would be other losses. Leave them out, or set accumulate to 1."
        )


def alone(name: str, term: Term, context: Mapping[str, Any]) -> Tried:
    """Returns (the term with paths into what it alone reads, the shapes of that)."""
    context, inputs = context_of(name, term, context), len(term.inputs)
    paths = paths_of(term)  # inputs apart from the rest, since the same value as both would hide what a loss does
    entries = {f"input{i}": path for i, path in enumerate(paths[:inputs])}
    others = {path: f"value{i}" for i, path in enumerate(dict.fromkeys(paths[inputs:]))}
    entries |= {entry: path for path, entry in others.items()}
    values = {entry: lookup(context, path) for entry, path in entries.items()}
    homes = {entry: _home(path, values[entry]) for entry, path in entries.items()}
    new = {path: f"{homes[entry]}.{entry}" for path, entry in others.items()}
    plain = dataclasses.replace(
        term,
        inputs=tuple(f"{homes[f'input{i}']}.input{i}" for i in range(inputs)),
        targets=tuple(new[path] for path in term.targets),
        options={k: new[path] for k, path in term.options.items()},
        where=term.where and new[term.where],
    )
    return plain, {home: {e: values[e] for e in values if homes[e] == home} for home in ("batch", "extra")}


def _home(path: str, value: PyTree) -> str:
    """Where a value is read: what has no rows of examples stays where a mask does not reach."""
    axes = max((len(x.shape) for x in jax.tree.leaves(value)), default=0)
    return "batch" if has_rows(path, axes) else "extra"


def _relates(term: Term, full: PyTree, half: PyTree) -> bool:
    rng = np.random.default_rng(0)

    def numbers(shape: jax.ShapeDtypeStruct) -> Any:
        if jnp.issubdtype(shape.dtype, jnp.floating):  # positive, since some losses take probabilities
            return jnp.asarray(rng.uniform(0.1, 1.0, shape.shape), shape.dtype)
        return jnp.asarray(rng.integers(0, 2, shape.shape), shape.dtype)

    kwargs = {k: v(jnp.int32(0)) if callable(v) else v for k, v in term.kwargs.items()}
    whole_context = jax.tree.map(numbers, full)
    fewer = jax.tree.map(lambda x, s: x[: s.shape[0]] if x.shape != s.shape else x, whole_context, half)
    one, other = (term_values("", term, context, kwargs)[0] for context in (whole_context, fewer))
    if one.shape[0] != ROWS or other.shape != (ROWS // 2, *one.shape[1:]):
        return True
    return not np.allclose(one[: ROWS // 2], other, rtol=1e-4, atol=1e-5, equal_nan=True)
