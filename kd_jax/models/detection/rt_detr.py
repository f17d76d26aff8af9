"""RT-DETR: maps of three strides, fused by attention and convolutions, whose surest cells become boxes.

Zhao, Lv, Xu, Wei, Wang, Dang, Liu, Chen, "DETRs Beat YOLOs on Real-time Object Detection", 2023, arXiv 2304.08069, as
`transformers` computes it in evaluation (RTDetrForObjectDetection). kd_jax/models/detection/rt_detr_folder.py reads its
weights. Taps: level0, level1, level2 (fused maps, the finest first), decoder, class_logits (of all classes).
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.models.detection.deformable import DeformableAttention
from kd_jax.models.detection.detr import EPSILON, Attention, Layer
from kd_jax.models.layers import ConvNorm, Tap
from kd_jax.types import Array

ANCHOR = 0.05  # the side of a box that a cell of the finest level starts from, as a share of the picture's
MARGIN = 0.01  # cells whose first box reaches so near to the border answer nothing
STRIDE = 32  # of the coarsest level


class Bottleneck(nn.Module):
    """A residual block of ResNet-vd: its shortcut pools before it projects, where the block halves the map."""

    features: int
    stride: int
    deep: bool  # 1 x 1, 3 x 3, 1 x 1 in place of two 3 x 3
    projects: bool
    pools: bool
    stride_first: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        short = x
        if self.projects:
            short = nn.avg_pool(x, (2, 2), (2, 2)) if self.pools else x
            short = ConvNorm(self.features, 1, 1 if self.pools else self.stride, relu=False, name="shortcut")(
                short, False
            )
        if self.deep:
            inner = self.features // 4
            y = ConvNorm(inner, 1, self.stride if self.stride_first else 1, name="conv1")(x, False)
            y = ConvNorm(inner, 3, 1 if self.stride_first else self.stride, name="conv2")(y, False)
            y = ConvNorm(self.features, 1, relu=False, name="conv3")(y, False)
        else:
            y = ConvNorm(self.features, 3, self.stride, name="conv1")(x, False)
            y = ConvNorm(self.features, 3, relu=False, name="conv2")(y, False)
        return nn.relu(y + short)


class Backbone(nn.Module):
    """ResNet-vd (He et al., 2018, arXiv 1812.01187): its last three maps; BatchNorm uses the stored averages."""

    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    stem_width: int
    deep: bool
    stride_first: bool
    first_stride: int

    @nn.compact
    def __call__(self, x: Array) -> list[Array]:
        for i, (width, stride) in enumerate(
            ((self.stem_width // 2, 2), (self.stem_width // 2, 1), (self.stem_width, 1))
        ):
            x = ConvNorm(width, 3, stride, name=f"stem{i}")(x, False)
        x, maps = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))), []
        for stage, (blocks, width) in enumerate(zip(self.blocks, self.widths, strict=True)):
            for i in range(blocks):
                stride = 1 if i else (2 if stage else self.first_stride)
                shape = self.shortcut(x.shape[-1], width, stride, i == 0)
                block = Bottleneck(
                    width, stride, self.deep, *shape, self.stride_first, name=f"stage{stage + 1}_block{i}"
                )
                x = block(x)
            maps.append(x)
        return maps[-3:]

    def shortcut(self, channels: int, width: int, stride: int, first: bool) -> tuple[bool, bool]:
        """Returns whether the shortcut of a block projects, and whether it pools before."""
        if self.deep:
            return channels != width or stride != 1, stride == 2
        return first, first and channels != width


def silu_conv(x: Array, features: int, size: int, stride: int = 1, *, name: str, active: bool = True) -> Array:
    x = ConvNorm(features, size, stride, relu=False, name=name)(x, False)
    return nn.silu(x) if active else x


class Fusion(nn.Module):
    """Two maps, side by side in the channels, become one: three RepVGG blocks beside a 1 x 1 convolution (CSP)."""

    features: int
    hidden: int
    blocks: int = 3

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = silu_conv(x, self.hidden, 1, name="conv1")
        for i in range(self.blocks):
            parts = [silu_conv(y, self.hidden, n, name=f"block{i}_conv{n}", active=False) for n in (3, 1)]
            y = nn.silu(parts[0] + parts[1])
        y = y + silu_conv(x, self.hidden, 1, name="conv2")
        return y if self.hidden == self.features else silu_conv(y, self.features, 1, name="conv3")


class HybridEncoder(nn.Module):
    """Attention within the levels `attended` (AIFI), then fusion from the coarsest to the finest and back (CCFM)."""

    features: int
    hidden: int
    attention: tuple[int, int, int]  # layers, heads, hidden units
    attended: tuple[int, ...]
    positions: bool

    @nn.compact
    def __call__(self, maps: list[Array]) -> list[Array]:
        maps = [ConvNorm(self.features, 1, relu=False, name=f"input{i}")(x, False) for i, x in enumerate(maps)]
        layers, heads, units = self.attention
        gelu = functools.partial(nn.gelu, approximate=False)
        for n, level in enumerate(self.attended if layers else ()):
            x = maps[level]
            place = jnp.asarray(sines(x.shape[1], x.shape[2], self.features) * self.positions)[None]
            y = x.reshape(len(x), -1, self.features)
            for i in range(layers):
                y = Layer(heads, units, gelu, name=f"attention{n}_{i}")(y, place)
            maps[level] = y.reshape(x.shape)
        fuse, count = functools.partial(Fusion, self.features, self.hidden), len(maps) - 1
        down = [maps[-1]]
        for i in range(count):
            down[0] = silu_conv(down[0], self.features, 1, name=f"lateral{i}")
            wide = down[0].repeat(2, axis=1).repeat(2, axis=2)
            down.insert(0, fuse(name=f"down{i}")(jnp.concatenate([wide, maps[count - 1 - i]], -1)))
        up = [down[0]]
        for i in range(count):
            narrow = silu_conv(up[-1], self.features, 3, 2, name=f"halved{i}")
            up.append(fuse(name=f"up{i}")(jnp.concatenate([narrow, down[i + 1]], -1)))
        return up


class Mlp(nn.Module):
    sizes: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i, size in enumerate(self.sizes):
            x = nn.Dense(size, name=f"layer{i}")(nn.relu(x) if i else x)
        return x


class DecoderLayer(nn.Module):
    """Attention among the queries, deformable attention to the maps around their boxes, and an MLP."""

    heads: int
    hidden: int
    points: int

    @nn.compact
    def __call__(self, x: Array, place: Array, maps: list[Array], boxes: Array) -> Array:
        x = nn.LayerNorm(EPSILON, name="self_attn_layer_norm")(
            x + Attention(self.heads, name="self_attn")(x, place, x, place)
        )
        y = DeformableAttention(self.heads, self.points, name="encoder_attn")(x + place, maps, boxes)
        x = nn.LayerNorm(EPSILON, name="encoder_attn_layer_norm")(x + y)
        y = nn.Dense(x.shape[-1], name="fc2")(nn.relu(nn.Dense(self.hidden, name="fc1")(x)))
        return nn.LayerNorm(EPSILON, name="final_layer_norm")(x + y)


class RtDetr(nn.Module):
    """Pictures [batch, height, width, channels] to {"classes" [batch, queries, classes], "boxes" [batch, queries, 4]}.

    The sigmoid of a class logit is the probability of the class. Boxes are (x1, y1, x2, y2) in pixels of a picture of
    `picture` (height, width), which is what the network sees where it is (). `chosen` are the numbers of the classes
    that are answered, in order; () are all. Where a picture has fewer cells than `queries`, each of them is a query.
    ValueError for pictures that are no multiple of 32.
    """

    num_classes: int
    backbone: dict[str, Any]
    encoder: dict[str, Any]
    width: int
    queries: int
    decoder: tuple[int, int, int, int]  # layers, heads, hidden units, sampled points of a level
    picture: tuple[int, ...] = ()
    chosen: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, x: Array) -> dict[str, Array]:
        if x.shape[1] % STRIDE or x.shape[2] % STRIDE:
            raise ValueError(f"RT-DETR reads pictures of multiples of {STRIDE}, not {x.shape[1]} x {x.shape[2]} pixels")
        height, width = self.picture or x.shape[1:3]
        maps = Backbone(**self.backbone, name="backbone")(x.astype(jnp.float32))
        maps = HybridEncoder(**self.encoder, name="encoder")(maps)
        maps = [Tap(name=f"level{i}")(level) for i, level in enumerate(maps)]
        maps = [ConvNorm(self.width, 1, relu=False, name=f"input{i}")(level, False) for i, level in enumerate(maps)]
        y, raw = self._selected(maps)
        boxes, (layers, *sizes) = jax.nn.sigmoid(raw), self.decoder
        place = Mlp((2 * self.width, self.width), name="query_pos_head")
        for i in range(layers):
            y = DecoderLayer(*sizes, name=f"decoder{i}")(y, place(boxes), maps, boxes)
            moved = Mlp((self.width, self.width, 4), name=f"bbox{i}")(y)
            boxes = jax.nn.sigmoid(moved + logit(boxes))
        y = Tap(name="decoder")(y)
        # The heads of the layers before the last are of their training alone.
        logits = Tap(name="class_logits")(nn.Dense(self.num_classes, name=f"class{layers - 1}")(y))
        centre, half = boxes[..., :2], boxes[..., 2:] / 2
        scale = jnp.asarray([width, height, width, height], jnp.float32)[None, None]
        numbers = np.asarray(self.chosen or range(self.num_classes))
        return {"classes": logits[..., numbers], "boxes": jnp.concatenate([centre - half, centre + half], -1) * scale}

    def _selected(self, maps: list[Array]) -> tuple[Array, Array]:
        """The cells whose best class is surest: their features and the logits of their boxes."""
        anchors, valid = anchors_of(tuple(level.shape[1:3] for level in maps))
        cells = jnp.concatenate([level.reshape(len(level), -1, self.width) for level in maps], 1) * valid[None]
        cells = nn.LayerNorm(EPSILON, name="enc_norm")(nn.Dense(self.width, name="enc_dense")(cells))
        scores = nn.Dense(self.num_classes, name="enc_score_head")(cells).max(-1)
        boxes = Mlp((self.width, self.width, 4), name="enc_bbox_head")(cells) + anchors[None]
        _, chosen = jax.lax.top_k(scores, min(self.queries, scores.shape[1]))
        cells, boxes = (jnp.take_along_axis(x, chosen[..., None], axis=1) for x in (cells, boxes))
        return cells, boxes


def logit(p: Array, least: float = 1e-5) -> Array:
    return jnp.log(jnp.maximum(p, least) / jnp.maximum(1 - p, least))


def anchors_of(sizes: tuple[tuple[int, int], ...]) -> tuple[np.ndarray, np.ndarray]:
    """Returns (logits of the first boxes, centre and size [cells, 4]; whether a cell answers, 0 or 1 [cells, 1])."""
    parts = []
    for level, (height, width) in enumerate(sizes):
        y, x = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
        side = np.full_like(x, ANCHOR * 2**level)
        parts.append(np.stack([x, y, side, side], -1).reshape(-1, 4))
    boxes = np.concatenate(parts)
    valid = ((boxes > MARGIN) & (boxes < 1 - MARGIN)).all(-1, keepdims=True)
    logits = np.where(valid, np.log(boxes / (1 - boxes)), np.finfo(np.float32).max)
    return np.asarray(logits, np.float32), np.asarray(valid, np.float32)


def sines(height: int, width: int, features: int, longest: float = 10000.0) -> np.ndarray:
    """Returns positions float32 [height * width, features]: sines and cosines of the row, then those of the column."""
    frequencies = longest ** -(np.arange(features // 4) / (features // 4))
    y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    angles = [axis.reshape(-1, 1) * frequencies for axis in (y, x)]
    return np.concatenate([f(a) for a in angles for f in (np.sin, np.cos)], axis=1).astype(np.float32)
