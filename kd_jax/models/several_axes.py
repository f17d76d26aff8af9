"""Linear layers that contract several axes, or give several: Flax's DenseGeneral and LinearGeneral, as matrices."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from kd_jax.models.intercept import intercepted
from kd_jax.types import Array, Model, PyTree

GENERAL = (nn.DenseGeneral, nnx.LinearGeneral)


class Axes(NamedTuple):
    """How many of the axes of a kernel [stack..., in..., out...] are inputs and outputs."""

    inputs: int = 1
    outputs: int = 1

    def sizes(self, kernel: tuple[int, ...]) -> tuple[tuple[int, ...], int, int]:
        """Returns (the stack, the number of inputs, the number of outputs) of a kernel of this shape."""
        last = len(kernel) - self.outputs
        first = last - self.inputs
        return kernel[:first], math.prod(kernel[first:last]), math.prod(kernel[last:])


def axes_of(module: nn.DenseGeneral | nnx.LinearGeneral) -> Axes:
    """Returns the axes of a layer; ValueError for one with a kernel for each place of a batch axis."""
    if _has_batch(module):
        raise ValueError("a DenseGeneral with batch_dims has a matrix for each of their places: no layer for adapters")
    features = module.features if isinstance(module, nn.DenseGeneral) else module.out_features
    return Axes(len(_tuple(module.axis)), len(_tuple(features)))


def axes_by_path(model: Model, params: PyTree, stats: PyTree, inputs: tuple[PyTree, ...]) -> dict[str, Axes]:
    """Returns {path: axes} of the layers of GENERAL that run; nothing is computed."""
    axes: dict[str, Axes] = {}

    def note(layer: Any, /, *args: Any, **kwargs: Any) -> Any:
        if isinstance(layer.module, GENERAL) and not _has_batch(layer.module):
            axes[layer.path] = axes_of(layer.module)
        return layer.call(*args, **kwargs)

    with intercepted(note):
        jax.eval_shape(
            lambda params, stats, inputs: model.apply(params, stats, *inputs, train=False, key=jax.random.key(0)),
            *(params, stats, inputs),
        )
    return axes


def product(module: nn.DenseGeneral | nnx.LinearGeneral, x: Array, a: Array, b: Array, like: Array) -> Array:
    """Returns x A B for A [in, rank] and B [rank, out], of the shape of what the layer returns; errors of axes_of."""
    count = axes_of(module).inputs
    x = jnp.moveaxis(x, _tuple(module.axis), range(-count, 0))
    x = x.reshape(*x.shape[: x.ndim - count], -1)
    return (x @ a @ b).reshape(like.shape)


def _has_batch(module: nn.DenseGeneral | nnx.LinearGeneral) -> bool:
    return bool(module.batch_dims if isinstance(module, nn.DenseGeneral) else module.batch_axis)


def _tuple(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)
