"""ResNets of depth 6n + 2 with three stages for 32 x 32 images, in the layout that CIFAR distillation papers share.

He et al., arXiv 1512.03385, section 4.2; the x4 variants are those of Tian, Krishnan, Isola, "Contrastive
Representation Distillation", 2020, arXiv 1910.10699. Taps as in kd_jax.models.vision.resnet.
Options are the fields of ResNet, for example `widths=(4, 8, 8), stem_width=4` for a tiny one.
"""

from __future__ import annotations

from typing import Any

from kd_jax.models.vision.resnet import ResNet


def resnet8(num_classes: int, dtype: Any = "float32", **options: Any) -> ResNet:
    return _cifar(8, num_classes, dtype=dtype, **options)


def resnet14(num_classes: int, dtype: Any = "float32", **options: Any) -> ResNet:
    return _cifar(14, num_classes, dtype=dtype, **options)


def resnet20(num_classes: int, dtype: Any = "float32", **options: Any) -> ResNet:
    return _cifar(20, num_classes, dtype=dtype, **options)


def resnet32(num_classes: int, dtype: Any = "float32", **options: Any) -> ResNet:
    return _cifar(32, num_classes, dtype=dtype, **options)


def resnet44(num_classes: int, dtype: Any = "float32", **options: Any) -> ResNet:
    return _cifar(44, num_classes, dtype=dtype, **options)


def resnet56(num_classes: int, dtype: Any = "float32", **options: Any) -> ResNet:
    return _cifar(56, num_classes, dtype=dtype, **options)


def resnet110(num_classes: int, dtype: Any = "float32", **options: Any) -> ResNet:
    return _cifar(110, num_classes, dtype=dtype, **options)


def resnet8x4(num_classes: int, dtype: Any = "float32", **options: Any) -> ResNet:
    """Returns a ResNet four times as wide as resnet8; the stem is 32 wide, not 64."""
    return _cifar(8, num_classes, **{"widths": (64, 128, 256), "stem_width": 32, "dtype": dtype, **options})


def resnet32x4(num_classes: int, dtype: Any = "float32", **options: Any) -> ResNet:
    """Returns a ResNet four times as wide as resnet32; the stem is 32 wide, not 64."""
    return _cifar(32, num_classes, **{"widths": (64, 128, 256), "stem_width": 32, "dtype": dtype, **options})


def _cifar(depth: int, num_classes: int, **options: Any) -> ResNet:
    blocks = ((depth - 2) // 6,) * 3
    return ResNet(num_classes, **{"blocks": blocks, "widths": (16, 32, 64), "stem_width": 16, **options})
