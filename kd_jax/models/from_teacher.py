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
    change least. What is left is drawn from `key`, and the numbers are printed. For config.student.initial; teacher and
    student are of one family, whose layers are called `prefix` and a number, or stacked in one module called
    `prefix`s (scan=True), each as it is. ValueError for a layer that the teacher has not, where a network has no such
    layers, and where no parameter of the layers fits.
    Every second layer: Sanh et al., "DistilBERT", 2019, arXiv 1910.01108.
    """
    theirs: dict[str, Any] = _unstacked(traverse_util.flatten_dict(teacher[0], sep="/"), prefix)
    params, stats = _drawn(model, key)
    stacked: dict[str, Any] = traverse_util.flatten_dict(params, sep="/")
    ours = _unstacked(stacked, prefix)
    depth, deep = (_depth(flat, prefix) for flat in (ours, theirs))
    if not depth or not deep:
        who = "student" if deep else "teacher"
        heads = sorted({path.split("/")[0] for path in (ours if deep else theirs)})
        raise ValueError(f"the {who} has no layers called {prefix}0, {prefix}1, ... or {prefix}s: it has {heads}.")
    layers = tuple(layers) or every_nth(deep, depth)
    if len(layers) != depth or not all(0 <= i < deep for i in layers):
        raise ValueError(
            f"layers={tuple(layers)}: the student needs {depth} of the teacher's {deep}, numbers from 0 to {deep - 1}."
        )
    axes: dict[tuple[int, int], Array] = {}
    result, copied, projected = {}, set(), set()
    for path, value in sorted(ours.items(), key=lambda item: -item[1].size):  # the largest table gives the axes
        match = re.match(rf"{prefix}(\d+)/", path)
        origin = f"{prefix}{layers[int(match[1])]}/{path[match.end() :]}" if match else path
        old = theirs.get(origin)
        if old is not None and old.shape == value.shape:
            value = jnp.array(old, value.dtype)  # a copy: the teacher's buffers are donated with a state
            copied.add(path)
        elif old is not None and path.endswith("/embedding") and old.shape[0] == value.shape[0]:
            sizes = (old.shape[1], value.shape[1])
            if sizes not in axes:
                axes[sizes] = principal_axes(old, sizes[1])
            value = (jnp.asarray(old, jnp.float32) @ axes[sizes]).astype(value.dtype)
            projected.add(path)
        result[path] = value
    _tell(ours, copied, projected, prefix, layers)
    result = {path: result[path] if path in result else _stack(result, path, prefix, depth) for path in stacked}
    return traverse_util.unflatten_dict(result, sep="/"), stats


def every_nth(deep: int, depth: int) -> tuple[int, ...]:
    """Returns the numbers of `depth` layers of `deep`, the first among them, as far apart as whole numbers allow."""
    return tuple(i * deep // depth for i in range(depth))


def _tell(ours: dict[str, Any], copied: set[str], projected: set[str], prefix: str, layers: Sequence[int]) -> None:
    """Prints how many parameters are the teacher's; ValueError where none of the layers is, nor anything projected."""
    of_layers = [path for path in ours if re.match(rf"{prefix}\d+/", path)]
    if not copied & {*of_layers} and not projected:
        raise ValueError(
            f"of the teacher's layers {tuple(layers)} no parameter has the shape of the student's ({len(of_layers)} of "
            "them): copied layers need the teacher's width."
        )
    if not any(isinstance(x, jax.core.Tracer) for x in ours.values()):  # shapes alone are asked for before
        rest = len(ours) - len(copied) - len(projected)
        print(
            f"student: of {len(ours)} arrays {len(copied)} are the teacher's (layers {tuple(layers)}), "
            f"{len(projected)} are projected, {rest} are drawn at random"
        )


def _unstacked(flat: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The parameters with those of layers that a scan has stacked along axis 0 as layers of their own."""
    single = {}
    for path, value in flat.items():
        if path.startswith(f"{prefix}s/"):
            single |= {f"{prefix}{i}/{path.partition('/')[2]}": value[i] for i in range(value.shape[0])}
        else:
            single[path] = value
    return single


def _stack(single: dict[str, Any], path: str, prefix: str, depth: int) -> Array:
    return jnp.stack([single[f"{prefix}{i}/{path.partition('/')[2]}"] for i in range(depth)])


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
