"""Deformable attention: a query reads a few points of every map, around its box, and not all cells."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.types import Array


class DeformableAttention(nn.Module):
    """Queries [batch, queries, width] read `points` places in each of the maps [batch, H, W, width], for every head.

    The places lie around the centre of the query's box (centre, size; shares of the picture) by learned shares of half
    its size, and are weighted by a softmax over all of its levels and points. Zhu, Su, Lu, Li, Wang, Dai, "Deformable
    DETR", 2020, arXiv 2010.04159.
    """

    heads: int
    points: int

    @nn.compact
    def __call__(self, queries: Array, maps: list[Array], boxes: Array) -> Array:
        batch, count, width = queries.shape
        shape = (batch, count, self.heads, len(maps), self.points)
        number = self.heads * len(maps) * self.points
        offsets = nn.Dense(2 * number, name="sampling_offsets")(queries).reshape(*shape, 2)
        weights = nn.Dense(number, name="attention_weights")(queries).reshape(batch, count, self.heads, -1)
        weights = jax.nn.softmax(weights, axis=-1).reshape(*shape, 1)
        centre, size = (x[:, :, None, None, None] for x in (boxes[..., :2], boxes[..., 2:]))
        places = centre + offsets / self.points * size * 0.5
        project, total = nn.Dense(width, name="value_proj"), jnp.zeros((batch, count, self.heads, width // self.heads))
        for level, x in enumerate(maps):
            values = project(x).reshape(*x.shape[:3], self.heads, -1)
            total = total + (sampled(values, places[:, :, :, level]) * weights[:, :, :, level]).sum(3)
        return nn.Dense(width, name="output_proj")(total.reshape(batch, count, width))


def sampled(values: Array, places: Array) -> Array:
    """Interpolates maps [batch, H, W, heads, features] linearly at places [batch, queries, heads, points, 2].

    A place is (x, y), 0 at the map's first edge and 1 at its last; beyond the cells' centres there is 0. Returns
    [batch, queries, heads, points, features].
    """
    batch, height, width, heads, features = values.shape
    _, queries, _, points, _ = places.shape
    flat = jnp.moveaxis(values, 3, 1).reshape(batch, heads, height * width, features)
    x, y = places[..., 0] * width - 0.5, places[..., 1] * height - 0.5
    total = jnp.zeros((batch, heads, queries * points, features))
    for column, row in ((a, b) for a in (jnp.floor(x), jnp.floor(x) + 1) for b in (jnp.floor(y), jnp.floor(y) + 1)):
        there = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        share = jnp.where(there, (1 - jnp.abs(x - column)) * (1 - jnp.abs(y - row)), 0)
        cell = jnp.clip(row, 0, height - 1) * width + jnp.clip(column, 0, width - 1)
        share, cell = (jnp.moveaxis(z, 2, 1).reshape(batch, heads, -1, 1) for z in (share, cell.astype(jnp.int32)))
        total = total + share * jnp.take_along_axis(flat, cell, axis=2)
    return jnp.moveaxis(total.reshape(batch, heads, queries, points, features), 1, 2)
