"""Residual networks: ImageNet ResNet-18, 34 and 50, and ResNet-50 as the CIFAR-100 pairs use it.

He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2015, arXiv 1512.03385. As in torchvision, a
bottleneck has its stride in the 3 x 3 convolution. `groups` and `inner` make ResNeXts (Xie et al., 2016, arXiv
1611.05431) and Wide ResNets of bottlenecks (Zagoruyko, Komodakis, 2016, arXiv 1605.07146). Taps: stem, stageN,
stageN/pre_activation (the sum before the last ReLU), stageN/blockM (a block's sum before its ReLU), final (what is
pooled), embedding, head.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from kd_jax.models.layers import ConvNorm, Tap, classify_map
from kd_jax.types import Array


class Block(nn.Module):
    """Two 3 x 3 convolutions, or 1 x 1, 3 x 3, 1 x 1 for a bottleneck, plus the shortcut; no ReLU after the sum."""

    features: int
    stride: int
    bottleneck: bool
    dtype: Any
    groups: int = 1
    inner: float = 1.0
    stride_first: bool = False
    inner_width: int = 0  # of the first convolution; 0: as wide as the block

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        features, stride, dtype = self.features, self.stride, self.dtype
        out = features * 4 if self.bottleneck else features
        if self.bottleneck:
            inner, strides = int(features * self.inner), (stride, 1) if self.stride_first else (1, stride)
            y = ConvNorm(inner, 1, strides[0], dtype=dtype, name="conv1")(x, train)
            y = ConvNorm(inner, 3, strides[1], self.groups, dtype=dtype, name="conv2")(y, train)
            y = ConvNorm(out, 1, relu=False, dtype=dtype, name="conv3")(y, train)
        else:
            y = ConvNorm(self.inner_width or features, 3, stride, dtype=dtype, name="conv1")(x, train)
            y = ConvNorm(out, 3, relu=False, dtype=dtype, name="conv2")(y, train)
        if stride != 1 or x.shape[-1] != out:
            x = ConvNorm(out, 1, stride, relu=False, dtype=dtype, name="shortcut")(x, train)
        return x + y


class ResidualStage(nn.Module):
    blocks: int
    features: int
    stride: int
    bottleneck: bool
    dtype: Any
    groups: int = 1
    inner: float = 1.0
    stride_first: bool = False
    inner_widths: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        y = x
        options = (self.bottleneck, self.dtype, self.groups, self.inner, self.stride_first)
        for i in range(self.blocks):
            inner = self.inner_widths[i] if self.inner_widths else 0
            y = Block(self.features, self.stride if i == 0 else 1, *options, inner, name=f"block{i}")(x, train)
            x = nn.relu(y)
        Tap(name="pre_activation")(y)
        return x


class ResNet(nn.Module):
    """Stages of residual blocks.

    `large_stem`: 7 x 7 convolution and max-pooling, each with stride 2, for images of about 224 x 224. Of bottlenecks:
    `inner` is the width of their 3 x 3 convolution over `widths`, which has `groups`; `stride_first` puts their stride
    into the first 1 x 1 convolution. `first_stride` is that of the first stage. `inner_widths` are those of the first
    convolution of every block in order, where channels inside of blocks were pruned; no bottleneck takes them.
    """

    num_classes: int
    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    stem_width: int
    bottleneck: bool = False
    large_stem: bool = False
    dtype: Any = "float32"
    groups: int = 1
    inner: float = 1.0
    stride_first: bool = False
    first_stride: int = 1
    inner_widths: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        dtype = jnp.dtype(self.dtype)
        size, stride = (7, 2) if self.large_stem else (3, 1)
        x = ConvNorm(self.stem_width, size, stride, dtype=dtype, name="stem")(x, train)
        if self.large_stem:
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        options = (self.bottleneck, dtype, self.groups, self.inner, self.stride_first)
        if self.inner_widths and (self.bottleneck or len(self.inner_widths) != sum(self.blocks)):
            raise ValueError(
                f"inner_widths are one for each of the {sum(self.blocks)} blocks of two convolutions, not "
                f"{self.inner_widths} of a ResNet with bottleneck={self.bottleneck}."
            )
        first = 0
        for i, (blocks, width) in enumerate(zip(self.blocks, self.widths, strict=True)):
            stride = self.first_stride if i == 0 else 2
            inner, first = self.inner_widths[first : first + blocks], first + blocks
            x = ResidualStage(blocks, width, stride, *options, inner, name=f"stage{i + 1}")(x, train)
        return classify_map(x, self.num_classes)


def resnet18(num_classes: int, dtype: Any = "float32", **options: Any) -> ResNet:
    return _imagenet(num_classes, **{"blocks": (2, 2, 2, 2), "dtype": dtype, **options})


def resnet34(num_classes: int, dtype: Any = "float32", **options: Any) -> ResNet:
    return _imagenet(num_classes, **{"blocks": (3, 4, 6, 3), "dtype": dtype, **options})


def resnet50(num_classes: int, dtype: Any = "float32", **options: Any) -> ResNet:
    return _imagenet(num_classes, **{"blocks": (3, 4, 6, 3), "bottleneck": True, "dtype": dtype, **options})


def resnet50_cifar(num_classes: int, dtype: Any = "float32", **options: Any) -> ResNet:
    """Returns ResNet-50 for 32 x 32 images: 3 x 3 stem, no pooling before the first stage (RepDistiller's ResNet50)."""
    return resnet50(num_classes, dtype, **{"large_stem": False, **options})


def _imagenet(num_classes: int, **options: Any) -> ResNet:
    return ResNet(num_classes, **{"widths": (64, 128, 256, 512), "stem_width": 64, "large_stem": True, **options})
