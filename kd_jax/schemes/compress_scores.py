"""How much each unit of a network matters: by its parameters, by what passes it, or by what the loss would lose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.compress.plan import Scores, Smaller
from kd_jax.compress.units import Gated, magnitudes, ones
from kd_jax.core.paths import Path, lookup
from kd_jax.core.terms import calls_of, options_of, paths_of, taps_of, term_value
from kd_jax.data.batches import eval_batches
from kd_jax.data.source import subset
from kd_jax.schemes.compress_calibration import calibrated
from kd_jax.system import precision
from kd_jax.system.parallel import batch_sharding, on_host
from kd_jax.types import Array, Model, Parts, PyTree, Term, TrainState

EXAMPLES, BATCH = 1024, 64  # of the training split, without augmentation; the squares of Taylor scores are of a batch


def usable(parts: Parts) -> dict[str, Term]:
    """Returns the terms whose loss the Taylor score is of: those that need nothing beside the networks and the batch.

    Raises ValueError where there is none.
    """
    frozen = {name for name, role in parts.roles.items() if role.group is None}
    terms = {
        name: term
        for name, term in parts.terms.items()
        if term.connector is None
        and term.memory is None
        and calls_of([term]) <= {"student", *frozen}
        and all(Path.parse(p).kind in ("batch", "logits", "features", "step") for p in paths_of(term))
    }
    if not terms:
        raise ValueError(
            f"score='taylor' is of a loss, and each of the terms {sorted(parts.terms)} has a connector, a memory or "
            "another input than the student, teachers and the batch: score='magnitude' or 'activation'."
        )
    return terms


def unit_scores(
    parts: Parts,
    inputs: tuple[str, ...],
    model: Model,
    smaller: Smaller,
    params: PyTree,
    stats: PyTree,
    state: TrainState,
) -> Scores:
    """Returns {name: [count]} of the units of a step, for a network `model` that reads the batch paths `inputs`.

    "magnitude" is of the parameters alone (kd_jax/compress/units.py). The others are of 1024 training examples in
    batches of 64: "activation", the mean absolute value that passes a unit; "taylor", the mean over batches of
    (dL / d gate)^2 with L the loss of the terms, which is (sum of gradient times value)^2: Molchanov et al.,
    "Importance Estimation for Neural Network Pruning", 2019, arXiv 1906.10771, equation 8, where the sum is over an
    example and here over a batch.
    """
    if smaller.scorer is not None:
        return calibrated(parts, inputs, smaller.scorer, params, stats)
    if not smaller.units:
        return {}
    if smaller.score == "magnitude":
        return {unit.name: magnitudes(params, unit) for unit in smaller.units}
    measure = jax.jit(_measure(parts, inputs, Gated(model, smaller.units), smaller))
    mesh = jax.sharding.get_mesh()
    size = mesh.size * -(-BATCH // mesh.size)
    source = parts.sources["train"]
    count = min(len(source), EXAMPLES)
    rows = np.sort(np.random.default_rng(0).permutation(len(source))[: max(count // size, 1) * size])
    frozen = {name: (precision.restored(p), s) for name, (p, s) in state.frozen.items()}
    total: dict[str, Any] = {}
    for batch in eval_batches(subset(source, rows), batch_size=size, sharding=batch_sharding(mesh)):
        values = on_host(measure(params, stats, frozen, batch))
        for name, value in values.items():
            total[name] = total.get(name, 0.0) + np.asarray(value, np.float64)
    return total


def _measure(parts: Parts, inputs: tuple[str, ...], model: Gated, smaller: Smaller) -> Any:
    """(params, stats, frozen, batch) -> {name: [count]} of a batch."""
    taylor = smaller.score == "taylor"
    terms = usable(parts) if taylor else {}
    named = calls_of(terms.values())
    teachers = {n: role for n, role in parts.roles.items() if role.group is None and n in named}

    def measure(params: PyTree, stats: PyTree, frozen: Mapping[str, Any], batch: Mapping[str, Array]) -> Any:
        key = jax.random.key(0)
        prepared = parts.prepare({k: v for k, v in batch.items() if k != "mask"}, key, False)
        context: dict[str, Any] = {"batch": prepared, "step": jnp.int32(0)}
        for name, role in teachers.items():
            read = (lookup(context, path) for path in role.inputs)
            context[name] = role.model.apply(*frozen[name], *read, train=False, key=key, taps=taps_of(terms, name))[0]

        def loss(gates: Mapping[str, Array]) -> tuple[Array, Any]:
            read = (lookup(context, path) for path in inputs)
            outputs = model.apply(params, stats, *read, gates, train=False, key=key, taps=taps_of(terms, "student"))[0]
            total = jnp.float32(0)
            for name, term in terms.items():
                weight, kwargs = options_of(term, {"kwargs": {}}, jnp.int32(0))
                value, count, _ = term_value(name, term, {**context, "student": outputs}, kwargs)
                total += weight * value / jnp.maximum(count, 1)
            return total, outputs.features["gated"]

        if not taylor:
            return loss(ones(smaller.units))[1]
        gradients = jax.grad(loss, has_aux=True)(ones(smaller.units))[0]
        return {name: value**2 for name, value in gradients.items()}

    return measure
