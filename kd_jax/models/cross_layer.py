"""SemCKD's trained parts: attention between the stages of two networks, and a projection of every stage to every other.

Chen, Mei, Zhang, Wang, Feng, Chen, "Cross-Layer Distillation with Semantic Calibration", 2021, arXiv 2012.03236.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from kd_jax.models.adapters import LinenModel
from kd_jax.models.connectors import Shape, dense, resize_map
from kd_jax.models.layers import conv, norm, torch_default
from kd_jax.ranges import Count
from kd_jax.types import Array, Model


def semantic_calibration(*shapes: Shape, stages: Count[int] = 3) -> Model:
    """Returns (attention [batch, n, m], the n m projected maps) of n = `stages` maps of the student, then m of the
    teacher, both inputs; the m targets come once more after them.

    A stage is described by the inner products of its examples in the batch, each row of which two dense layers map to
    a quarter as many numbers of length 1; attention is the softmax over the teacher's stages of the products of these.
    So the connector is of one batch size. A projection is 1 x 1, 3 x 3, 1 x 1 convolutions without bias, twice the
    teacher's channels wide, BatchNorm and ReLU between; maps larger than the teacher's are pooled first, where the
    teacher's are larger the loss pools those. As the authors' code (with scale 1); ValueError unless all are maps.
    """
    targets = (len(shapes) - stages) // 2
    if targets < 1 or len(shapes) != stages + 2 * targets or any(s.ndim != 4 for s in shapes):
        raise ValueError(
            f"semantic_calibration takes {stages} maps of the student, those of the teacher, and these as targets "
            f"again, got {', '.join(str(s.shape) for s in shapes)}"
        )
    return LinenModel(SemanticCalibration(stages))


class SemanticCalibration(nn.Module):
    stages: int

    @nn.compact
    def __call__(self, *maps: Array, train: bool) -> tuple[Array, ...]:
        students, teachers = maps[: self.stages], maps[self.stages :]
        queries = jnp.stack([_described(x, f"query{i}") for i, x in enumerate(students)], axis=1)
        keys = jnp.stack([_described(x, f"key{j}") for j, x in enumerate(teachers)], axis=1)
        attention = nn.softmax(jnp.einsum("bnd,bmd->bnm", queries, keys), axis=-1)
        projected = [
            _projected(s, t.shape, train, f"projection{i}_{j}")
            for i, s in enumerate(students)
            for j, t in enumerate(teachers)
        ]
        return attention, *projected


def _described(x: Array, name: str) -> Array:
    """Describes every example of a stage by its products with the others: [batch, batch // 4 or 1], of length 1."""
    rows = x.reshape(x.shape[0], -1)
    width = max(len(rows) // 4, 1)
    hidden = nn.relu(dense(rows @ rows.T, 2 * width, name=f"{name}_dense0"))
    y = dense(hidden, width, name=f"{name}_dense1")
    squared = jnp.sum(y * y, axis=-1, keepdims=True)
    live = squared > 0  # of a dead row the published code makes NaN
    return jnp.where(live, y / jnp.sqrt(jnp.where(live, squared, 1)), 0)


def _projected(x: Array, shape: tuple[int, ...], train: bool, name: str) -> Array:
    x = resize_map(x, (min(x.shape[1], shape[1]), min(x.shape[2], shape[2])))
    widths = (2 * shape[-1], 2 * shape[-1], shape[-1])
    for i, (features, size) in enumerate(zip(widths, (1, 3, 1), strict=True)):
        x = conv(features, size, dtype=None, kernel_init=torch_default, name=f"{name}_conv{i}")(x)
        x = nn.relu(norm(train, None, name=f"{name}_norm{i}")(x)) if i < 2 else x
    return x
