"""EfficientNet, EfficientNet-Lite and MobileNetV3: inverted residuals with squeeze-and-excitation.

Tan, Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019, arXiv 1905.11946; Howard et
al., "Searching for MobileNetV3", 2019, arXiv 1905.02244; squeeze-and-excitation: Hu et al., 2017, arXiv 1709.01507.
Deviation: no dropout and no stochastic depth. Taps: stem, stage1 to stage4 (the ends of the groups of blocks at 1/4 to
1/32 of the image's side, as in ResNets; linear, so that stageN/pre_activation is the same value), groupN_blockM, final
(what is pooled), embedding, head.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from kd_jax.models.layers import DepthwiseConv, Tap, classify, kaiming_fan_out
from kd_jax.models.vision.mobilenet import LinearStage
from kd_jax.types import Array

ACTIVATIONS = {"silu": nn.silu, "relu": nn.relu, "relu6": nn.relu6, "hard_swish": nn.hard_swish}
GATES = {"sigmoid": nn.sigmoid, "hard_sigmoid": nn.hard_sigmoid}
STAGES = {
    4: "stage1",
    8: "stage2",
    16: "stage3",
    32: "stage4",
}  # by how many pixels of the image one of theirs stands for
Padding = tuple[int, int] | str | None


class Inverted(NamedTuple):
    """An inverted residual: `features` come out, `expanded` go through the depthwise convolution of `size`.

    `expand`: a 1 x 1 convolution comes first. `squeeze`: the width of its squeeze-and-excitation, 0 for none. `skip`:
    the input is added. `padding`: of the depthwise convolution, as in kd_jax.models.layers.DepthwiseConv.
    """

    features: int
    expanded: int
    size: int
    stride: int
    expand: bool
    squeeze: int
    skip: bool
    activation: str
    padding: Padding = None


class Squeeze(nn.Module):
    """Scales channels by what two 1 x 1 convolutions make of their means."""

    features: int
    activation: str
    gate: str
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = x.mean((1, 2), keepdims=True)
        y = ACTIVATIONS[self.activation](nn.Conv(self.features, (1, 1), dtype=self.dtype, name="reduce")(y))
        return x * GATES[self.gate](nn.Conv(x.shape[-1], (1, 1), dtype=self.dtype, name="expand")(y))


class Normed(nn.Module):
    """Convolution without bias, BatchNorm, and the activation that is named."""

    features: int
    size: int
    stride: int
    activation: str
    epsilon: float
    dtype: Any
    padding: Padding = None

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        same = [self.padding or (self.size // 2,) * 2] * 2
        padding = self.padding if isinstance(self.padding, str) else same
        size, stride = (self.size,) * 2, (self.stride,) * 2
        options = {"use_bias": False, "dtype": self.dtype, "kernel_init": kaiming_fan_out}
        x = nn.Conv(self.features, size, stride, padding=padding, **options, name="conv")(x)
        x = batch_norm(train, self.epsilon, self.dtype, "norm")(x)
        return ACTIVATIONS[self.activation](x) if self.activation else x


class InvertedResidual(nn.Module):
    block: Inverted
    epsilon: float
    squeeze_activation: str
    gate: str
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        block, y = self.block, x
        if block.expand:
            y = Normed(block.expanded, 1, 1, block.activation, self.epsilon, self.dtype, name="expand")(y, train)
        depthwise = DepthwiseConv(block.size, block.stride, self.dtype, padding=block.padding, name="depthwise")
        y = batch_norm(train, self.epsilon, self.dtype, "depthwise_norm")(depthwise(y))
        y = ACTIVATIONS[block.activation](y)
        if block.squeeze:
            y = Squeeze(block.squeeze, self.squeeze_activation, self.gate, self.dtype, name="squeeze")(y)
        y = Normed(block.features, 1, 1, "", self.epsilon, self.dtype, name="project")(y, train)
        return x + y if block.skip else y


class EfficientNet(nn.Module):
    """Groups of inverted residuals between two convolutions.

    `stem` and `last` are the widths of the first and the last convolution; `hidden` that of a dense layer before the
    head, 0 for none; `padding` is that of the stem.
    """

    num_classes: int
    stem: int
    groups: tuple[tuple[Inverted, ...], ...]
    last: int
    activation: str = "silu"
    hidden: int = 0
    squeeze_activation: str = "silu"
    gate: str = "sigmoid"
    epsilon: float = 1e-3
    padding: Padding = None
    dtype: Any = "float32"

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        dtype, scale = jnp.dtype(self.dtype), 2
        x = Normed(self.stem, 3, 2, self.activation, self.epsilon, dtype, self.padding, name="stem")(x, train)
        for i, group in enumerate(self.groups):
            if group[0].stride == 2 and i and scale in STAGES:
                x = LinearStage(name=STAGES[scale])(x)
            scale *= group[0].stride
            for j, block in enumerate(group):
                options = (self.epsilon, self.squeeze_activation, self.gate, dtype)
                x = InvertedResidual(block, *options, name=f"group{i}_block{j}")(x, train)
        x = LinearStage(name=STAGES[scale])(x) if scale in STAGES else x
        x = Normed(self.last, 1, 1, self.activation, self.epsilon, dtype, name="last")(x, train)
        x = Tap(name="final")(x).mean((1, 2))
        if self.hidden:
            x = ACTIVATIONS[self.activation](nn.Dense(self.hidden, dtype=dtype, name="hidden")(x))
        return classify(x, self.num_classes)


def batch_norm(train: bool, epsilon: float, dtype: Any, name: str) -> nn.BatchNorm:
    """Returns BatchNorm with the momentum of EfficientNet."""
    return nn.BatchNorm(use_running_average=not train, momentum=0.99, epsilon=epsilon, dtype=dtype, name=name)
