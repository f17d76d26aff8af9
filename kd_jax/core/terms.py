"""How a Term becomes a number: the stop-gradient rule, schedules, masked reduction.

The one gradient rule: a term's inputs are differentiated, everything else is stopped.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from kd_jax.core.paths import Context, calls_in, lookup, taps_in
from kd_jax.types import Array, Schedule, Stage, Term


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
    is not among them, except for the number that a Scheduled multiplies by. They are float32, float64 where JAX is told
    to use it.
    """
    hyper: dict[str, dict[str, Any]] = {}
    for phase in stage.phases:
        group = hyper.setdefault(phase.group, {"learning_rate_scale": jnp.float32(1.0), "terms": {}})
        for name, term in phase.terms.items():
            kwargs = {k: jnp.asarray(v, float) for k, v in term.kwargs.items() if isinstance(v, float)}
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


def takes_where(fn: Callable) -> bool:
    try:
        return "where" in inspect.signature(fn).parameters
    except (TypeError, ValueError):
        return False


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
    inputs: tuple[Any, ...] = tuple(lookup(context, p) for p in term.inputs)
    targets = tuple(jax.lax.stop_gradient(lookup(context, p)) for p in term.targets)
    options = {k: jax.lax.stop_gradient(lookup(context, p)) for k, p in term.options.items()}
    where = jax.lax.stop_gradient(lookup(context, term.where)) if term.where else None
    if where is not None and takes_where(term.fn):
        options["where"] = where
    try:
        values = term.fn(*inputs, *targets, **kwargs, **options)
    except (TypeError, ValueError) as e:
        shapes = {
            p: jax.tree.map(jnp.shape, v) for p, v in zip(term.inputs + term.targets, inputs + targets, strict=True)
        }
        raise ValueError(f"Term {name!r} ({getattr(term.fn, '__name__', term.fn)}) failed on {shapes}: {e}") from e
    if values.ndim == 0:
        raise ValueError(f"Term {name!r}: a loss returns one value an example, {term.fn} returned a scalar.")
    return values, where, inputs
