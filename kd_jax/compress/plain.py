"""A network without the wrappers of a chain, where plain arrays say the same: what files of other formats can hold."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import traverse_util

from kd_jax.compress.lowrank import FACTORS, LowRank
from kd_jax.compress.rounding import Rounded
from kd_jax.models.quantised import FLOAT, rounded_params
from kd_jax.types import Model, PyTree


def network_in(model: Model) -> Model:
    """Returns the model inside wrappers that plain arrays can stand for: rounded weights, low-rank factors."""
    while isinstance(model, LowRank) or (isinstance(model, Rounded) and model.activations >= FLOAT):
        model = model.model
    return model


def unrounded(model: Model, params: PyTree) -> tuple[Model, PyTree]:
    """Returns (model, params) that answer as a Rounded network does, whose weights are the rounded ones as floats.

    What rounds its activations too stays as it is, and so does any other network.
    """
    if not isinstance(model, Rounded) or model.activations < FLOAT:
        return model, params
    if model.bits >= FLOAT:  # it was read from a packed file
        return model.model, params
    return model.model, rounded_params(params, jnp.float32(model.bits), model.pattern, model.keep)


def multiplied(model: Model, params: PyTree) -> tuple[Model, PyTree]:
    """Returns (model, params) that answer as a LowRank network does, with the products of its factors; others as is."""
    if not isinstance(model, LowRank):
        return model, params
    flat: dict[str, Any] = dict(traverse_util.flatten_dict(params, sep="/"))
    for path in model.ranks:
        down, up = (flat.pop(f"{path}/{name}") for name in FACTORS)
        flat[f"{path}/kernel"] = jnp.einsum("...r,ro->...o", down, up)
    return model.model, traverse_util.unflatten_dict(flat, sep="/")
