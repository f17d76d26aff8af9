"""VGG with BatchNorm and one linear head for 32 x 32 images, in the layout that CIFAR distillation papers share.

Simonyan, Zisserman, "Very Deep Convolutional Networks", 2014, arXiv 1409.1556; the layout is that of Tian et al.,
arXiv 1910.10699: no pooling between the last two stages below 64 x 64, mean pooling instead of dense layers.
Taps: stem, stage1 to stage4 (after the ReLU), stageN/pre_activation, final (what is pooled), embedding, head.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from kd_jax.models.layers import Tap, classify_map, conv, norm
from kd_jax.types import Array

_SMALL = nn.initializers.normal(0.01)


class VGGStage(nn.Module):
    convolutions: int
    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        y = x
        for i in range(1, self.convolutions + 1):
            # These convolutions have a bias in the published code, though BatchNorm removes it.
            y = conv(self.features, 3, dtype=self.dtype, bias=True, name=f"conv{i}")(x)
            y = norm(train, self.dtype, name=f"norm{i}")(y)
            x = nn.relu(y)
        Tap(name="pre_activation")(y)
        return x


class VGG(nn.Module):
    num_classes: int
    convolutions: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    dtype: Any = "float32"

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        dtype = jnp.dtype(self.dtype)
        large = x.shape[1] >= 64
        for i, (convolutions, width) in enumerate(zip(self.convolutions, self.widths, strict=True)):
            if 0 < i < 4 or (i == 4 and large):
                x = nn.max_pool(x, (2, 2), (2, 2))
            x = VGGStage(convolutions, width, dtype, name=f"stage{i}" if i else "stem")(x, train)
        return classify_map(x, self.num_classes, _SMALL, nn.initializers.zeros)


def vgg8(num_classes: int, dtype: Any = "float32", **options: Any) -> VGG:
    return VGG(num_classes, (1, 1, 1, 1, 1), dtype=dtype, **options)


def vgg11(num_classes: int, dtype: Any = "float32", **options: Any) -> VGG:
    return VGG(num_classes, (1, 1, 2, 2, 2), dtype=dtype, **options)


def vgg13(num_classes: int, dtype: Any = "float32", **options: Any) -> VGG:
    return VGG(num_classes, (2, 2, 2, 2, 2), dtype=dtype, **options)


def vgg16(num_classes: int, dtype: Any = "float32", **options: Any) -> VGG:
    return VGG(num_classes, (2, 2, 3, 3, 3), dtype=dtype, **options)


def vgg19(num_classes: int, dtype: Any = "float32", **options: Any) -> VGG:
    return VGG(num_classes, (2, 2, 4, 4, 4), dtype=dtype, **options)
