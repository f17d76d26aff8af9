"""The cost of a sub-network of models/vision/supernet.py: parameters, multiply-adds, or time measured by layer."""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from kd_jax.models.adapters import FunctionModel
from kd_jax.models.vision.supernet import MixedCNN, Operation, SlimBlock, SlimCNN
from kd_jax.resolve import near
from kd_jax.types import Array, Model

COSTS = ("parameters", "flops", "latency")


@dataclasses.dataclass(frozen=True)
class Space:
    """The sub-networks of one network: `options[i]` names what block i chooses from, `costs` says what a choice costs.

    A sub-network is a tuple of positions in `options`. `kind` is one of COSTS: parameters; flops, 2 for every
    multiply-add of convolutions and classifier; latency, the sum of seconds that each layer takes on one example.
    """

    options: tuple[tuple[str, ...], ...]
    kind: str
    model: SlimCNN | MixedCNN
    image_shape: tuple[int, ...]

    def cost(self, choice: Sequence[int]) -> float:
        total, (height, width, channels) = 0.0, self.image_shape
        for i, position in enumerate(choice):
            operation, out, pooled = self._block(i, position)
            if pooled and min(height, width) > 1:
                height, width = height // 2, width // 2
            total += operation_cost(operation, channels, out, height, width, self.kind)
            channels = out
        return total + operation_cost("head", channels, self.model.num_classes, 1, 1, self.kind)

    def table(self) -> np.ndarray:
        """Returns [blocks, options]: what each operation costs beyond the first one of its block, without block 0.

        For a MixedCNN alone, whose blocks do not depend on one another; block 0 has no choice.
        """
        first = (0,) * len(self.options)
        changes = [
            [self.cost((*first[:i], k, *first[i + 1 :])) for k in range(len(options))]
            for i, options in enumerate(self.options)
        ]
        return np.asarray(changes[1:]) - self.cost(first)

    def _block(self, i: int, position: int) -> tuple[str, int, bool]:
        model = self.model
        if isinstance(model, SlimCNN):
            return "slim", model.widths[i][position], i > 0
        if i == 0:
            return "conv3", model.widths[0], False
        return model.kinds[i - 1][position], model.widths[i], model.widths[i] > model.widths[i - 1]


def space_of(model: Model, image_shape: tuple[int, ...], kind: str) -> Space:
    """Returns the sub-networks of a model of models.vision.supernet; ValueError for others or an unknown cost."""
    module = getattr(model, "module", None)
    if kind not in COSTS:
        raise ValueError(f"There is no cost {kind!r}. {near(kind, COSTS)}")
    if not isinstance(module, SlimCNN | MixedCNN) or len(image_shape) != 3:
        raise ValueError(
            f"Costs exist for models.vision.supernet.slim_cnn and mixed_cnn on images [H, W, C], not of "
            f"{type(module or model).__name__} on {image_shape}."
        )
    if isinstance(module, SlimCNN):
        options = tuple(tuple(str(w) for w in widths) for widths in module.widths)
    else:
        options = (("conv3",), *module.kinds)
    return Space(options, kind, module, tuple(image_shape))


def operation_cost(operation: str, channels: int, out: int, height: int, width: int, kind: str) -> float:
    """Returns the cost from `channels` to `out` on a map of an operation, of "slim" (a SlimBlock) or "head"."""
    if operation == "skip":
        return 0.0
    if kind == "latency":
        return latency(operation, channels, out, height, width)
    depthwise = 9 * channels if operation == "separable3" else 0
    weights = depthwise + channels * out * (9 if operation in ("conv3", "slim") else 1)
    if kind == "flops":
        return 2.0 * weights * height * width
    return float(weights + (out if operation == "head" else 2 * out))


@functools.cache
def latency(operation: str, channels: int, out: int, height: int, width: int, repeats: int = 30) -> float:
    """Returns the median seconds of the jitted operation on one example, measured by the first process for all.

    Cai et al., "ProxylessNAS", 2018, arXiv 1812.00332, predict a network's latency so, by a sum over its layers.
    """
    x = jnp.ones((1, height, width, channels))
    if operation == "head":
        kernel = jnp.ones((channels, out))
        run = jax.jit(lambda x: x.mean((1, 2)) @ kernel)
    else:
        module = SlimBlock(out) if operation == "slim" else Operation(operation, out)
        run = jax.jit(functools.partial(module.apply, module.init(jax.random.key(0), x)))
    jax.block_until_ready(run(x))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run(x))
        seconds.append(time.perf_counter() - start)
    return float(multihost_utils.broadcast_one_to_all(np.float32(statistics.median(seconds))))


def architecture_weights(space: Space) -> FunctionModel:
    """Returns a model that reads nothing: softmax(alpha) [blocks, operations] of a MixedCNN, alpha 0 at first.

    Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search", 2018, arXiv 1806.09055.
    """
    shape = (len(space.options) - 1, len(space.options[1]))

    def weights(params: dict[str, Array]) -> Array:
        return jax.nn.softmax(params["alpha"])

    return FunctionModel(lambda key: {"alpha": jnp.zeros(shape)}, weights)
