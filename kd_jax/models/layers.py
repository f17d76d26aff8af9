"""What the networks here share: convolutions with PyTorch's padding and initial values, BatchNorm, named values.

Published CIFAR and ImageNet results come from PyTorch code, so its conventions hold: symmetric padding (Flax's "SAME"
pads strided convolutions on one side only), BatchNorm momentum 0.9 (PyTorch calls it 0.1) and epsilon 1e-5.
One difference is left: Flax averages the biased batch variance, PyTorch the unbiased one (a factor n / (n - 1) over
n = batch * height * width, 1.0002 for 64 images of 8 x 8).
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.types import Array

# Normal with variance 2 / (kernel area * output channels): He et al., "Delving Deep into Rectifiers", arXiv 1502.01852.
kaiming_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# Uniform in +- 1 / sqrt(fan in): what PyTorch gives convolutions that nobody initialised.
torch_default = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Tap(nn.Module):
    """A value under a name, so that a term can read it: `Tap(name="embedding")(x)` is x."""

    def __call__(self, x: Array) -> Array:
        return x


class DepthwiseConv(nn.Module):
    """One k x k filter for each channel, as shifted multiply-adds; `kernel` is [k, k, 1, channels] as in nn.Conv.

    XLA's CPU backend runs nn.Conv(feature_group_count=channels) 4 to 5 times slower. Sums are float32 in any dtype.
    `padding`: (before, after) of both axes, "SAME" as TensorFlow has it (less before than after), None = size // 2.
    """

    size: int = 3
    stride: int = 1
    dtype: Any = jnp.float32
    kernel_init: Any = kaiming_fan_out
    padding: tuple[int, int] | str | None = None
    bias: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", self.kernel_init, (self.size, self.size, 1, x.shape[-1]), jnp.float32)
        kernel = kernel.astype(self.dtype).astype(jnp.float32)
        s, pads = self.stride, [pads_of(self.padding, n, self.size, self.stride) for n in x.shape[1:3]]
        height, width = ((n + sum(pad) - self.size) // s + 1 for n, pad in zip(x.shape[1:3], pads, strict=True))
        x = jnp.pad(x.astype(self.dtype), ((0, 0), *pads, (0, 0)))
        total = jnp.float32(0)
        for i in range(self.size):
            for j in range(self.size):
                shifted = x[:, i : i + s * (height - 1) + 1 : s, j : j + s * (width - 1) + 1 : s]
                total = total + shifted.astype(jnp.float32) * kernel[i : i + 1, j : j + 1]
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
            total = total + bias[None, None, None]
        return total.astype(self.dtype)


class ConvNorm(nn.Module):
    """Convolution without bias, BatchNorm and, unless told otherwise, ReLU."""

    features: int
    size: int = 3
    stride: int = 1
    groups: int = 1
    relu: bool = True
    dtype: Any = jnp.float32
    kernel_init: Any = kaiming_fan_out

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        x = conv(self.features, self.size, self.stride, self.groups, self.dtype, self.kernel_init, name="conv")(x)
        x = norm(train, self.dtype, name="norm")(x)
        return nn.relu(x) if self.relu else x


def conv(
    features: int,
    size: int,
    stride: int = 1,
    groups: int = 1,
    dtype: Any = jnp.float32,
    kernel_init: Any = kaiming_fan_out,
    bias: bool = False,
    name: str | None = None,
) -> nn.Conv:
    return nn.Conv(
        features,
        (size, size),
        (stride, stride),
        padding=size // 2,
        feature_group_count=groups,
        use_bias=bias,
        dtype=dtype,
        kernel_init=kernel_init,
        name=name,
    )


def pads_of(padding: tuple[int, int] | str | None, length: int, size: int, stride: int) -> tuple[int, int]:
    """Returns how much is padded (before, after) an axis of `length`, by what DepthwiseConv calls `padding`."""
    if padding is None:
        return size // 2, size // 2
    if isinstance(padding, str):
        both = max(0, (-(-length // stride) - 1) * stride + size - length)
        return both // 2, both - both // 2
    return padding


def norm(train: bool, dtype: Any = jnp.float32, name: str | None = None) -> nn.BatchNorm:
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype, name=name)


def uniform_fan_in(fan_in: int) -> Any:
    """Returns an initialiser, uniform in +- 1 / sqrt(fan_in), for weights and biases: PyTorch's nn.Linear."""
    bound = 1 / math.sqrt(fan_in)
    return lambda key, shape, dtype=jnp.float32, **_: jax.random.uniform(key, shape, dtype, -bound, bound)


def classify(x: Array, num_classes: int, kernel_init: Any = None, bias_init: Any = None, name: str = "head") -> Array:
    """Maps embeddings to logits; taps "embedding", "head". The head computes in float32 or wider: losses need
    exact logits. Without classes (num_classes = 0) there is no head, and the embeddings are returned."""
    default = uniform_fan_in(x.shape[-1])
    x = Tap(name="embedding")(x)
    if num_classes == 0:
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))
    head = nn.Dense(num_classes, kernel_init=kernel_init or default, bias_init=bias_init or default, name=name)
    return head(x.astype(jnp.promote_types(x.dtype, jnp.float32)))


def classify_map(x: Array, num_classes: int, kernel_init: Any = None, bias_init: Any = None) -> Array:
    """Maps [batch, height, width, channels] to the logits of its mean over space; taps "final" (the map) and those of
    `classify`."""
    return classify(Tap(name="final")(x).mean((1, 2)), num_classes, kernel_init, bias_init)


def shuffle_channels(x: Array, groups: int) -> Array:
    *shape, channels = x.shape
    return x.reshape(*shape, groups, channels // groups).swapaxes(-1, -2).reshape(x.shape)
