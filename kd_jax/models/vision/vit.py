"""Vision transformer with a class token and, if asked for, DeiT's distillation token.

Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020, arXiv 2010.11929; Touvron et al., "Training data-efficient
image transformers & distillation through attention", 2020, arXiv 2012.12877. Taps: stem (patches with positions),
blockN, blockN/attention and in it queries, keys, values [batch, heads, tokens, width / heads], the same with heads side
by side as queries_joined and so on [batch, tokens, width], scores (before the softmax) and probabilities [batch, heads,
tokens, tokens], embedding (the class token), head, head_distillation.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.models.layers import Tap, classify, uniform_fan_in
from kd_jax.types import Array

_INIT = nn.initializers.truncated_normal(0.02)


class Attention(nn.Module):
    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, tokens, width = x.shape
        qkv = nn.Dense(3 * width, dtype=self.dtype, kernel_init=_INIT, name="qkv")(x)
        split = []
        for name, x in zip(("queries", "keys", "values"), jnp.split(qkv, 3, -1), strict=True):
            x = Tap(name=f"{name}_joined")(x).reshape(batch, tokens, self.heads, width // self.heads)
            split.append(Tap(name=name)(x.swapaxes(1, 2)))
        queries, keys, values = split
        scores = jnp.einsum("bhqd,bhkd->bhqk", queries, keys, preferred_element_type=jnp.float32)
        scores = Tap(name="scores")(scores / math.sqrt(width // self.heads))
        probabilities = Tap(name="probabilities")(jax.nn.softmax(scores))
        x = jnp.einsum("bhqk,bhkd->bqhd", probabilities.astype(self.dtype), values).reshape(batch, tokens, width)
        return nn.Dense(width, dtype=self.dtype, kernel_init=_INIT, name="out")(x)


class TransformerBlock(nn.Module):
    heads: int
    hidden: int
    dropout: float
    dtype: Any
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        y = Attention(self.heads, self.dtype, name="attention")(_layer_norm(self.dtype, "norm1")(x))
        x = x + self._kept(nn.Dropout(self.dropout, deterministic=not train)(y), train, "drop_path1")
        y = nn.Dense(self.hidden, dtype=self.dtype, kernel_init=_INIT, name="mlp1")(_layer_norm(self.dtype, "norm2")(x))
        y = nn.Dense(x.shape[-1], dtype=self.dtype, kernel_init=_INIT, name="mlp2")(nn.gelu(y, approximate=False))
        return x + self._kept(nn.Dropout(self.dropout, deterministic=not train)(y), train, "drop_path2")

    def _kept(self, y: Array, train: bool, name: str) -> Array:
        """Returns y, or 0 for the share `drop_path` of the examples, the others enlarged to make up for it."""
        return nn.Dropout(self.drop_path, broadcast_dims=(1, 2), deterministic=not train, name=name)(y)


class ViT(nn.Module):
    """A vision transformer; with a distillation token, its logits depend on `train`.

    In training they are those of the class head, so that the labels teach it, in evaluation the mean of both heads. The
    teacher's loss reads the tap head_distillation. `drop_path` is stochastic depth (Huang et al., 2016, arXiv
    1603.09382): in training the last block leaves out its branches for that share of the examples, earlier ones for
    less, linearly, the first for none.
    """

    num_classes: int
    patch: int
    width: int
    depth: int
    heads: int
    mlp_ratio: int = 4
    dropout: float = 0.0
    distillation_token: bool = False
    dtype: Any = "float32"
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        dtype, patch = jnp.dtype(self.dtype), self.patch
        if x.shape[1] % patch or x.shape[2] % patch or self.width % self.heads:
            raise ValueError(
                f"image {x.shape[1:3]} must be a multiple of patch={patch}, width={self.width} of heads={self.heads}"
            )
        uniform = uniform_fan_in(patch * patch * x.shape[-1])
        x = nn.Conv(
            self.width,
            (patch, patch),
            (patch, patch),
            "VALID",
            dtype=dtype,
            kernel_init=uniform,
            bias_init=uniform,
            name="patches",
        )(x)
        x = x.reshape(x.shape[0], -1, self.width)
        tokens = ["class_token", "distillation_token"][: 1 + self.distillation_token]
        first = [self.param(name, _INIT, (1, 1, self.width)).astype(dtype) for name in tokens]
        x = jnp.concatenate([*(jnp.broadcast_to(t, (x.shape[0], 1, self.width)) for t in first), x], 1)
        x = x + self.param("positions", _INIT, (1, x.shape[1], self.width)).astype(dtype)
        x = nn.Dropout(self.dropout, deterministic=not train)(Tap(name="stem")(x))
        for i in range(self.depth):
            hidden = self.width * self.mlp_ratio
            drop_path = self.drop_path * i / max(self.depth - 1, 1)
            x = TransformerBlock(self.heads, hidden, self.dropout, dtype, drop_path, name=f"block{i}")(x, train)
        x = _layer_norm(dtype, "norm")(x)
        logits = classify(x[:, 0], self.num_classes, _INIT, nn.initializers.zeros)
        if not self.distillation_token:
            return logits
        distilled = nn.Dense(self.num_classes, kernel_init=_INIT, name="head_distillation")(x[:, 1].astype(jnp.float32))
        return logits if train else (logits + distilled) / 2


def vit(
    num_classes: int,
    patch: int = 4,
    width: int = 192,
    depth: int = 6,
    heads: int = 3,
    dtype: Any = "float32",
    **options: Any,
) -> ViT:
    """Returns a ViT; DeiT's sizes: tiny 192 wide, 3 heads; small 384, 6; base 768, 12; all of depth 12 and patch 16."""
    return ViT(num_classes, patch, width, depth, heads, dtype=dtype, **options)


def _layer_norm(dtype: Any, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=1e-6, dtype=dtype, name=name)
