"""The networks of CIFAR distillation in PyTorch, with the names that RepDistiller and mdistiller give their layers.

Written from the papers and those names: arXiv 1605.07146 (WRN), 1409.1556 (VGG), 1801.04381 (MobileNetV2), 1707.01083
and 1807.11164 (ShuffleNets), 1512.03385 (ResNets).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def conv(inputs, outputs, size=3, stride=1, groups=1, bias=False):
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=bias)


def sequence(*parts):
    return nn.Sequential(*parts)


class Named(nn.Module):
    """Layers under the names that keyword arguments give them."""

    def __init__(self, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)


class Residual(Named):
    """A basic block or a bottleneck; `shortcut` is the name of its projection."""

    def __init__(self, inputs, width, stride, bottleneck, shortcut):
        out = 4 * width if bottleneck else width
        sizes = [(inputs, width, 1, 1), (width, width, 3, stride), (width, out, 1, 1)]
        sizes = sizes if bottleneck else [(inputs, width, 3, stride), (width, out, 3, 1)]
        super().__init__(
            **{f"conv{i}": conv(*size) for i, size in enumerate(sizes, 1)},
            **{f"bn{i}": nn.BatchNorm2d(size[1]) for i, size in enumerate(sizes, 1)},
        )
        self.count, self.projection = len(sizes), shortcut
        if stride != 1 or inputs != out:
            setattr(self, shortcut, sequence(conv(inputs, out, 1, stride), nn.BatchNorm2d(out)))

    def forward(self, x):
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = F.relu(y) if i < self.count else y
        project = getattr(self, self.projection, None)
        return F.relu(y + (x if project is None else project(x)))


class ResNet(nn.Module):
    """`head` "fc": RepDistiller's resnetN and torchdistill's; "linear": its ResNet50."""

    def __init__(self, blocks, widths, stem, classes, bottleneck=False, head="fc"):
        super().__init__()
        self.conv1, self.bn1, self.stages, self.head = conv(3, stem), nn.BatchNorm2d(stem), len(blocks), head
        inputs, shortcut = stem, {"fc": "downsample", "linear": "shortcut"}[head]
        for s, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            layers = []
            for b in range(count):
                layers.append(Residual(inputs, width, 2 if s and not b else 1, bottleneck, shortcut))
                inputs = 4 * width if bottleneck else width
            setattr(self, f"layer{s + 1}", sequence(*layers))
        setattr(self, head, nn.Linear(inputs, classes))

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        for s in range(1, self.stages + 1):
            x = getattr(self, f"layer{s}")(x)
        return getattr(self, self.head)(x.mean((2, 3)))


class Wide(Named):
    """BatchNorm and ReLU first. `raw`: the shortcut reads the input as it is (torchdistill)."""

    def __init__(self, inputs, outputs, stride, raw):
        super().__init__(
            bn1=nn.BatchNorm2d(inputs),
            conv1=conv(inputs, outputs, 3, stride),
            bn2=nn.BatchNorm2d(outputs),
            conv2=conv(outputs, outputs),
        )
        self.raw = raw
        if inputs != outputs:
            project = conv(inputs, outputs, 1, stride)
            setattr(self, *(("shortcut", sequence(project)) if raw else ("convShortcut", project)))

    def forward(self, x):
        y = F.relu(self.bn1(x))
        project = getattr(self, "shortcut" if self.raw else "convShortcut", None)
        x = x if project is None else project(x if self.raw else y)
        return x + self.conv2(F.relu(self.bn2(self.conv1(y))))


class WideResNet(nn.Module):
    def __init__(self, depth, widen, classes, raw=False):
        super().__init__()
        self.conv1, self.raw, inputs = conv(3, 16), raw, 16
        for s, width in enumerate((16, 32, 64), 1):
            blocks = []
            for b in range((depth - 4) // 6):
                blocks.append(Wide(inputs, width * widen, 2 if s > 1 and b == 0 else 1, raw))
                inputs = width * widen
            stage = sequence(*blocks)
            setattr(self, *((f"layer{s}", stage) if raw else (f"block{s}", Named(layer=stage))))
        self.bn1, self.fc = nn.BatchNorm2d(inputs), nn.Linear(inputs, classes)

    def forward(self, x):
        x = self.conv1(x)
        for s in (1, 2, 3):
            x = getattr(self, f"layer{s}")(x) if self.raw else getattr(self, f"block{s}").layer(x)
        return self.fc(F.relu(self.bn1(x)).mean((2, 3)))


class VGG(nn.Module):
    def __init__(self, convolutions, classes, widths=(64, 128, 256, 512, 512)):
        super().__init__()
        inputs = 3
        for i, (count, width) in enumerate(zip(convolutions, widths, strict=True)):
            layers = []
            for _ in range(count):
                layers += [conv(inputs, width, bias=True), nn.BatchNorm2d(width), nn.ReLU()]
                inputs = width
            setattr(self, f"block{i}", sequence(*layers[:-1]))
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, x):
        for i in range(5):
            x = F.max_pool2d(x, 2) if 0 < i < 4 else x
            x = F.relu(getattr(self, f"block{i}")(x))
        return self.classifier(x.mean((2, 3)))


class Inverted(Named):
    def __init__(self, inputs, outputs, stride, expansion):
        wide = inputs * expansion
        super().__init__(
            conv=sequence(
                *(conv(inputs, wide, 1), nn.BatchNorm2d(wide), nn.ReLU()),
                *(conv(wide, wide, 3, stride, wide), nn.BatchNorm2d(wide), nn.ReLU()),
                *(conv(wide, outputs, 1), nn.BatchNorm2d(outputs)),
            )
        )
        self.added = stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.conv(x) if self.added else self.conv(x)


class MobileNetV2(nn.Module):
    SETTING = (
        (1, 16, 1, 1),
        (6, 24, 2, 1),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )

    def __init__(self, classes, width=0.5):
        super().__init__()
        inputs, groups = int(32 * width), []
        self.conv1 = sequence(conv(3, inputs, 3, 2), nn.BatchNorm2d(inputs), nn.ReLU())
        for expansion, channels, count, stride in self.SETTING:
            blocks = []
            for b in range(count):
                blocks.append(Inverted(inputs, int(channels * width), stride if b == 0 else 1, expansion))
                inputs = int(channels * width)
            groups.append(sequence(*blocks))
        self.blocks = nn.ModuleList(groups)
        self.conv2 = sequence(conv(inputs, 1280, 1), nn.BatchNorm2d(1280), nn.ReLU())
        self.classifier = sequence(nn.Linear(1280, classes))

    def forward(self, x):
        x = self.conv1(x)
        for group in self.blocks:
            x = group(x)
        return self.classifier(self.conv2(x).mean((2, 3)))


def shuffled(x, groups):
    batch, channels, *space = x.shape
    return x.reshape(batch, groups, channels // groups, *space).transpose(1, 2).reshape(x.shape)


def chain(**sizes):
    """Convolutions conv1, conv2, ... with their BatchNorms bn1, bn2, ..."""
    return {f"conv{n[1:]}": conv(*size) for n, size in sizes.items()} | {
        f"bn{n[1:]}": nn.BatchNorm2d(size[1]) for n, size in sizes.items()
    }


class UnitV1(Named):
    def __init__(self, inputs, outputs, stride, groups):
        middle, self_groups = outputs // 4, 1 if inputs == 24 else groups
        sizes = {
            "c1": (inputs, middle, 1, 1, self_groups),
            "c2": (middle, middle, 3, stride, middle),
            "c3": (middle, outputs, 1, 1, groups),
        }
        super().__init__(**chain(**sizes))
        self.stride, self.groups = stride, self_groups

    def forward(self, x):
        y = shuffled(F.relu(self.bn1(self.conv1(x))), self.groups)
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return F.relu(x + y if self.stride == 1 else torch.cat([y, F.avg_pool2d(x, 3, 2, 1)], 1))


class ShuffleV1(nn.Module):
    def __init__(self, classes, widths=(240, 480, 960), units=(4, 8, 4), groups=3):
        super().__init__()
        self.conv1, self.bn1, inputs = conv(3, 24, 1), nn.BatchNorm2d(24), 24
        for s, (width, count) in enumerate(zip(widths, units, strict=True), 1):
            blocks = [UnitV1(inputs, width - inputs, 2, groups)]
            blocks += [UnitV1(width, width, 1, groups) for _ in range(count - 1)]
            setattr(self, f"layer{s}", sequence(*blocks))
            inputs = width
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


class DownV2(Named):
    def __init__(self, inputs, outputs):
        half = outputs // 2
        left = {"c1": (inputs, inputs, 3, 2, inputs), "c2": (inputs, half, 1)}
        right = {"c3": (inputs, half, 1), "c4": (half, half, 3, 2, half), "c5": (half, half, 1)}
        super().__init__(**chain(**left, **right))

    def forward(self, x):
        left = F.relu(self.bn2(self.conv2(self.bn1(self.conv1(x)))))
        right = self.bn4(self.conv4(F.relu(self.bn3(self.conv3(x)))))
        return shuffled(torch.cat([left, F.relu(self.bn5(self.conv5(right)))], 1), 2)


class UnitV2(Named):
    def __init__(self, width):
        half = width // 2
        super().__init__(**chain(c1=(half, half, 1), c2=(half, half, 3, 1, half), c3=(half, half, 1)))

    def forward(self, x):
        first, y = x.chunk(2, 1)
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(y)))))
        return shuffled(torch.cat([first, F.relu(self.bn3(self.conv3(y)))], 1), 2)


class ShuffleV2(nn.Module):
    def __init__(self, classes, widths=(116, 232, 464), units=(3, 7, 3), last=1024):
        super().__init__()
        self.conv1, self.bn1, inputs = conv(3, 24, 1), nn.BatchNorm2d(24), 24
        for s, (width, count) in enumerate(zip(widths, units, strict=True), 1):
            setattr(self, f"layer{s}", sequence(DownV2(inputs, width), *(UnitV2(width) for _ in range(count))))
            inputs = width
        self.conv2, self.bn2, self.linear = conv(inputs, last, 1), nn.BatchNorm2d(last), nn.Linear(last, classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(F.relu(self.bn2(self.conv2(x))).mean((2, 3)))
