"""DETR: a ResNet's map is read by a transformer whose queries answer with a class and a box each.

Carion, Massa, Synnaeve, Usunier, Kirillov, Zagoruyko, "End-to-End Object Detection with Transformers", 2020, arXiv
2005.12872, with sines as positions, as `transformers` computes it. kd_jax/models/detection/pretrained.py reads its
weights. Taps: backbone (the last map), encoder, decoder, class_logits (of all classes and "no object").
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.models.layers import ConvNorm, Tap
from kd_jax.models.vision.resnet import ResidualStage
from kd_jax.types import Array

EPSILON = 1e-5  # of LayerNorm in PyTorch


class Backbone(nn.Module):
    """A ResNet of a large stem up to its last map; its BatchNorm always normalises by the stored averages."""

    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    stem_width: int
    bottleneck: bool
    stride_first: bool
    first_stride: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = ConvNorm(self.stem_width, 7, 2, name="stem")(x, False)
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for i, (blocks, width) in enumerate(zip(self.blocks, self.widths, strict=True)):
            stride = self.first_stride if i == 0 else 2
            options: dict[str, Any] = {"bottleneck": self.bottleneck, "stride_first": self.stride_first}
            stage = ResidualStage(blocks, width, stride, dtype=jnp.float32, name=f"stage{i + 1}", **options)
            x = stage(x, False)
        return x


class Attention(nn.Module):
    """Multi-head attention; positions are added to queries and keys, not to values."""

    heads: int

    @nn.compact
    def __call__(self, x: Array, place: Array, others: Array, their_place: Array) -> Array:
        width = x.shape[-1]

        def split(y: Array, name: str) -> Array:
            y = nn.Dense(width, name=name)(y)
            return y.reshape(*y.shape[:2], self.heads, -1)

        query, key = split(x + place, "q_proj"), split(others + their_place, "k_proj")
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(width // self.heads)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), split(others, "v_proj"))
        return nn.Dense(width, name="o_proj")(mixed.reshape(x.shape))


class Layer(nn.Module):
    """A layer of the encoder or, with `memory`, of the decoder; normalised after each sum."""

    heads: int
    hidden: int
    activation: Callable[[Array], Array] = nn.relu

    @nn.compact
    def __call__(self, x: Array, place: Array, memory: Array | None = None, their_place: Array | None = None) -> Array:
        y = Attention(self.heads, name="self_attn")(x, place, x, place)
        x = nn.LayerNorm(EPSILON, name="self_attn_layer_norm")(x + y)
        if memory is not None and their_place is not None:
            y = Attention(self.heads, name="encoder_attn")(x, place, memory, their_place)
            x = nn.LayerNorm(EPSILON, name="encoder_attn_layer_norm")(x + y)
        y = nn.Dense(x.shape[-1], name="fc2")(self.activation(nn.Dense(self.hidden, name="fc1")(x)))
        return nn.LayerNorm(EPSILON, name="final_layer_norm")(x + y)


class Detr(nn.Module):
    """Pictures [batch, height, width, channels] to {"classes" [batch, queries, classes], "boxes" [batch, queries, 4]}.

    The sigmoid of a class logit is the probability of DETR's softmax. Boxes are (x1, y1, x2, y2) in pixels of a picture
    of `picture` (height, width), which is what the network sees where it is (). `chosen` are the numbers of the classes
    that are answered, in order; () are all. `num_classes` counts the classes of the checkpoint, without "no object".
    """

    num_classes: int
    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    stem_width: int
    bottleneck: bool
    stride_first: bool
    first_stride: int
    width: int
    queries: int
    encoder: tuple[int, int, int]  # layers, heads, hidden units
    decoder: tuple[int, int, int]
    picture: tuple[int, ...] = ()
    chosen: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, x: Array) -> dict[str, Array]:
        height, width = self.picture or x.shape[1:3]
        shape = (self.blocks, self.widths, self.stem_width, self.bottleneck, self.stride_first, self.first_stride)
        x = Backbone(*shape, name="backbone")(x.astype(jnp.float32))
        place = jnp.asarray(sines(x.shape[1], x.shape[2], self.width))[None]
        x = nn.Conv(self.width, (1, 1), name="input_projection")(x).reshape(len(x), -1, self.width)
        layers, *sizes = self.encoder
        for i in range(layers):
            x = Layer(*sizes, name=f"encoder{i}")(x, place)
        x = Tap(name="encoder")(x)
        init = nn.initializers.normal(1.0)
        queries = self.param("query_position_embeddings", init, (self.queries, self.width))[None]
        y, (layers, *sizes) = jnp.zeros((len(x), self.queries, self.width)), self.decoder
        for i in range(layers):
            y = Layer(*sizes, name=f"decoder{i}")(y, queries, x, place)
        y = Tap(name="decoder")(nn.LayerNorm(EPSILON, name="layernorm")(y))
        logits = Tap(name="class_logits")(nn.Dense(self.num_classes + 1, name="class_labels_classifier")(y))
        box = y
        for i, size in enumerate((self.width, self.width, 4)):
            box = nn.Dense(size, name=f"bbox{i}")(box)
            box = nn.relu(box) if i < 2 else jax.nn.sigmoid(box)
        centre, half = box[..., :2], box[..., 2:] / 2
        scale = jnp.asarray([width, height, width, height], jnp.float32)[None, None]
        return {"classes": self._odds(logits), "boxes": jnp.concatenate([centre - half, centre + half], -1) * scale}

    def _odds(self, logits: Array) -> Array:
        """The logits whose sigmoid is the softmax: z_c - log sum over the others of exp(z)."""
        total = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
        log_p = logits - total
        odds = log_p - jnp.log(-jnp.expm1(jnp.minimum(log_p, -1e-7)))
        numbers = np.asarray(self.chosen or range(self.num_classes))
        return odds[..., numbers]


def sines(height: int, width: int, features: int) -> np.ndarray:
    """Returns positions float32 [height * width, features]: half of the row's, half of the column's sines and cosines.

    Rows and columns count from 1, up to 2 pi; wavelengths grow to 10000.
    """
    half = features // 2
    wavelengths = 10000.0 ** (2 * (np.arange(half) // 2) / half)
    parts = []
    for count in (height, width):
        angles = (np.arange(1, count + 1) / (count + 1e-6) * 2 * math.pi)[:, None] / wavelengths
        pairs = np.stack([np.sin(angles[:, 0::2]), np.cos(angles[:, 1::2])], axis=2)
        parts.append(pairs.reshape(count, half))
    rows = np.repeat(parts[0][:, None], width, axis=1)
    columns = np.repeat(parts[1][None], height, axis=0)
    return np.concatenate([rows, columns], axis=-1).reshape(-1, features).astype(np.float32)
