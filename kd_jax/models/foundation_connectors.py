"""The heads between a student and encoders that others trained, as connectors; kd_jax.models.connectors says how they
are called."""

from __future__ import annotations

import flax.linen as nn

from kd_jax.models.adapters import LinenModel
from kd_jax.models.connectors import Shape, dense, resize_map
from kd_jax.ranges import NotNegative
from kd_jax.types import Array, Model


def toward_teacher(student: Shape, teacher: Shape) -> Model:
    """Returns (y = x W + b of the student's vector, as wide as the teacher's; the teacher's as it is).

    For losses whose memory keeps what the teacher says: both are inputs of the term. The weights are those of
    lightly-train's label-free distillation (2025), a truncated normal of 0.02. ValueError unless both are vectors.
    """
    if student.ndim != 2 or teacher.ndim != 2:
        raise ValueError(f"toward_teacher connects vectors [batch, width], got {student.shape} and {teacher.shape}")
    return LinenModel(TowardTeacher(teacher.shape[-1]))


def adaptor_head(student: Shape, teacher: Shape, *, hidden: NotNegative[int] = 0) -> Model:
    """Maps to the teacher's shape by dense, LayerNorm, GELU, dense on the last axis; a map is then resized.

    `hidden` is the width between, 0 that of the teacher. One head a teacher, for vectors, tokens and maps: Ranzinger,
    Heinrich, Kautz, Molchanov, "AM-RADIO", 2023, arXiv 2312.06709. ValueError for shapes that differ in more than the
    last axis, unless both are maps.
    """
    if student.ndim != teacher.ndim or (student.ndim != 4 and student.shape[1:-1] != teacher.shape[1:-1]):
        raise ValueError(
            "adaptor_head connects two maps, or values that differ in the last axis only, got "
            f"student {student.shape}, teacher {teacher.shape}"
        )
    size = teacher.shape[1:3] if teacher.ndim == 4 else None
    return LinenModel(AdaptorHead(teacher.shape[-1], hidden or teacher.shape[-1], size))


class TowardTeacher(nn.Module):
    width: int

    @nn.compact
    def __call__(self, student: Array, teacher: Array) -> tuple[Array, Array]:
        small = nn.initializers.truncated_normal(0.02)
        return nn.Dense(self.width, kernel_init=small, name="student")(student), teacher


class AdaptorHead(nn.Module):
    width: int
    hidden: int
    size: tuple[int, int] | None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.LayerNorm(name="norm")(dense(x, self.hidden, name="dense0"))
        x = dense(nn.gelu(x, approximate=False), self.width, name="dense1")
        return x if self.size is None else resize_map(x, self.size)
