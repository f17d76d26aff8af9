"""Units that are cut together: channels that a skip connection joins, heads of attention, units of an FFN, layers.

A unit is taken out in two ways that agree: a gate of 0 where its values pass (`Gated`: the shapes stay), or its slices
of every array (`sliced`: plain smaller arrays).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from kd_jax.models.intercept import Layer, first_input, intercepted
from kd_jax.types import Array, Model, Outputs, PyTree


class Cut(NamedTuple):
    """Where units lie in an array: along `axis`, unit i is `width` entries from i * width on.

    The axis holds all of them `repeats` times, one run after the other (query, key, value in one kernel; positions of
    a picture before a dense layer). `path` begins with "params/" or "stats/".
    """

    path: str
    axis: int
    width: int = 1
    repeats: int = 1


class Gate(NamedTuple):
    """Where a unit's values pass: the last axis of what the module at `path` returns (`side` "output"), or of what it
    reads first ("input"), cut up as by Cut. With `unit`, all of that value belongs to this one unit: a layer."""

    path: str
    side: str = "output"
    width: int = 1
    repeats: int = 1
    unit: int | None = None


class Units(NamedTuple):
    """`count` units under one name, with every array that has slices of them and every place where they pass."""

    name: str
    count: int
    cuts: tuple[Cut, ...] = ()
    gates: tuple[Gate, ...] = ()


def count_left(name: str, count: int, share: float, multiple: int = 1) -> int:
    """Returns how many of `count` units stay when the `share` of them goes: whole ones, of a `multiple`, at least one.

    Raises ValueError for a share that is not in [0, 1), or leaves none.
    """
    if not 0 <= share < 1:
        raise ValueError(f"{name}: a share of {share} cannot be pruned; it is at least 0 and below 1.")
    remaining = round(count * (1 - share) / multiple) * multiple
    if remaining < 1:
        raise ValueError(f"{name} has {count} units: pruning {100 * share:g} % of them leaves none.")
    return remaining


def strongest(scores: np.ndarray, count: int) -> np.ndarray:
    """Returns the positions of the `count` highest scores, in ascending order; of equal scores the first ones stay."""
    return np.sort(np.argsort(-np.asarray(scores, np.float64), kind="stable")[:count])


def entries(remaining: np.ndarray, count: int, width: int, repeats: int) -> np.ndarray:
    """Returns the entries of an axis of repeats * count * width that belong to the units `remaining`."""
    return np.arange(repeats * count * width).reshape(repeats, count, width)[:, remaining].reshape(-1)


def sliced(params: PyTree, stats: PyTree, units: Sequence[Units], remaining: Mapping[str, np.ndarray]) -> tuple:
    """Returns (params, stats) with only the units `remaining` {name: positions}; what no unit names stays as it is.

    Raises ValueError where an axis has another length than its units say.
    """
    flat: dict[str, Any] = traverse_util.flatten_dict(
        {"params": params, "stats": stats}, sep="/", keep_empty_nodes=True
    )
    for unit in (u for u in units if u.name in remaining):
        for cut in unit.cuts:
            value, length = flat[cut.path], cut.repeats * unit.count * cut.width
            if value.shape[cut.axis] != length:
                raise ValueError(f"{cut.path} is {value.shape}: axis {cut.axis} has not the {length} of {unit.name}.")
            rows = entries(remaining[unit.name], unit.count, cut.width, cut.repeats)
            flat[cut.path] = jnp.take(value, rows, axis=cut.axis)
    tree = traverse_util.unflatten_dict(flat, sep="/")
    return tree["params"], tree.get("stats", {})


def magnitudes(params: PyTree, units: Units) -> np.ndarray:
    """Returns [count]: the L2 norm of all parameters that belong to each unit, as (sum of squares) ** 0.5.

    Li et al., "Pruning Filters for Efficient ConvNets", 2016, arXiv 1608.08710, who take the L1 norm of one filter;
    the sum over a group that is cut together: Fang et al., "DepGraph", 2023, arXiv 2301.12900.
    """
    flat: dict[str, Any] = traverse_util.flatten_dict({"params": params}, sep="/")
    total = np.zeros(units.count)
    for cut in units.cuts:
        if cut.path.startswith("params/"):
            value = np.moveaxis(np.asarray(flat[cut.path], np.float64), cut.axis, 0)
            squares = (value**2).reshape(cut.repeats, units.count, cut.width, -1)
            total += squares.sum((0, 2, 3))
    return np.sqrt(total)


@dataclasses.dataclass(frozen=True, eq=False)
class Gated:
    """`model` whose last input is {name of units: [count]}: each unit's values are multiplied by its gate.

    Gates of 1 change nothing, 0 takes a unit out, and the gradient for a gate is the first-order change of the loss
    when the unit goes (the Taylor score). The feature "gated" of its Outputs is {name: [count]}, the mean absolute
    value that passed a unit's gates (the activation score). ValueError where a gate's module does not run, or has
    another width.
    """

    model: Model
    units: tuple[Units, ...]

    def init(self, key: Array, *inputs: PyTree) -> tuple[PyTree, PyTree]:
        return self.model.init(key, *inputs[:-1])

    def apply(
        self, params: PyTree, stats: PyTree, *inputs: PyTree, train: bool, key: Array, taps: tuple[str, ...] = ()
    ) -> tuple[Outputs, PyTree]:
        inputs, gates = inputs[:-1], inputs[-1]
        places: dict[str, list[tuple[Units, Gate]]] = {}
        for unit in self.units:
            for gate in unit.gates:
                places.setdefault(gate.path, []).append((unit, gate))
        passed = {unit.name: jnp.zeros(unit.count) for unit in self.units}
        met = set()

        def intercept(layer: Layer, /, *args: Any, **kwargs: Any) -> Any:
            here = places.get(layer.path, [])
            met.update([layer.path] if here else [])
            for unit, gate in (pair for pair in here if pair[1].side == "input"):
                value = first_input(layer, args)
                passed[unit.name] += _passing(value, unit, gate)
                args = (_times(value, unit, gate, gates[unit.name]), *args[1:])
            result = layer.call(*args, **kwargs)
            for unit, gate in (pair for pair in here if pair[1].side == "output"):
                passed[unit.name] += _passing(result, unit, gate)
                result = _times(result, unit, gate, gates[unit.name])
            return result

        with intercepted(intercept):
            outputs, stats = self.model.apply(params, stats, *inputs, train=train, key=key, taps=taps)
        if missing := sorted({*places} - met):
            raise ValueError(f"The units pass through {missing}, which did not run.")
        features: dict[str, Any] = {**outputs.features, "gated": passed}
        return Outputs(outputs.logits, features), stats


def ones(units: Sequence[Units]) -> dict[str, Array]:
    """Returns the gates that change nothing."""
    return {unit.name: jnp.ones(unit.count) for unit in units}


def masks(units: Sequence[Units], remaining: Mapping[str, np.ndarray]) -> dict[str, Array]:
    """Returns the gates that take all units out but those `remaining` {name: positions}."""
    return {
        u.name: jnp.zeros(u.count).at[remaining[u.name]].set(1.0) if u.name in remaining else jnp.ones(u.count)
        for u in units
    }


def _parts(value: Array, unit: Units, gate: Gate) -> Array:
    """The value as [..., repeats, count, width]."""
    if value.shape[-1] != gate.repeats * unit.count * gate.width:
        raise ValueError(f"{gate.path} passes {value.shape[-1]} values, not the {unit.count} units of {unit.name}.")
    return value.reshape(*value.shape[:-1], gate.repeats, unit.count, gate.width)


def _times(value: Array, unit: Units, gate: Gate, gates: Array) -> Array:
    if gate.unit is not None:
        return value * gates[gate.unit].astype(value.dtype)
    parts = _parts(value, unit, gate)
    return (parts * gates.astype(value.dtype).reshape((1,) * (parts.ndim - 2) + (-1, 1))).reshape(value.shape)


def _passing(value: Array, unit: Units, gate: Gate) -> Array:
    value = jnp.abs(jax.lax.stop_gradient(value).astype(jnp.float32))
    if gate.unit is not None:
        return jnp.zeros(unit.count).at[gate.unit].set(value.mean())
    parts = _parts(value, unit, gate)
    return parts.mean((*range(parts.ndim - 2), parts.ndim - 1))
