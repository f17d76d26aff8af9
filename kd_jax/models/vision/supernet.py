"""Networks that hold many: a slimmable one whose widths are an input, a mixed one whose operations are weighed.

Both are stacks of blocks with max-pooling between, and a linear classifier on the mean. One width and one operation a
block make an ordinary network, which takes no further input.
The slimmable one is normalised over the channels in use of an example (one group; Wu, He, "Group Normalization", 2018,
arXiv 1803.08494) and not over the batch, so that a sub-network is scored as it stands: with BatchNorm, averages have to
be kept or collected for each of them (Yu, Huang, "Universally Slimmable Networks", 2019, arXiv 1903.05134).

Taps: block<i>, embedding, head; mixed blocks also block<i>/<operation>.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.models.layers import DepthwiseConv, classify, conv, norm
from kd_jax.resolve import near
from kd_jax.types import Array, PyTree

OPERATIONS = ("conv3", "conv1", "separable3", "skip")


class ChannelNorm(nn.Module):
    """(x - mean) / sd * scale + bias, with mean and sd over an example's map and the channels where `mask` is 1."""

    @nn.compact
    def __call__(self, x: Array, mask: Array | None = None) -> Array:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        mask = (jnp.ones(channels, x.dtype) if mask is None else mask)[None, None, None]
        count = x.shape[1] * x.shape[2] * mask.sum()
        centred = (x - (x * mask).sum((1, 2, 3), keepdims=True) / count) * mask
        variance = (centred**2).sum((1, 2, 3), keepdims=True) / count
        scale, bias = scale[None, None, None], bias[None, None, None]
        return (centred * jax.lax.rsqrt(variance + 1e-5) * scale + bias) * mask


class SlimBlock(nn.Module):
    """3 x 3 convolution, ChannelNorm, ReLU; the channels where `mask` is 0 are 0."""

    width: int

    @nn.compact
    def __call__(self, x: Array, mask: Array | None = None) -> Array:
        return nn.relu(ChannelNorm(name="norm")(conv(self.width, 3, name="conv")(x), mask))


class Operation(nn.Module):
    """conv3, conv1, separable3 (depthwise 3 x 3, then 1 x 1), each with BatchNorm and ReLU; skip pads with zeros."""

    kind: str
    width: int

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        if self.kind == "skip":
            return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, self.width - x.shape[-1])))
        if self.kind == "separable3":
            x = DepthwiseConv(name="depthwise")(x)
        x = conv(self.width, 3 if self.kind == "conv3" else 1, name="conv")(x)
        return nn.relu(norm(train, name="norm")(x))


class Mixture(nn.Module):
    """sum_k weights[k] * operation_k(x)."""

    kinds: tuple[str, ...]
    width: int

    @nn.compact
    def __call__(self, x: Array, train: bool, weights: Array | None = None) -> Array:
        results = [Operation(kind, self.width, name=kind)(x, train) for kind in self.kinds]
        if weights is None:
            return results[0]
        first, *rest = (w * y for w, y in zip(weights, results, strict=True))
        return sum(rest, first)


def pool(x: Array) -> Array:
    return nn.max_pool(x, (2, 2), (2, 2)) if min(x.shape[1:3]) > 1 else x


class SlimCNN(nn.Module):
    """Blocks of 3 x 3 convolutions with `widths[i]` to choose the number of channels from; those above it are zeros.

    `choice` int [blocks] are positions in `widths`; -1 is the last, and while training a random one, new in each call.
    """

    num_classes: int
    widths: tuple[tuple[int, ...], ...]

    @nn.compact
    def __call__(self, x: Array, choice: Array | None = None, train: bool = False) -> Array:
        if choice is None and any(len(widths) > 1 for widths in self.widths):
            raise ValueError(f"A network with the widths {self.widths} to choose from needs a choice as second input.")
        key = self.make_rng("dropout") if train and choice is not None else None
        for i, widths in enumerate(self.widths):
            mask = None
            if choice is not None:
                position = choice[i]
                if key is not None:
                    drawn = jax.random.randint(jax.random.fold_in(key, i), (), 0, len(widths))
                    position = jnp.where(position < 0, drawn, position)
                mask = (jnp.arange(max(widths)) < jnp.asarray(widths)[position]).astype(x.dtype)
            x = SlimBlock(max(widths), name=f"block{i}")(pool(x) if i else x, mask)
        return classify(x.mean((1, 2)), self.num_classes)


class MixedCNN(nn.Module):
    """A conv3 of widths[0], then blocks that mix `kinds[i]`; maps are pooled where the width grows.

    `weights` float [blocks, kinds] are those of the mixtures; a row with a single 1 is that operation alone.
    """

    num_classes: int
    widths: tuple[int, ...]
    kinds: tuple[tuple[str, ...], ...]

    @nn.compact
    def __call__(self, x: Array, weights: Array | None = None, train: bool = False) -> Array:
        if weights is None and any(len(kinds) > 1 for kinds in self.kinds):
            raise ValueError(f"A network with the operations {self.kinds} to mix needs their weights as second input.")
        x = Operation("conv3", self.widths[0], name="block0")(x, train)
        for i, kinds in enumerate(self.kinds):
            x = pool(x) if self.widths[i + 1] > self.widths[i] else x
            row = None if weights is None else weights[i]
            x = Mixture(kinds, self.widths[i + 1], name=f"block{i + 1}")(x, train, row)
        return classify(x.mean((1, 2)), self.num_classes)


def slim_cnn(num_classes: int, widths: tuple[int | tuple[int, ...], ...] = (16, 32)) -> SlimCNN:
    """Returns a SlimCNN; `widths` has a number of channels for every block, or several, rising, to choose from."""
    every = tuple((w,) if isinstance(w, int) else tuple(w) for w in widths)
    for options in every:
        if not options or list(options) != sorted({*options}) or options[0] < 1:
            raise ValueError(f"The widths of a block are positive and rise, not {options}.")
    return SlimCNN(num_classes, every)


def mixed_cnn(
    num_classes: int, widths: tuple[int, ...] = (8, 16, 16), kinds: tuple[str | tuple[str, ...], ...] = OPERATIONS
) -> MixedCNN:
    """Returns a MixedCNN; every block but the first mixes `kinds`, or each its own tuple of them (or one operation)."""
    nested = any(not isinstance(k, str) for k in kinds)
    each = tuple((k,) if isinstance(k, str) else tuple(k) for k in kinds)
    every = each if nested else (tuple(kinds),) * len(widths[1:])
    for kind in (k for options in every for k in options):
        if kind not in OPERATIONS:
            raise ValueError(f"There is no operation {kind!r}. {near(kind, OPERATIONS)}")
    if len(every) != len(widths) - 1 or len({len(options) for options in every}) != 1:
        raise ValueError(f"{len(widths) - 1} blocks mix, equally many operations each; not {every}.")
    if list(widths) != sorted(widths):
        raise ValueError(f"Widths do not fall from block to block: a skip cannot drop channels; they are {widths}.")
    return MixedCNN(num_classes, tuple(widths), every)


def slim_params(params: PyTree, widths: tuple[int, ...]) -> PyTree:
    """Returns the part of a SlimCNN's parameters that these widths use: the parameters of slim_cnn(widths=widths)."""
    small, before = dict(params), None
    for i, width in enumerate(widths):
        block = params[f"block{i}"]
        norm = {name: value[:width] for name, value in block["norm"].items()}
        small[f"block{i}"] = {"conv": {"kernel": block["conv"]["kernel"][:, :, :before, :width]}, "norm": norm}
        before = width
    small["head"] = {**params["head"], "kernel": params["head"]["kernel"][:before]}
    return small


def mixed_variables(variables: PyTree, kinds: tuple[str, ...]) -> PyTree:
    """Returns the part of a MixedCNN's params, or of a collection of its stats, that one operation a block uses.

    It belongs to mixed_cnn(kinds=((kind,), ...)).
    """
    small = dict(variables)
    for i, kind in enumerate(kinds, start=1):
        block = variables.get(f"block{i}", {})
        small[f"block{i}"] = {kind: block[kind]} if kind in block else {}
    return {name: value for name, value in small.items() if value}
