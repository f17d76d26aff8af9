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
    """The array codes * scale: codes int8 [..., out], scale float32 [1, ..., out] = a channel's max |x| / 127."""

    codes: Array
    scale: Array


def check_dtype(dtype: str, field: str) -> None:
    """Raises ValueError unless `dtype` is "", "int8" or a floating type; `field` is its place in the config."""
    try:
        valid = dtype in ("", INT8) or jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except TypeError:
        valid = False
    if not valid:
        raise ValueError(f"{field} is a type such as 'bfloat16', or 'int8' for weights alone, not {dtype!r}.")
    if dtype not in ("", INT8) and jax.dtypes.canonicalize_dtype(dtype) != jnp.dtype(dtype):
        raise ValueError(f"{field}={dtype!r} needs JAX_ENABLE_X64=1: without it JAX keeps float32 in its place.")


def stored(params: PyTree, dtype: str | None) -> PyTree:
    """Returns the parameters as a frozen role stores them: unchanged, cast, or with matrices and kernels as Int8.

    With int8, biases, norms and whatever has one value an output channel stay float. Only weights are rounded, and they
    are float again in every forward pass: a quarter of the memory, no calibration, no faster arithmetic.
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
    """Returns the float parameters that a model takes."""
    return jax.tree.map(lambda x: x.codes * x.scale if _is_int8(x) else x, params, is_leaf=_is_int8)


def shardings(params: PyTree, of_kernels: Callable[[PyTree], PyTree], whole: Any) -> PyTree:
    """Returns shardings: `of_kernels` of the parameters with codes in place of Int8s, and `whole` for scales."""
    kernels = jax.tree.map(lambda x: x.codes if _is_int8(x) else x, params, is_leaf=_is_int8)
    return jax.tree.map(
        lambda x, s: Int8(s, whole) if _is_int8(x) else s, params, of_kernels(kernels), is_leaf=_is_int8
    )


def _is_int8(x: Any) -> bool:
    return isinstance(x, Int8)
