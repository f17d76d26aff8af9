"""Connectors: small models between a student's value and what a loss takes in its place.

A builder is called as `builder(student_shape, teacher_shape, **options)` with jax.ShapeDtypeStructs and returns a
Model, whose `Outputs.logits` is the connected value. Options are set with functools.partial. Maps are [batch, height,
width, channels]; a 1 x 1 convolution is a dense layer on the last axis. Initial values are PyTorch's defaults, as in
the published code; computation is in float32 or in the wider type of the input.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.models.adapters import FunctionModel, LinenModel
from kd_jax.models.layers import norm, uniform_fan_in
from kd_jax.ranges import Count
from kd_jax.types import Array, Model

Shape = jax.ShapeDtypeStruct


def linear(student: Shape, teacher: Shape) -> Model:
    """Computes y = x W + b on the last axis: [..., Ds] -> [..., Dt]. ValueError if the other axes differ."""
    if student.ndim < 2 or student.shape[1:-1] != teacher.shape[1:-1]:
        raise ValueError(f"linear connects values that differ in the last axis only, got {_pair(student, teacher)}")
    return LinenModel(Projection(teacher.shape[-1]))


def conv1x1(student: Shape, teacher: Shape, *, norm: bool = False, resize: bool = True, normal: bool = False) -> Model:
    """Applies a 1 x 1 convolution to the map and resizes it: the result has the teacher's shape.

    Smaller sizes are averaged (adaptive average pooling), larger ones interpolated linearly. With `norm` a BatchNorm
    takes the place of the bias: the connector of Heo et al., "A Comprehensive Overhaul of Feature Distillation",
    2019, arXiv 1904.01866, whose code starts it `normal`, with variance 2 / channels of the teacher. Without `resize`
    the map stays as large as it is, for losses that pool the larger of two.
    ValueError unless both are maps.
    """
    check_maps("conv1x1", student, teacher)
    return LinenModel(Projection(teacher.shape[-1], teacher.shape[1:3] if resize else None, norm, normal))


def conv_regressor(student: Shape, teacher: Shape, *, relu: bool = True) -> Model:
    """Applies the regressor of hints, convolution with bias, BatchNorm, ReLU; the result has the teacher's shape.

    The convolution is 3 x 3 with stride 2 if the student's map is twice as large, transposed 4 x 4 with stride 2 if it
    is half as large, and else unpadded with the kernel that makes the sizes meet (1 x 1 if they are equal).
    Romero et al., "FitNets: Hints for Thin Deep Nets", 2015, arXiv 1412.6550, in the form of Tian et al., arXiv
    1910.10699. `relu=False` is their connector for activation boundaries (Heo et al., 2019, arXiv 1811.03233).
    ValueError unless both are maps of sizes that meet.
    """
    check_maps("conv_regressor", student, teacher)
    source, target = np.array(student.shape[1:3]), np.array(teacher.shape[1:3])
    if (source == 2 * target).all():
        kind, size = "down", (3, 3)
    elif (2 * source == target).all():
        kind, size = "up", (4, 4)
    elif (source >= target).all():
        kind, size = "valid", tuple((1 + source - target).tolist())
    else:
        raise ValueError(
            f"conv_regressor needs a student's map that is half as large as the teacher's, as large or larger, got "
            f"{_pair(student, teacher)}; conv1x1 resizes any map"
        )
    return LinenModel(Regressor(teacher.shape[-1], kind, size, relu))


def boundary_regressor(student: Shape, teacher: Shape) -> Model:
    """Returns the identity between equal shapes, else `conv_regressor` without ReLU: AB's, as RepDistiller has it."""
    if student.shape[1:] == teacher.shape[1:]:
        return FunctionModel(lambda key, x: {}, lambda params, x: x)
    return conv_regressor(student, teacher, relu=False)


def resize(student: Shape, teacher: Shape) -> Model:
    """Resizes the map to the teacher's height and width without parameters. ValueError unless both are maps."""
    check_maps("resize", student, teacher)
    return FunctionModel(lambda key, x: {}, lambda params, x: resize_map(x, teacher.shape[1:3]))


def auto(student: Shape, teacher: Shape) -> Model:
    """Returns the identity if the shapes are equal but for the batch, `conv1x1` with BatchNorm for maps, else `linear`.

    The norm is there for the published weights of hints (100 and more): without it a learning rate of 0.1 let the
    convolution diverge within ten steps.
    """
    if student.shape[1:] == teacher.shape[1:]:
        return FunctionModel(lambda key, x: {}, lambda params, x: x)
    return conv1x1(student, teacher, norm=True) if student.ndim == teacher.ndim == 4 else linear(student, teacher)


def learned_scalar(student: Shape, *targets: Shape, first: float = 0.0) -> Model:
    """Returns (the student's value as it is, a trained number that starts at `first`): the temperature of CTKD."""

    def init(key: Array, x: Array) -> dict[str, Array]:
        return {"raw": jnp.full((), first)}

    return FunctionModel(init, lambda params, x: (x, params["raw"]))


class Projection(nn.Module):
    features: int
    size: tuple[int, int] | None = None
    norm: bool = False
    normal: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        # Both steps are linear along different axes, so their order is free: shrink first, enlarge last.
        shrinks = self.size is not None and self.size[0] * self.size[1] < x.shape[1] * x.shape[2]
        x = resize_map(x, self.size) if shrinks else x
        first = nn.initializers.normal((2 / self.features) ** 0.5) if self.normal else None
        x = dense(x, self.features, bias=not self.norm, name="dense", kernel_init=first)
        x = resize_map(x, self.size) if self.size is not None else x
        return norm(train, None, name="norm")(x) if self.norm else x


class Regressor(nn.Module):
    features: int
    kind: str
    size: tuple[int, int]
    relu: bool

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        area = self.size[0] * self.size[1]
        # PyTorch takes the outputs for the fan in of a transposed convolution.
        uniform = uniform_fan_in(area * (self.features if self.kind == "up" else x.shape[-1]))
        options: dict[str, Any] = {"kernel_init": uniform, "bias_init": uniform, "name": "conv"}
        if self.kind == "up":
            x = nn.ConvTranspose(self.features, self.size, (2, 2), ((2, 2), (2, 2)), **options)(x)
        elif self.kind == "down":
            x = nn.Conv(self.features, self.size, (2, 2), ((1, 1), (1, 1)), **options)(x)
        else:
            x = nn.Conv(self.features, self.size, padding="VALID", **options)(x)
        x = norm(train, None, name="norm")(x)
        return nn.relu(x) if self.relu else x


def dense(x: Array, features: Count[int], bias: bool = True, name: str | None = None, kernel_init: Any = None) -> Array:
    uniform = uniform_fan_in(x.shape[-1])
    return nn.Dense(features, use_bias=bias, kernel_init=kernel_init or uniform, bias_init=uniform, name=name)(x)


def resize_map(x: Array, size: tuple[int, int]) -> Array:
    """Averages each spatial axis in bins floor(i n / m) .. ceil((i + 1) n / m), or interpolates linearly to grow."""
    for axis, target in zip((1, 2), size, strict=True):
        source = x.shape[axis]
        if target < source:
            bins = np.zeros((target, source), np.float32)
            for i in range(target):
                start, stop = i * source // target, -(-(i + 1) * source // target)
                bins[i, start:stop] = 1 / (stop - start)
            x = jnp.moveaxis(jnp.tensordot(x, jnp.asarray(bins, x.dtype), ((axis,), (1,))), -1, axis)
        elif target > source:
            x = jax.image.resize(x, (*x.shape[:axis], target, *x.shape[axis + 1 :]), "linear")
    return x


def check_maps(name: str, student: Shape, teacher: Shape) -> None:
    if student.ndim != 4 or teacher.ndim != 4:
        raise ValueError(f"{name} connects maps [batch, height, width, channels], got {_pair(student, teacher)}")


def _pair(student: Shape, teacher: Shape) -> str:
    return f"student {student.shape}, teacher {teacher.shape}"
