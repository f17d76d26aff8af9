"""Axes of the mesh of jax.set_mesh by which networks lay out what they compute."""

from __future__ import annotations

import math

import jax

BATCH_AXES, MODEL_AXIS = ("data", "fsdp"), "model"


def row_axes(rows: int) -> tuple[str, ...]:
    """Returns the axes that share `rows` of a batch: () where they do not divide them, none that a shard_map took."""
    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(a for a in BATCH_AXES if mesh.shape.get(a, 1) > 1 and a not in mesh.manual_axes)
    return () if rows % math.prod(mesh.shape[a] for a in axes) else axes
