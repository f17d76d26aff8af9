"""Layers that files hold as one, side by side: their parts put together, and taken apart again."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from kd_jax.types import PyTree

Layer = dict[str, Any]  # {path of a parameter in its layer: its value}
Joined = Mapping[str, Sequence[str]]  # {the layer that a file holds: its parts}, paths


def put_together(layer: Layer, joined: Joined, np: Any = jnp) -> Layer:
    """Returns the parameters of a layer with those of parts concatenated along their outputs, the last axis."""
    layer = dict(layer)
    for whole, parts in joined.items():
        kinds = [path.removeprefix(f"{parts[0]}/") for path in layer if path.startswith(f"{parts[0]}/")]
        for kind in kinds:
            layer[f"{whole}/{kind}"] = np.concatenate([layer.pop(f"{part}/{kind}") for part in parts], -1)
    return layer


def taken_apart(layer: Layer, joined: Joined, sizes: Mapping[str, int] | None = None) -> Layer:
    """Returns the inverse of `put_together`; `sizes` are the outputs of parts, all alike where there is none."""
    layer = dict(layer)
    for whole, parts in joined.items():
        kinds = [path.removeprefix(f"{whole}/") for path in layer if path.startswith(f"{whole}/")]
        for kind in kinds:
            value = layer.pop(f"{whole}/{kind}")
            ends = np.cumsum([sizes[part] for part in parts])[:-1] if sizes else len(parts)
            for part, values in zip(parts, np.split(value, ends, -1), strict=True):
                layer[f"{part}/{kind}"] = values
    return layer


EXPERTS = "mlp/experts"
# What gpt-oss holds with numbers in turn, even places of the one and odd ones of the other: {that: its parts}.
IN_TURN = {f"{EXPERTS}/gate_up{kind}": tuple(f"{EXPERTS}/{n}{kind}" for n in ("gate", "up")) for kind in ("", "_bias")}


def taken_in_turn(layer: Layer, np: Any = jnp) -> Layer:
    """Returns a layer with the numbers of gates and of what they multiply in turn along the last axis."""
    layer = dict(layer)
    for whole, parts in IN_TURN.items():
        values = np.stack([layer.pop(part) for part in parts], -1)
        layer[whole] = values.reshape(*values.shape[:-2], -1)
    return layer


def of_every_second(layer: Layer) -> Layer:
    """Returns the inverse of `taken_in_turn`."""
    layer = dict(layer)
    for whole, parts in IN_TURN.items():
        value = layer.pop(whole)
        layer |= {part: value[..., i :: len(parts)] for i, part in enumerate(parts)}
    return layer


def one_by_one(layer: Layer, experts: int) -> Layer:
    """Returns a layer whose experts, stacked along their first axis, are layers of their own, as files have them."""
    single = {}
    for path, value in layer.items():
        if path.startswith(f"{EXPERTS}/"):
            name = path.removeprefix(f"{EXPERTS}/")
            single |= {f"{EXPERTS}/{i}/{name}/kernel": value[i] for i in range(experts)}
        else:
            single[path] = value
    return single


def stacked(layer: Layer, experts: int) -> Layer:
    """Returns the inverse of `one_by_one`, on NumPy arrays."""
    layer = dict(layer)
    first = f"{EXPERTS}/0/"
    names = [path.removeprefix(first).removesuffix("/kernel") for path in layer if path.startswith(first)]
    for name in names:
        layer[f"{EXPERTS}/{name}"] = np.stack([layer.pop(f"{EXPERTS}/{i}/{name}/kernel") for i in range(experts)])
    return layer


def by_layer(params: PyTree, change: Callable[[Layer, Joined], Layer], joined: Joined) -> PyTree:
    """Returns parameters with those of every `layer` and a number changed."""
    if not joined:
        return params
    changed = {}
    for name, inside in params.items():
        if re.fullmatch(r"layer\d+", name):
            flat = change(traverse_util.flatten_dict(inside, sep="/"), joined)
            inside = traverse_util.unflatten_dict(flat, sep="/")
        changed[name] = inside
    return changed
