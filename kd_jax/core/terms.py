"""How a Term becomes a number: the stop-gradient rule, schedules, masked reduction.

The one gradient rule: a term's inputs are differentiated, everything else is stopped, and masked rows of both are
cleared before the loss sees them.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.core.paths import STORES, Context, Path, calls_in, lookup, taps_in
from kd_jax.losses.needs import static_options_of
from kd_jax.types import Array, Schedule, Stage, Term

UNTRACED = (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError)  # pages about tracing


def paths_of(term: Term) -> tuple[str, ...]:
    """Returns every path that the term reads."""
    return (*term.inputs, *term.targets, *term.options.values(), *([term.where] if term.where else []))


def calls_of(terms: Iterable[Term]) -> set[str]:
    """Returns the calls whose outputs the terms read."""
    return calls_in(path for term in terms for path in paths_of(term))


def taps_of(terms: Mapping[str, Term], call: str) -> tuple[str, ...]:
    """Returns the taps of the network called `call` that the terms name."""
    return taps_in(call, (p for t in terms.values() for p in paths_of(t)))


@dataclasses.dataclass(frozen=True)
class Scheduled:
    """weight * shape(step), the weight still a traced hyper-parameter."""

    weight: float
    shape: Schedule

    def __call__(self, step: Array) -> Array | float:
        return self.weight * self.shape(step)


def hyper_of(stage: Stage) -> dict[str, dict[str, Any]]:
    """Returns the numeric hyper-parameters of a stage as arrays: a step traces them, so changing one never recompiles.

    They are {group: {"learning_rate_scale": 1, "terms": {term: {"weight": w, "kwargs": {option: value}}}}}. A schedule
    is not among them, except for the number that a Scheduled multiplies by, nor is what a loss says is static. They are
    float32, float64 where JAX is told to use it.
    """
    hyper: dict[str, dict[str, Any]] = {}
    for phase in stage.phases:
        group = hyper.setdefault(phase.group, {"learning_rate_scale": jnp.float32(1.0), "terms": {}})
        for name, term in phase.terms.items():
            numbers = {k: v for k, v in term.kwargs.items() if isinstance(v, float)}
            kwargs = {k: jnp.asarray(v, float) for k, v in numbers.items() if k not in static_options_of(term.fn)}
            number = term.weight.weight if isinstance(term.weight, Scheduled) else term.weight
            weight = {"weight": jnp.asarray(number, float)} if not callable(number) else {}
            group["terms"][name] = {**weight, "kwargs": kwargs}
    return hyper


def options_of(term: Term, hyper: Mapping[str, Any], step: Array) -> tuple[Any, dict[str, Any]]:
    """Returns (weight, kwargs) of this step: traced leaves where there are some, schedules evaluated, else as it is."""

    def now(value: Any) -> Any:
        return value(step) if callable(value) else value

    weight = hyper.get("weight", term.weight)
    if isinstance(term.weight, Scheduled) and "weight" in hyper:
        weight = weight * term.weight.shape(step)
    return now(weight), {k: now(v) for k, v in {**term.kwargs, **hyper["kwargs"]}.items()}


def context_of(name: str, term: Term, context: Context) -> Context:
    """Returns the context as this term sees it: with what the term keeps from step to step as `memory`."""
    remembers = term.memory is not None and name in context.get("extra", {})
    return {**context, "memory": context["extra"][name]} if remembers else context


def masked_sum_and_count(values: Array, mask: Array | None) -> tuple[Array, Array]:
    """Computes (sum of mask * values, sum of mask) over the global batch.

    A mask of fewer axes applies to all values of its entry (example, token). Masked values are selected away, not
    multiplied by 0, so a NaN in padding cannot enter. Raises ValueError where the leading axes differ.
    """
    values = values.astype(jnp.promote_types(values.dtype, jnp.float32))
    if mask is None:
        return values.sum(), jnp.asarray(float(values.size), values.dtype)
    if mask.shape != values.shape[: mask.ndim]:
        raise ValueError(f"The mask has shape {mask.shape}, the loss returned {values.shape}: leading axes must agree.")
    mask = jnp.broadcast_to(mask.reshape(mask.shape + (1,) * (values.ndim - mask.ndim)), values.shape)
    return jnp.where(mask != 0, values * mask, 0.0).sum(), mask.sum(dtype=values.dtype)


def plain_function(fn: Any) -> Any:
    """Returns the function that partials with options are made of."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return fn


def name_of(fn: Any) -> str:
    """Returns what messages call a function."""
    fn = plain_function(fn)
    return getattr(fn, "__name__", None) or str(fn)


def takes_where(fn: Callable) -> bool:
    try:
        return "where" in inspect.signature(fn).parameters
    except (TypeError, ValueError):
        return False


def has_rows(path: str, axes: int, mask: str = "") -> bool:
    """Returns whether what `path` leads to, of so many axes, can have a row for each example that `mask` leads to.

    Stores have none, but for the store that the mask is from. What a connector returns beside its examples has one axis
    (a scale for each channel).
    """
    at, of_mask = Path.parse(path), Path.parse(mask)
    if at.kind in STORES:
        return at.kind == "batch" or (at.kind, at.owner) == (of_mask.kind, of_mask.owner)
    return axes > 1 or not (at.connected and at.rest)


def cleared(value: Any, path: str, where: Array, mask: str) -> Any:
    """Returns the value at `path` with its masked rows at 1 and without a gradient, whatever they held (NaN too).

    Rows are those of float arrays whose first axes are those of the mask. 1 and not 0: a length, a logarithm or a
    quotient of it is finite.
    """

    def clear(x: Any) -> Any:
        axes = jnp.ndim(x)
        if jnp.shape(x)[: where.ndim] != where.shape or not has_rows(path, axes, mask):
            return x
        if not jnp.issubdtype(jnp.result_type(x), jnp.inexact):
            return x
        return jnp.where((where != 0).reshape(where.shape + (1,) * (axes - where.ndim)), x, 1)

    return jax.tree.map(clear, value)


def term_value(
    name: str, term: Term, context: Context, kwargs: Mapping[str, Any]
) -> tuple[Array, Array, tuple[Any, ...]]:
    """Returns (sum, count, inputs of the loss) over the batch, without the weight."""
    values, where, inputs = term_values(name, term, context, kwargs)
    return (*masked_sum_and_count(values, where), inputs)


def term_values(
    name: str, term: Term, context: Context, kwargs: Mapping[str, Any]
) -> tuple[Array, Array | None, tuple[Any, ...]]:
    """Returns (what the loss returns, the mask, its inputs); `bind` has put connectors before the inputs."""
    context = context_of(name, term, context)
    where = jax.lax.stop_gradient(lookup(context, term.where)) if term.where else None
    inputs: tuple[Any, ...] = tuple(lookup(context, p) for p in term.inputs)

    def read(path: str) -> Any:
        value = lookup(context, path)
        return value if where is None else cleared(value, path, where, term.where)

    real = tuple(map(read, term.inputs))
    targets = tuple(jax.lax.stop_gradient(read(p)) for p in term.targets)
    options = {k: jax.lax.stop_gradient(read(p)) for k, p in term.options.items()}
    if where is not None and takes_where(term.fn):
        options["where"] = where
    try:
        values = term.fn(*real, *targets, **kwargs, **options)
    except (TypeError, ValueError) as e:
        shapes = {
            p: jax.tree.map(jnp.shape, v) for p, v in zip(term.inputs + term.targets, inputs + targets, strict=True)
        }
        why = str(e)
        if isinstance(e, UNTRACED):
            why = f"{why.splitlines()[0]} A loss is compiled: jnp.where in place of `if`, jnp of np, and no float()."
        raise ValueError(f"Term {name!r} ({name_of(term.fn)}) failed on {shapes}: {why}") from e
    if not isinstance(values, (jax.Array, np.ndarray)) or values.ndim == 0:
        what = "a scalar" if isinstance(values, (jax.Array, np.ndarray, float, int)) else type(values).__name__
        raise ValueError(f"Term {name!r}: a loss returns one value an example, {name_of(term.fn)} returned {what}.")
    return values, where, inputs
