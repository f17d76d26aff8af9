"""Frozen networks in fewer bits: another float type, or int8 weights with one scale for each output channel."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from kd_jax.types import Array, PyTree

INT8 = "int8"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Int8:
    """codes * scale: codes int8 [..., out], scale float32 [1, ..., out], a channel's largest absolute value / 127."""

    codes: Array
    scale: Array


def check(dtype: str, field: str) -> None:
    try:
        known = dtype in ("", INT8) or jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except TypeError:
        known = False
    if not known:
        raise ValueError(f"{field} is a type such as 'bfloat16', or 'int8' for weights alone, not {dtype!r}.")


def stored(params: PyTree, dtype: str | None) -> PyTree:
    """The parameters as a frozen role keeps them: as they are, cast, or with every matrix and kernel as Int8.

    Biases, norms and what has one value an output channel stay float. Weights alone are rounded, and float again in
    every forward pass: a quarter of the memory, no calibration, not faster where the device multiplies floats.
    """
    if not dtype:
        return params
    if dtype != INT8:
        return jax.tree.map(lambda x: x.astype(dtype), params)

    def rounded(x: Array) -> Any:
        if not jnp.issubdtype(x.dtype, jnp.floating) or math.prod(x.shape[:-1]) < 2 or x.ndim < 2:
            return x
        largest = jnp.abs(x.astype(jnp.float32)).max(tuple(range(x.ndim - 1)), keepdims=True)
        scale = jnp.where(largest > 0, largest, 1.0) / 127
        return Int8(jnp.round(x / scale).astype(jnp.int8), scale)

    return jax.tree.map(rounded, params)


def restored(params: PyTree) -> PyTree:
    """The float parameters that a model takes."""
    return jax.tree.map(lambda x: x.codes * x.scale if _is_int8(x) else x, params, is_leaf=_is_int8)


def shardings(params: PyTree, of_kernels: Callable[[PyTree], PyTree], whole: Any) -> PyTree:
    """`of_kernels` of the parameters with codes in the place of kernels; scales are `whole` everywhere."""
    kernels = jax.tree.map(lambda x: x.codes if _is_int8(x) else x, params, is_leaf=_is_int8)
    return jax.tree.map(
        lambda x, s: Int8(s, whole) if _is_int8(x) else s, params, of_kernels(kernels), is_leaf=_is_int8
    )


def _is_int8(x: Any) -> bool:
    return isinstance(x, Int8)
