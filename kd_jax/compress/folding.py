"""BatchNorm folded into the layer before it: in evaluation the same network, with fewer arrays and fewer operations.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2017,
arXiv 1712.05877, section 3.2. There the averages go on moving while the folded network trains; here they stand, and
what is left of a norm is one bias a channel, which learns.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from kd_jax.compress.plan import Network, Scores, Smaller
from kd_jax.compress.rounding import inside
from kd_jax.models.intercept import Layer, first_input, intercepted
from kd_jax.types import Array, Model, Outputs, PyTree

BEFORE = (nn.Conv, nn.Dense)  # whose kernels have the output channels last


class Pair(NamedTuple):
    """The paths of a BatchNorm and of the layer whose output it reads, and what it adds to the variance."""

    norm: str
    layer: str
    epsilon: float


@dataclasses.dataclass(frozen=True, eq=False)
class Folded:
    """`model` without the norms of `pairs`, (norm, layer, epsilon) each: what is left of one adds its bias.

    params and stats lack the scales and averages of those norms, and are else those of `model`.
    """

    model: Model
    pairs: tuple[tuple[str, str, float], ...]  # of Pairs as plain tuples, which a model.json can hold

    def init(self, key: Array, *inputs: PyTree) -> tuple[PyTree, PyTree]:
        return folded(*self.model.init(key, *inputs), self.pairs)

    def apply(
        self, params: PyTree, stats: PyTree, *inputs: PyTree, train: bool, key: Array, taps: tuple[str, ...] = ()
    ) -> tuple[Outputs, PyTree]:
        norms = {norm for norm, _, _ in self.pairs}

        def intercept(layer: Layer, /, *args: Any, **kwargs: Any) -> Any:
            if layer.path not in norms:
                return layer.call(*args, **kwargs)
            x, bias = first_input(layer, args), layer.parameter("bias")
            return x + jnp.asarray(bias, x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))

        with intercepted(intercept):
            return self.model.apply(params, stats, *inputs, train=train, key=key, taps=taps)


def fold(network: Network) -> Smaller:
    """Returns the network with every BatchNorm that reads a convolution or dense layer folded into it.

    Raises ValueError where there is none.
    """
    pairs = pairs_of(network)
    if not pairs:
        raise ValueError("fold: no BatchNorm of this network reads the output of a convolution or dense layer.")

    def transform(params: PyTree, stats: PyTree, scores: Scores) -> tuple[PyTree, PyTree]:
        return folded(params, stats, pairs)

    plain = tuple(tuple(pair) for pair in pairs)
    model = inside(network.model, lambda model: Folded(model, plain))
    return Smaller(model, transform, f"fold {len(pairs)} BatchNorms")


def pairs_of(network: Network) -> tuple[Pair, ...]:
    """Returns the norms that can be folded, by a walk through the network with shapes alone."""
    written: list[tuple[Any, str]] = []
    pairs: dict[str, Pair] = {}
    arrays = network.arrays

    def intercept(layer: Layer, /, *args: Any, **kwargs: Any) -> Any:
        x = args[0] if args else None
        before = next((path for value, path in written if value is x), None)
        if isinstance(layer.module, nn.BatchNorm) and before is not None:
            if f"params/{layer.path}/scale" in arrays and f"params/{layer.path}/bias" in arrays:
                pairs[layer.path] = Pair(layer.path, before, float(layer.module.epsilon))
        y = layer.call(*args, **kwargs)
        if isinstance(layer.module, BEFORE) and f"params/{layer.path}/kernel" in arrays:
            written.append((y, layer.path))
        return y

    def walk(params: PyTree, stats: PyTree, *inputs: PyTree) -> Outputs:
        with intercepted(intercept):
            return network.model.apply(params, stats, *inputs, train=False, key=jax.random.key(0))[0]

    jax.eval_shape(walk, network.params, network.stats, *network.inputs)
    return tuple(pairs.values())


def folded(params: PyTree, stats: PyTree, pairs: tuple[tuple[str, str, float], ...]) -> tuple[PyTree, PyTree]:
    """Returns (params, stats) of the folded network: kernel * g, bias - mean * g, with g = scale / sqrt(var + e)."""
    params, stats = (dict[str, Any](traverse_util.flatten_dict(tree, sep="/")) for tree in (params, stats))
    for norm, layer, epsilon in pairs:
        mean, var = stats.pop(f"batch_stats/{norm}/mean"), stats.pop(f"batch_stats/{norm}/var")
        gain = params.pop(f"{norm}/scale") * jax.lax.rsqrt(var + epsilon)
        kernel = params[f"{layer}/kernel"]
        params[f"{layer}/kernel"] = kernel * gain.reshape((1,) * (kernel.ndim - 1) + (-1,))
        params[f"{norm}/bias"] = params[f"{norm}/bias"] - mean * gain
        if f"{layer}/bias" in params:
            params[f"{layer}/bias"] = params[f"{layer}/bias"] * gain
    return traverse_util.unflatten_dict(params, sep="/"), traverse_util.unflatten_dict(stats, sep="/")
