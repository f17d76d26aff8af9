"""An anchor-free one-stage detector: a small CNN, a feature pyramid, and one head for all of its levels.

Taps: stem, stageN of the backbone; fpnN, the levels of the pyramid from the finest on; classes, sides.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.models.layers import ConvNorm, Tap, conv
from kd_jax.ranges import Count
from kd_jax.types import Array

PRIOR = 0.01  # the probability that a network which learned nothing gives every class (Lin et al., arXiv 1708.02002)


class Stage(nn.Module):
    """Halves the map and adds a residual block."""

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        x = ConvNorm(self.features, 3, 2, dtype=self.dtype, name="down")(x, train)
        y = ConvNorm(self.features, 3, dtype=self.dtype, name="conv1")(x, train)
        return nn.relu(x + ConvNorm(self.features, 3, relu=False, dtype=self.dtype, name="conv2")(y, train))


class Head(nn.Module):
    """Class logits and sides of one level: a tower of convolutions with group normalisation for each."""

    num_classes: int
    bins: int
    features: int
    depth: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        rows, prior = x.shape[0], nn.initializers.constant(-float(np.log((1 - PRIOR) / PRIOR)))
        small = nn.initializers.normal(0.01)
        y = self._tower(x, "class")
        options: dict[str, Any] = {"padding": 1, "dtype": self.dtype, "kernel_init": small}
        y = nn.Conv(self.num_classes, (3, 3), bias_init=prior, name="classes", **options)(y)
        z = nn.Conv(4 * self.bins, (3, 3), name="sides", **options)(self._tower(x, "side"))
        return y.reshape(rows, -1, self.num_classes), z.reshape(rows, -1, 4, self.bins)

    def _tower(self, x: Array, name: str) -> Array:
        for i in range(self.depth):
            x = conv(self.features, 3, dtype=self.dtype, name=f"{name}_conv{i + 1}")(x)
            groups = int(np.gcd(8, self.features))
            x = nn.relu(nn.GroupNorm(groups, epsilon=1e-5, dtype=self.dtype, name=f"{name}_norm{i + 1}")(x))
        return x


class Detector(nn.Module):
    num_classes: int
    widths: tuple[int, ...]
    pyramid: int
    depth: int
    bins: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> dict[str, Array]:
        levels, dtype = len(self.widths) - 1, jnp.dtype(self.dtype)
        height, width = x.shape[1:3]
        if height % 2 ** (levels + 1) or width % 2 ** (levels + 1):
            raise ValueError(
                f"a detector of {levels} levels halves the picture {levels + 1} times: {height} x {width} pixels are "
                f"no multiples of {2 ** (levels + 1)}"
            )
        x = ConvNorm(self.widths[0], 3, 2, dtype=dtype, name="stem")(x.astype(dtype), train)
        maps = []
        for i, features in enumerate(self.widths[1:], 1):
            x = Stage(features, dtype, name=f"stage{i}")(x, train)
            maps.append(x)
        head = Head(self.num_classes, self.bins, self.pyramid, self.depth, dtype, name="head")
        parts = [head(level) for level in self._pyramid(maps, dtype)]
        classes, sides = (jnp.concatenate(pieces, axis=1).astype(jnp.float32) for pieces in zip(*parts, strict=True))
        points = jnp.asarray(points_of(height, width, levels), jnp.float32)
        return {
            "classes": Tap(name="classes")(classes),
            "sides": Tap(name="sides")(sides),
            "points": jnp.broadcast_to(points, (x.shape[0], *points.shape)),
        }

    def _pyramid(self, maps: list[Array], dtype: Any) -> list[Array]:
        """The levels, the finest first: each the sum of its own map and the coarser level, and then smoothed."""
        tops: list[Array] = []
        for i in reversed(range(len(maps))):
            lateral = conv(self.pyramid, 1, dtype=dtype, bias=True, name=f"lateral{i}")(maps[i])
            if tops:
                lateral = lateral + jax.image.resize(tops[0], lateral.shape, "nearest")
            tops.insert(0, lateral)
        smooth = [conv(self.pyramid, 3, dtype=dtype, bias=True, name=f"smooth{i}") for i in range(len(tops))]
        return [Tap(name=f"fpn{i}")(layer(x)) for i, (layer, x) in enumerate(zip(smooth, tops, strict=True))]


def points_of(height: int, width: int, levels: int) -> np.ndarray:
    """Returns the points (x, y, stride) [points, 3] of levels with strides 4, 8, ...: the centres of their cells."""
    parts = []
    for level in range(levels):
        stride = 2 ** (level + 2)
        y, x = np.meshgrid(np.arange(height // stride), np.arange(width // stride), indexing="ij")
        centres = (np.stack([x, y], -1).reshape(-1, 2) + 0.5) * stride
        parts.append(np.concatenate([centres, np.full((len(centres), 1), stride)], axis=1))
    return np.concatenate(parts)


def detector(
    num_classes: int,
    widths: tuple[int, ...] = (16, 32, 64),
    pyramid: Count[int] = 32,
    depth: Count[int] = 1,
    bins: Count[int] = 8,
    dtype: Any = "float32",
) -> Detector:
    """Returns a detector whose output is {"classes" [batch, points, classes], "sides" [batch, points, 4, bins],
    "points" [batch, points, 3]}, as losses/detection.py reads it.

    The first of `widths` is the stem's, each other one a level of the pyramid, of strides 4, 8, ...; `pyramid` channels
    in it, `depth` convolutions in each of the two towers of the head. FCOS (Tian et al., 2019, arXiv 1904.01355) with a
    feature pyramid (Lin et al., 2016, arXiv 1612.03144) and the integral sides of GFL (Li et al., 2020, arXiv
    2006.04388) in place of FCOS's centreness. ValueError for pictures that are no multiple of the largest stride.
    """
    if len(widths) < 2:
        raise ValueError(f"widths={tuple(widths)}: the first is the stem's, and each other one is a level: at least 2")
    return Detector(num_classes, tuple(widths), pyramid, depth, bins, dtype)
