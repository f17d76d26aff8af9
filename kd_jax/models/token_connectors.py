"""Connectors between the tokens of a transformer [batch, tokens, channels] and the maps of a convolutional network.

Builders as those of kd_jax/models/connectors.py. Tokens lie in rows, as patches are cut out of a picture, behind
`leading` tokens of no place: the class token, DeiT's distillation token, registers.
"""

from __future__ import annotations

import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.models.adapters import LinenModel
from kd_jax.models.connectors import dense, resize_map
from kd_jax.types import Array, Model

Shape = jax.ShapeDtypeStruct
KEEP = ("drop", "class", "mean")


def tokens_to_map(
    student: Shape, teacher: Shape, *, leading: int | None = None, grid: tuple[int, int] | None = None
) -> Model:
    """Connects tokens [B, T, Ds] with a map [B, H, W, Dt]: laid out on their grid, projected, resized to H x W.

    The `leading` tokens are dropped; None drops as few as leave a square. `grid` are the rows and columns of a picture
    that is not square. ValueError unless the student's are tokens that fill the grid and the teacher's a map.
    """
    if student.ndim != 3 or teacher.ndim != 4:
        raise ValueError(
            f"tokens_to_map connects tokens [B, T, D] with a map [B, H, W, D], got {_pair(student, teacher)}"
        )
    first, rows = layout(student.shape[1], leading, grid)
    return LinenModel(Aligned(teacher.shape[-1], first, rows, teacher.shape[1:3]))


def map_to_tokens(
    student: Shape,
    teacher: Shape,
    *,
    leading: int | None = None,
    grid: tuple[int, int] | None = None,
    keep: Literal["drop", "class", "mean"] = "mean",
) -> Model:
    """Connects a map [B, H, W, Ds] with tokens [B, T, Dt]: resized to their grid, projected, in rows.

    What stands for the teacher's `leading` tokens (None: as few as leave a square), so that both have T of them: their
    own projections of the map's mean with keep="mean". keep="class" gives the first of them alone, [B, 1, Dt], and
    keep="drop" none: [B, T - leading, Dt]. The target then has to be the teacher's tokens without them, which
    `losses` compare only where shapes agree: take "drop" where the teacher's tap has no such tokens.
    ValueError unless the student's is a map and the teacher's are tokens that fill the grid.
    """
    if student.ndim != 4 or teacher.ndim != 3:
        raise ValueError(
            f"map_to_tokens connects a map [B, H, W, D] with tokens [B, T, D], got {_pair(student, teacher)}"
        )
    if keep not in KEEP:
        raise ValueError(f"map_to_tokens: keep is one of {', '.join(KEEP)}, not {keep!r}.")
    first, rows = layout(teacher.shape[1], leading, grid)
    return LinenModel(Rows(teacher.shape[-1], first, rows, keep))


def tokens_to_tokens(
    student: Shape,
    teacher: Shape,
    *,
    leading: tuple[int, int] | None = None,
    grids: tuple[tuple[int, int], tuple[int, int]] | None = None,
) -> Model:
    """Connects tokens [B, Ts, Ds] with tokens [B, Tt, Dt] of another grid, width, or number of leading tokens.

    `leading` and `grids` are those of student and teacher. The student's first leading tokens stand for the teacher's,
    projected by themselves; where it has fewer, the mean of its patches does. ValueError unless both are tokens.
    """
    if student.ndim != 3 or teacher.ndim != 3:
        raise ValueError(f"tokens_to_tokens connects tokens [B, T, D] with others, got {_pair(student, teacher)}")
    (first, rows), (wanted, target) = (
        layout(x.shape[1], leading[i] if leading else None, grids[i] if grids else None)
        for i, x in enumerate((student, teacher))
    )
    return LinenModel(Regridded(teacher.shape[-1], first, rows, wanted, target))


def layout(tokens: int, leading: int | None, grid: tuple[int, int] | None) -> tuple[int, tuple[int, int]]:
    """Returns (the leading tokens, the rows and columns of the others); ValueError where they do not fill a grid."""
    if grid is not None:
        first = tokens - math.prod(grid) if leading is None else leading
    else:
        side = math.isqrt(tokens if leading is None else max(tokens - leading, 0))
        grid, first = (side, side), tokens - side * side if leading is None else leading
    if first < 0 or math.prod(grid) < 1 or first + math.prod(grid) != tokens:
        what = "as few as leave a square" if leading is None else str(leading)
        raise ValueError(f"{tokens} tokens are not {what} and a grid of {grid[0]} x {grid[1]}: give leading and grid.")
    return first, grid


class Aligned(nn.Module):
    features: int
    leading: int
    grid: tuple[int, int]
    size: tuple[int, int]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = x[:, self.leading :].reshape(len(x), *self.grid, x.shape[-1])
        return resize_map(dense(x, self.features, name="dense"), self.size)


class Rows(nn.Module):
    features: int
    leading: int
    grid: tuple[int, int]
    keep: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        mean = x.mean((1, 2))
        if self.keep == "class":
            return dense(mean, self.features, name="leading0")[:, None]
        patches = dense(resize_map(x, self.grid), self.features, name="dense").reshape(len(x), -1, self.features)
        count = 0 if self.keep == "drop" else self.leading
        first = [dense(mean, self.features, name=f"leading{i}")[:, None] for i in range(count)]
        return jnp.concatenate([*first, patches], axis=1)


class Regridded(nn.Module):
    features: int
    leading: int
    grid: tuple[int, int]
    wanted: int
    target: tuple[int, int]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        tokens, patches = x[:, : self.leading], x[:, self.leading :].reshape(len(x), *self.grid, x.shape[-1])
        mean, patches = patches.mean((1, 2)), resize_map(patches, self.target)
        sources = [tokens[:, i] if i < self.leading else mean for i in range(self.wanted)]
        first = [dense(s, self.features, name=f"leading{i}")[:, None] for i, s in enumerate(sources)]
        patches = dense(patches, self.features, name="dense").reshape(len(x), -1, self.features)
        return jnp.concatenate([*first, patches], axis=1)


def _pair(student: Shape, teacher: Shape) -> str:
    return f"student {student.shape}, teacher {teacher.shape}"
