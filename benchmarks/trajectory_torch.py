"""ResNets and connectors of kd_jax in PyTorch, on its weights: layers read them by their paths in kd_jax."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from flax import traverse_util
from torch import Tensor

Taps = dict[str, Tensor]


def layout(x: Any) -> np.ndarray:
    """Returns a weight of kd_jax as PyTorch lays it out: outputs, inputs, height, width."""
    x = np.asarray(x, np.float64)
    return x.transpose(3, 2, 0, 1) if x.ndim == 4 else x.T if x.ndim == 2 else x


class Weights:
    """The parameters and BatchNorm averages of one network; without `train` it is frozen, and its averages are used."""

    def __init__(self, params: Any, stats: Mapping[str, Any], train: bool = True, moved: float = 0.0) -> None:
        rng = np.random.default_rng(0)
        self.train, self.values = train, {}
        for path, x in traverse_util.flatten_dict(params, sep="/").items():
            x = layout(x)
            x = x * (1 + moved * rng.normal(size=x.shape))
            self.values[path] = torch.tensor(x, requires_grad=train)
        stats = traverse_util.flatten_dict(dict(stats.get("batch_stats", {})), sep="/")
        self.averages = {path: torch.tensor(np.asarray(x, np.float64)) for path, x in stats.items()}

    def __contains__(self, path: str) -> bool:
        return path in self.values

    def __getitem__(self, path: str) -> Tensor:
        return self.values[path]

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        kernel = self[f"{name}/kernel"]
        return F.conv2d(x, kernel, self.values.get(f"{name}/bias"), stride, kernel.shape[-1] // 2)

    def transposed(self, name: str, x: Tensor) -> Tensor:
        """Returns a transposed 3 x 3 convolution of stride 1: its kernel is that of the plain one, turned around."""
        kernel = self[f"{name}/kernel"].flip(2, 3).transpose(0, 1)
        return F.conv_transpose2d(x, kernel, self[f"{name}/bias"], padding=1)

    def dense(self, name: str, x: Tensor) -> Tensor:
        """Returns a linear layer on vectors, a 1 x 1 convolution on maps."""
        kernel, bias = self[f"{name}/kernel"], self.values.get(f"{name}/bias")
        return F.conv2d(x, kernel[:, :, None, None], bias) if x.ndim == 4 else F.linear(x, kernel, bias)

    def norm(self, name: str, x: Tensor) -> Tensor:
        averages = (None, None) if self.train else (self.averages[f"{name}/mean"], self.averages[f"{name}/var"])
        return F.batch_norm(x, *averages, self[f"{name}/scale"], self[f"{name}/bias"], self.train)

    def conv_norm(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        return self.norm(f"{name}/norm", self.conv(f"{name}/conv", x, stride))

    def flat(self, without: str = "\n") -> np.ndarray:
        """Returns all values in one row, but for those whose path begins with `without`."""
        chosen = (v.detach().reshape(-1) for p, v in self.values.items() if not p.startswith(without))
        return torch.cat(list(chosen)).numpy()


def resnet(w: Weights, x: Tensor) -> Taps:
    """Returns the taps of kd_jax.models.vision.cifar_resnet, and the logits."""
    large = w["stem/conv/kernel"].shape[-1] == 7
    taps = {"stem": (x := F.relu(w.conv_norm("stem", x, 2 if large else 1)))}
    x = F.max_pool2d(x, 3, 2, 1) if large else x
    for stage in ("stage1", "stage2", "stage3"):
        block = 0
        while f"{(name := f'{stage}/block{block}')}/conv1/conv/kernel" in w:
            stride = 2 if stage != "stage1" and block == 0 else 1
            y = w.conv_norm(f"{name}/conv2", F.relu(w.conv_norm(f"{name}/conv1", x, stride)))
            y = y + (w.conv_norm(f"{name}/shortcut", x, stride) if f"{name}/shortcut/conv/kernel" in w else x)
            x, block = F.relu(y), block + 1
        taps |= {f"{stage}/pre_activation": y, stage: x}
    taps |= {"final": x, "embedding": x.mean((2, 3))}
    return taps | {"logits": w.dense("head", taps["embedding"])}


def regressor(w: Weights, x: Tensor, relu: bool = True) -> Tensor:
    """Returns the regressor of hints between maps of one size: convolution with bias, BatchNorm, ReLU."""
    x = w.norm("norm", w.conv("conv", x))
    return F.relu(x) if relu else x


def projection(w: Weights, x: Tensor) -> Tensor:
    """Returns a 1 x 1 convolution without bias and BatchNorm: OFD, ICKD."""
    return w.norm("norm", w.dense("dense", x))


def paraphraser(w: Weights, x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (the factor, the reconstruction): three 3 x 3 convolutions, three transposed, leaky ReLU after each."""
    for i in range(3):
        x = F.leaky_relu(w.conv(f"encoder{i}", x), 0.1)
    factor = x
    for i in range(3):
        x = F.leaky_relu(w.transposed(f"decoder{i}", x), 0.1)
    return factor, x


def translator(w: Weights, x: Tensor) -> Tensor:
    for i in range(3):
        x = F.leaky_relu(w.norm(f"norm{i}", w.conv(f"conv{i}", x)), 0.1)
    return x


def projector(w: Weights, x: Tensor) -> Tensor:
    """Returns SimKD's projector: 1 x 1, 3 x 3, 1 x 1, each with BatchNorm and ReLU."""
    for i in range(3):
        x = F.relu(w.norm(f"norm{i}", w.conv(f"conv{i}", x)))
    return x


def fusion(w: Weights, maps: list[Tensor], sizes: list[int]) -> list[Tensor]:
    """Returns ReviewKD's fusion: from deep to shallow each map meets what the deeper one left, by attention."""
    fused: list[Tensor] = []
    left = None
    for i in reversed(range(len(maps))):
        x = maps[i] if maps[i].ndim == 4 else maps[i][:, :, None, None]
        x = w.norm(f"norm{i}_in", w.conv(f"conv{i}_in", x))
        if left is not None:
            left = F.interpolate(left, x.shape[2:], mode="nearest")
            attention = torch.sigmoid(w.dense(f"attention{i}", torch.cat([x, left], 1)))
            x = x * attention[:, :1] + left * attention[:, 1:]
        left = F.interpolate(x, (sizes[i], sizes[i]), mode="nearest")
        fused.append(w.norm(f"norm{i}_out", w.conv(f"conv{i}_out", left)))
    return fused[::-1]
