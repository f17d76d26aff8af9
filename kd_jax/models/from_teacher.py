"""A student that starts from its teacher: some of its layers, and its embeddings, projected where it is narrower."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from kd_jax.types import Array, Model, Variables


def layers(
    model: Model, key: Array, teacher: Variables, layers: Sequence[int] = (), prefix: str = "layer"
) -> Variables:
    """Returns a student whose layer i is layer `layers[i]` of the teacher; by default every n-th, from the first on.

    Every other parameter is the teacher's where it has the same path and shape. Embedding tables [rows, wide] become
    [rows, narrow] by the principal axes of the largest one (no mean is taken off), so that inner products of words
    change least. What is left is drawn from `key`. For config.student.initial; teacher and student are of one family,
    whose layers are called `prefix` and a number. ValueError for a layer that the teacher has not.
    Every second layer: Sanh et al., "DistilBERT", 2019, arXiv 1910.01108.
    """
    theirs: dict[str, Any] = traverse_util.flatten_dict(teacher[0], sep="/")
    params, stats = _drawn(model, key)
    ours: dict[str, Any] = traverse_util.flatten_dict(params, sep="/")
    depth, deep = (_depth(flat, prefix) for flat in (ours, theirs))
    layers = tuple(layers) or tuple(i * deep // max(depth, 1) for i in range(depth))
    if len(layers) != depth or not all(0 <= i < deep for i in layers):
        raise ValueError(
            f"layers={tuple(layers)}: the student needs {depth} of the teacher's {deep}, numbers from 0 to {deep - 1}."
        )
    axes: dict[tuple[int, int], Array] = {}
    result = {}
    for path, value in sorted(ours.items(), key=lambda item: -item[1].size):  # the largest table gives the axes
        match = re.match(rf"{prefix}(\d+)/", path)
        origin = f"{prefix}{layers[int(match[1])]}/{path[match.end() :]}" if match else path
        old = theirs.get(origin)
        if old is not None and old.shape == value.shape:
            value = jnp.array(old, value.dtype)  # a copy: the teacher's buffers are donated with a state
        elif old is not None and path.endswith("/embedding") and old.shape[0] == value.shape[0]:
            sizes = (old.shape[1], value.shape[1])
            if sizes not in axes:
                axes[sizes] = principal_axes(old, sizes[1])
            value = (jnp.asarray(old, jnp.float32) @ axes[sizes]).astype(value.dtype)
        result[path] = value
    return traverse_util.unflatten_dict(result, sep="/"), stats


def principal_axes(rows: Array, width: int) -> Array:
    """Returns [wide, width]: the orthonormal axes that keep most of the sum of squares of rows [n, wide].

    The largest comes first. ValueError where `width` is larger than `wide`.
    """
    if width > rows.shape[1]:
        raise ValueError(f"{rows.shape[1]} columns have no {width} axes: a student is narrower than its teacher.")
    rows = jnp.asarray(rows, jnp.float32)
    _, vectors = jnp.linalg.eigh(rows.T @ rows)
    return vectors[:, ::-1][:, :width]


def _drawn(model: Model, key: Array) -> Variables:
    tokens = jnp.zeros((1, 2), jnp.int32)
    return jax.jit(model.init)(key, tokens)


def _depth(flat: dict[str, Array], prefix: str) -> int:
    return 1 + max((int(m[1]) for m in (re.match(rf"{prefix}(\d+)/", path) for path in flat) if m), default=-1)
