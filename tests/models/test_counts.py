"""Parameter counts against the published PyTorch networks: nothing is computed, only shapes.

`by_hand` counts again from the architecture in plain arithmetic, so a wrong layout cannot hide behind a remembered sum.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import pytest

from kd_jax.models.adapters import LinenModel
from kd_jax.models.vision import cifar_resnet, mobilenet, regnet, resnet, shufflenet, vgg, vit, wide_resnet


def count(module, size=32, channels=3):
    image = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    params, _ = jax.eval_shape(LinenModel(module).init, jax.random.key(0), image)
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def conv_norm(cin, cout, k=3, groups=1):
    return k * k * cin * cout // groups + 2 * cout


def cifar_by_hand(depth, stem, widths):
    total, cin = conv_norm(3, stem), stem
    for i, width in enumerate(widths):
        for j in range((depth - 2) // 6):
            total += conv_norm(cin, width) + conv_norm(width, width)
            total += conv_norm(cin, width, 1) if j == 0 and (i > 0 or cin != width) else 0
            cin = width
    return total + cin * 100 + 100


def wide_by_hand(depth, widen):
    total, cin = 3 * 9 * 16, 16
    for width in (16 * widen, 32 * widen, 64 * widen):
        for _ in range((depth - 4) // 6):
            total += 2 * cin + 9 * cin * width + 2 * width + 9 * width * width + (cin * width if cin != width else 0)
            cin = width
    return total + 2 * cin + cin * 100 + 100


def vgg_by_hand(convolutions):
    total, cin = 0, 3
    for n, width in zip(convolutions, (64, 128, 256, 512, 512), strict=True):
        for _ in range(n):
            total += conv_norm(cin, width) + width
            cin = width
    return total + 512 * 100 + 100


def mobilenet_by_hand():
    total, cin = conv_norm(3, 16), 16
    for t, cout, n in ((1, 8, 1), (6, 12, 2), (6, 16, 3), (6, 32, 4), (6, 48, 3), (6, 80, 3), (6, 160, 1)):
        for _ in range(n):
            total += conv_norm(cin, cin * t, 1) + conv_norm(cin * t, cin * t, 3, cin * t) + conv_norm(cin * t, cout, 1)
            cin = cout
    return total + conv_norm(cin, 1280, 1) + 1280 * 100 + 100


def shuffle_v1_by_hand():
    total, cin = conv_norm(3, 24, 1), 24
    for width, n in ((240, 4), (480, 8), (960, 4)):
        for i in range(n):
            cout = width - cin if i == 0 else width
            mid = cout // 4
            total += conv_norm(cin, mid, 1, 1 if cin == 24 else 3) + conv_norm(mid, mid, 3, mid)
            total += conv_norm(mid, cout, 1, 3)
            cin = width
    return total + 960 * 100 + 100


def shuffle_v2_by_hand():
    total, cin = conv_norm(3, 24, 1), 24
    for width, n in ((116, 4), (232, 8), (464, 4)):
        half = width // 2
        total += conv_norm(cin, cin, 3, cin) + conv_norm(cin, half, 1)
        for i in range(n):
            total += conv_norm(cin if i == 0 else half, half, 1) + conv_norm(half, half, 3, half)
            total += conv_norm(half, half, 1)
        cin = width
    return total + conv_norm(464, 1024, 1) + 1024 * 100 + 100


def resnet_by_hand(blocks, bottleneck, stem, classes):
    total, cin = conv_norm(3, 64, stem), 64
    for i, (n, width) in enumerate(zip(blocks, (64, 128, 256, 512), strict=True)):
        out = width * 4 if bottleneck else width
        for j in range(n):
            if bottleneck:
                total += conv_norm(cin, width, 1) + conv_norm(width, width) + conv_norm(width, out, 1)
            else:
                total += conv_norm(cin, width) + conv_norm(width, out)
            total += conv_norm(cin, out, 1) if j == 0 and (i > 0 or cin != out) else 0
            cin = out
    return total + cin * classes + classes


@pytest.mark.parametrize(
    ("make", "published", "by_hand"),
    [
        (cifar_resnet.resnet8, None, cifar_by_hand(8, 16, (16, 32, 64))),
        (cifar_resnet.resnet14, None, cifar_by_hand(14, 16, (16, 32, 64))),
        (cifar_resnet.resnet20, 278_324, cifar_by_hand(20, 16, (16, 32, 64))),
        (cifar_resnet.resnet32, 472_756, cifar_by_hand(32, 16, (16, 32, 64))),
        (cifar_resnet.resnet44, None, cifar_by_hand(44, 16, (16, 32, 64))),
        (cifar_resnet.resnet56, 861_620, cifar_by_hand(56, 16, (16, 32, 64))),
        (cifar_resnet.resnet110, 1_736_564, cifar_by_hand(110, 16, (16, 32, 64))),
        (cifar_resnet.resnet8x4, 1_233_540, cifar_by_hand(8, 32, (64, 128, 256))),
        (cifar_resnet.resnet32x4, 7_433_860, cifar_by_hand(32, 32, (64, 128, 256))),
        (wide_resnet.wrn_16_1, None, wide_by_hand(16, 1)),
        (wide_resnet.wrn_16_2, 703_284, wide_by_hand(16, 2)),
        (wide_resnet.wrn_40_1, 569_780, wide_by_hand(40, 1)),
        (wide_resnet.wrn_40_2, 2_255_156, wide_by_hand(40, 2)),
        (vgg.vgg8, 3_965_028, vgg_by_hand((1, 1, 1, 1, 1))),
        (vgg.vgg11, None, vgg_by_hand((1, 1, 2, 2, 2))),
        (vgg.vgg13, 9_462_180, vgg_by_hand((2, 2, 2, 2, 2))),
        (vgg.vgg16, None, vgg_by_hand((2, 2, 3, 3, 3))),
        (vgg.vgg19, None, vgg_by_hand((2, 2, 4, 4, 4))),
        (mobilenet.mobilenet_v2, 812_836, mobilenet_by_hand()),
        (shufflenet.shufflenet_v1, 949_258, shuffle_v1_by_hand()),
        (shufflenet.shufflenet_v2, 1_355_528, shuffle_v2_by_hand()),
        (resnet.resnet50_cifar, 23_705_252, resnet_by_hand((3, 4, 6, 3), True, 3, 100)),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_cifar_100(make, published, by_hand):
    assert count(make(100)) == by_hand
    assert published in (None, by_hand)


def mobilenet_v1_by_hand():
    widths = (32, 64, 128, 128, 256, 256, *(512,) * 6, 1024, 1024)
    blocks = sum(9 * a + 2 * a + a * b + 2 * b for a, b in itertools.pairwise(widths))
    return 27 * 32 + 64 + blocks + 1024 * 1000 + 1000


@pytest.mark.parametrize(
    ("make", "published", "by_hand"),
    [
        (mobilenet.mobilenet_v1, 4_231_976, mobilenet_v1_by_hand()),
        (resnet.resnet18, 11_689_512, resnet_by_hand((2, 2, 2, 2), False, 7, 1000)),
        (resnet.resnet34, 21_797_672, resnet_by_hand((3, 4, 6, 3), False, 7, 1000)),
        (resnet.resnet50, 25_557_032, resnet_by_hand((3, 4, 6, 3), True, 7, 1000)),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_imagenet(make, published, by_hand):
    assert count(make(1000), 224) == published == by_hand


@pytest.mark.parametrize(("distilled", "published"), [(False, 5_717_416), (True, 5_910_800)])
def test_deit_tiny(distilled, published):
    module = vit.vit(1000, patch=16, width=192, depth=12, heads=3, distillation_token=distilled)
    assert count(module, 224) == published


def test_any_depth_of_channels_and_size():
    assert count(cifar_resnet.resnet20(10), 28, 1) == count(cifar_resnet.resnet20(10), 32, 3) - 2 * 9 * 16


@pytest.mark.parametrize(("build", "published"), [("regnet_y_16gf", 83_590_140), ("regnet_y_400mf", 4_344_144)])
def test_regnets(build, published):
    """Counts of torchvision's documentation."""
    assert count(getattr(regnet, build)(1000), 64) == published
