"""Low-rank factors in place of kernels, layer by layer, where the two factors together are smaller.

A kernel [in, out] becomes [in, rank] and [rank, out], and a convolution's [h, w, in, out] a convolution to `rank`
channels and a 1 x 1 convolution: the truncated singular value decomposition, the nearest product in squared error.
Denton et al., "Exploiting Linear Structure Within Convolutional Networks", 2014, arXiv 1404.0736; Zhang et al.,
"Accelerating Very Deep Convolutional Networks", 2015, arXiv 1505.06798. No kept JAX library does this.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from flax.linen.dtypes import promote_dtype

from kd_jax.compress.plan import Network, Scores, Smaller
from kd_jax.compress.rounding import inside
from kd_jax.models.intercept import Layer, first_input, intercepted
from kd_jax.models.language.decoder_parts import Dense
from kd_jax.resolve import near, pattern_of
from kd_jax.types import Array, Model, Outputs, PyTree

LINEAR = (nn.Dense, Dense)
FACTORS = ("down_kernel", "up_kernel")  # names end as "kernel" does, so that a pattern of kernels rounds them too


@dataclasses.dataclass(frozen=True, eq=False)
class LowRank:
    """`model` whose layers in `ranks` {path: rank} have the parameters down_kernel [..., in, rank] and up_kernel
    [rank, out] in place of kernel; their first values are the factors of the model's own."""

    model: Model
    ranks: Mapping[str, int]

    def init(self, key: Array, *inputs: PyTree) -> tuple[PyTree, PyTree]:
        params, stats = self.model.init(key, *inputs)
        return factorised(params, self.ranks), stats

    def apply(
        self, params: PyTree, stats: PyTree, *inputs: PyTree, train: bool, key: Array, taps: tuple[str, ...] = ()
    ) -> tuple[Outputs, PyTree]:
        def intercept(layer: Layer, /, *args: Any, **kwargs: Any) -> Any:
            if layer.path not in self.ranks:
                return layer.call(*args, **kwargs)
            return _through(layer, first_input(layer, args))

        with intercepted(intercept):
            return self.model.apply(params, stats, *inputs, train=train, key=key, taps=taps)


def _through(layer: Layer, x: Any) -> Any:
    """What the layer returns with two factors in place of its kernel."""
    down, up = (layer.parameter(name) for name in FACTORS)
    assert down is not None and up is not None  # as `init` and `factorised` leave them
    module: Any = layer.module
    if isinstance(module, nn.Conv):
        narrow = module.clone(features=down.shape[-1], use_bias=False, parent=None, name=None)
        x = narrow.apply({"params": {"kernel": down}}, x)
    else:
        x, down, up = promote_dtype(x, down, up, dtype=module.dtype)
        x = x @ down
    y, bias = x @ up.astype(x.dtype), layer.parameter("bias")
    return y if bias is None else y + bias.astype(y.dtype).reshape((1,) * (y.ndim - 1) + (-1,))


def factorise(network: Network, rank: float, layers: str = "") -> Smaller:
    """Returns the network with low-rank factors in the linear layers and convolutions whose path matches `layers`.

    The rank is the share `rank` of the largest that a kernel can have. Only layers that get smaller are factorised.
    Raises ValueError where no linear layer or convolution matches, and where none gets smaller.
    """
    if not 0 < rank < 1:
        raise ValueError(f"factorise: rank={rank} is a share of the full rank, above 0 and below 1.")
    kernels = _kernels(network)
    chosen = {p: x for p, x in kernels.items() if pattern_of(layers, "factorise: layers").search(p)}
    if not chosen:
        raise ValueError(f"factorise: no rule reaches layers={layers!r}. {near(layers, kernels)}")
    ranks = {}
    for path, shape in chosen.items():
        rows, columns = math.prod(shape[:-1]), shape[-1]
        r = max(1, round(rank * min(rows, columns)))
        if r * (rows + columns) < rows * columns:
            ranks[path] = r
    if not ranks:
        raise ValueError(f"factorise: with rank={rank} the factors of no layer are smaller than its kernel.")

    def transform(params: PyTree, stats: PyTree, scores: Scores) -> tuple[PyTree, PyTree]:
        return factorised(params, ranks), stats

    where = f" of {layers}" if layers else ""
    label = f"low rank {100 * rank:g} % ({len(ranks)} of {len(chosen)} layers{where})"
    return Smaller(inside(network.model, lambda model: LowRank(model, ranks)), transform, label)


def _kernels(network: Network) -> dict[str, tuple[int, ...]]:
    """{path of a layer: shape of its kernel} of all linear layers and convolutions that run, in one group."""
    shapes: dict[str, tuple[int, ...]] = {}

    def intercept(layer: Layer, /, *args: Any, **kwargs: Any) -> Any:
        module: Any = layer.module
        plain = isinstance(module, LINEAR) or (isinstance(module, nn.Conv) and module.feature_group_count == 1)
        kernel = layer.parameter("kernel") if plain else None
        if kernel is not None and kernel.ndim in (2, 4):
            shapes[layer.path] = kernel.shape
        return layer.call(*args, **kwargs)

    def walk(params: PyTree, stats: PyTree, *inputs: PyTree) -> Outputs:
        with intercepted(intercept):
            return network.model.apply(params, stats, *inputs, train=False, key=jax.random.key(0))[0]

    jax.eval_shape(walk, network.params, network.stats, *network.inputs)
    return {path: shape for path, shape in shapes.items() if f"params/{path}/kernel" in network.arrays}


def factorised(params: PyTree, ranks: Mapping[str, int]) -> PyTree:
    """Returns the parameters with the factors sqrt(S) shared between both sides; of NumPy arrays as of traced ones."""
    flat: dict[str, Any] = dict(traverse_util.flatten_dict(params, sep="/"))
    for path, rank in ranks.items():
        kernel = flat.pop(f"{path}/kernel")
        flat |= dict(zip((f"{path}/{name}" for name in FACTORS), _factors(kernel, rank), strict=True))
    return traverse_util.unflatten_dict(flat, sep="/")


def _factors(kernel: Any, rank: int) -> tuple[Any, Any]:
    xp = np if isinstance(kernel, np.ndarray) else jnp
    u, s, v = xp.linalg.svd(kernel.reshape(-1, kernel.shape[-1]).astype(xp.float32), full_matrices=False)
    root = xp.sqrt(s[:rank])
    down, up = u[:, :rank] * root[None], root[:, None] * v[:rank]
    return down.reshape(*kernel.shape[:-1], rank).astype(kernel.dtype), up.astype(kernel.dtype)
