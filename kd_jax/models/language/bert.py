"""Transformer encoders of text: BERT, MiniLM, RoBERTa, DistilBERT and narrower or shallower students, as one module.

Devlin, Chang, Lee, Toutanova, "BERT", 2018, arXiv 1810.04805; Liu et al., "RoBERTa", 2019, arXiv 1907.11692; Sanh et
al., "DistilBERT", 2019, arXiv 1910.01108. kd_jax/models/language/pretrained.py reads their published weights.
Inputs: token ids int [batch, length]; mask bool [batch, length], True on real tokens (default: what is not `pad`);
token types int [batch, length] (default: 0). Taps: embeddings, layerN [batch, length, width], layerN/attention and in
it queries, keys, values [batch, heads, length, d], the same with heads side by side as queries_joined and so on
[batch, length, width], scores (before the softmax; -1e9 on padding keys) and probabilities [batch, heads, length,
length]; embedding (one vector a text), head.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.models.layers import Tap
from kd_jax.resolve import near
from kd_jax.types import Array

MASKED = -1e9  # finite, so that a row without a single token has finite probabilities and gradients
ACTIVATIONS = {
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "gelu_new": nn.gelu,
    "relu": nn.relu,
    "silu": nn.silu,
    "tanh": jnp.tanh,
}
HEADS = ("hidden", "tokens", "classes", "sentence")


class Attention(nn.Module):
    """Queries and keys read `x`, values read `source`, which may be wider."""

    heads: int
    dropout: float
    dtype: Any
    head_width: int = 0  # 0: width / heads

    @nn.compact
    def __call__(self, x: Array, source: Array, mask: Array, train: bool) -> Array:
        batch, length, width = x.shape
        joined = self.heads * (self.head_width or width // self.heads)
        split = []
        for name, read in (("queries", x), ("keys", x), ("values", source)):
            y = Tap(name=f"{name}_joined")(dense(joined, self.dtype, f"{name}_dense")(read))
            split.append(Tap(name=name)(y.reshape(batch, length, self.heads, -1).swapaxes(1, 2)))
        queries, keys, values = split
        scores = jnp.einsum("bhqd,bhkd->bhqk", queries, keys, preferred_element_type=jnp.float32)
        scores = jnp.where(mask[:, None, None, :], scores / math.sqrt(joined // self.heads), MASKED)
        probabilities = Tap(name="probabilities")(jax.nn.softmax(Tap(name="scores")(scores)))
        dropped = nn.Dropout(self.dropout, deterministic=not train)(probabilities.astype(self.dtype))
        y = jnp.einsum("bhqk,bhkd->bqhd", dropped, values).reshape(batch, length, joined)
        return dense(width, self.dtype, "out")(y)


class Layer(nn.Module):
    """Attention and a two-layer network, each added to its input and then normalised.

    With a `bottleneck`, both work in that width between two linear maps, with `stack` two-layer networks in a row, and
    the result is added to the layer's wide input: Sun et al., "MobileBERT", 2020, arXiv 2004.02984. Its NoNorm and its
    narrow word embeddings are left out: this is its layer, not its checkpoint.
    """

    heads: int
    hidden: int
    bottleneck: int
    stack: int
    activation: str
    epsilon: float
    dropout: float
    dtype: Any
    head_width: int = 0

    @nn.compact
    def __call__(self, x: Array, mask: Array, train: bool) -> Array:
        drop = nn.Dropout(self.dropout, deterministic=not train)
        wide = x
        if self.bottleneck:
            x = layer_norm(self, "norm_in")(dense(self.bottleneck, self.dtype, "dense_in")(wide))
        attention = Attention(self.heads, self.dropout, self.dtype, self.head_width, name="attention")
        x = layer_norm(self, "norm1")(x + drop(attention(x, wide, mask, train)))
        for i in range(self.stack):
            number = "" if i == self.stack - 1 else f"_{i}"
            y = ACTIVATIONS[self.activation](dense(self.hidden, self.dtype, f"mlp1{number}")(x))
            x = layer_norm(self, f"norm2{number}")(x + drop(dense(x.shape[-1], self.dtype, f"mlp2{number}")(y)))
        if self.bottleneck:
            x = layer_norm(self, "norm_out")(wide + drop(dense(wide.shape[-1], self.dtype, "dense_out")(x)))
        return x


class Encoder(nn.Module):
    """A transformer encoder; `head` is what comes out:

    hidden    the last states [batch, length, width]
    tokens    logits [batch, length, vocabulary] through the embedding matrix: a masked language model
    classes   logits [batch, num_classes], from the first token through a layer "pooler" (the tap embedding)
    sentence  the mean of the last states over real tokens, divided by its norm [batch, width] (the tap embedding);
              with num_classes, logits [batch, num_classes] from that mean before the norm, or with `probe` after
    """

    vocabulary: int
    width: int
    depth: int
    heads: int
    hidden: int
    positions: int
    token_types: int = 2  # 0: no such embedding
    pad: int = 0
    counted_positions: bool = False  # RoBERTa: positions count real tokens, and begin at pad + 1
    activation: str = "gelu"
    pooler_activation: str = "tanh"
    epsilon: float = 1e-12
    dropout: float = 0.1
    bottleneck: int = 0  # width inside the layers; 0: that of the network
    stack: int = 1
    head: str = "hidden"
    num_classes: int = 0
    head_width: int = 0  # 0: width / heads; a pruned network has fewer heads of the same width
    probe: bool = False  # the classes of "sentence" read it under stop_gradient: they tell how good it is, no more
    dtype: Any = "float32"

    @nn.compact
    def __call__(self, tokens: Array, mask: Array | None = None, types: Array | None = None, *, train: bool) -> Array:
        self._check(tokens)
        mask = tokens != self.pad if mask is None else mask.astype(bool)
        words = self._embed(self.vocabulary, "words")
        x = words(tokens) + self._embed(self.positions, "positions")(self._position_ids(tokens))
        if self.token_types:
            x = x + self._embed(self.token_types, "types")(jnp.zeros_like(tokens) if types is None else types)
        x = nn.Dropout(self.dropout, deterministic=not train)(Tap(name="embeddings")(layer_norm(self, "norm")(x)))
        for i in range(self.depth):
            x = Layer(
                self.heads,
                self.hidden,
                self.bottleneck,
                self.stack,
                self.activation,
                self.epsilon,
                self.dropout,
                jnp.dtype(self.dtype),
                self.head_width,
                name=f"layer{i}",
            )(x, mask, train)
        if self.head == "hidden":
            return x
        if self.head == "tokens":
            return self._token_logits(x, words)
        return self._text(x, mask, train)

    def _token_logits(self, x: Array, words: nn.Embed) -> Array:
        x = ACTIVATIONS[self.activation](dense(self.width, self.dtype, "transform")(x))
        x = layer_norm(self, "transform_norm")(x)
        bias = self.param("token_bias", nn.initializers.zeros, (self.vocabulary,), jnp.float32)
        logits = jnp.einsum("...d,vd->...v", x, words.embedding.astype(x.dtype), preferred_element_type=jnp.float32)
        return Tap(name="head")(logits + bias[None, None])

    def _text(self, x: Array, mask: Array, train: bool) -> Array:
        if self.head == "sentence":
            x = mean_pool(x, mask)
            unit = Tap(name="embedding")(x / jnp.maximum(safe_norm(x), 1e-12))
            if not self.num_classes:
                return unit
            x = jax.lax.stop_gradient(unit) if self.probe else x
        else:
            x = dense(self.width, self.dtype, "pooler")(x[:, 0])
            x = Tap(name="embedding")(ACTIVATIONS[self.pooler_activation](x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x.astype(jnp.float32))
        return dense(self.num_classes, "float32", "head")(x)  # float32 whatever the dtype: losses need exact logits

    def _embed(self, number: int, name: str) -> nn.Embed:
        return nn.Embed(number, self.width, dtype=self.dtype, embedding_init=INITIAL, name=name)

    def _position_ids(self, tokens: Array) -> Array:
        if not self.counted_positions:
            return jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        real = tokens != self.pad
        return jnp.cumsum(real, axis=1) * real + self.pad

    def _check(self, tokens: Array) -> None:
        if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise ValueError(f"An encoder takes token ids, int [batch, length], not {tokens.dtype}{tokens.shape}.")
        longest = self.positions - (self.pad + 1 if self.counted_positions else 0)
        if tokens.shape[1] > longest:
            raise ValueError(f"The texts are {tokens.shape[1]} tokens long; this encoder has positions for {longest}.")
        if not self.head_width and (self.bottleneck or self.width) % self.heads:
            raise ValueError(f"width={self.bottleneck or self.width} must be a multiple of heads={self.heads}.")
        if self.head not in HEADS:
            raise ValueError(f"head={self.head!r}. {near(self.head, HEADS)}")
        for name in (self.activation, self.pooler_activation):
            if name not in ACTIVATIONS:
                raise ValueError(f"activation {name!r}. {near(name, ACTIVATIONS)}")
        if (self.head == "classes") > (self.num_classes > 0):
            raise ValueError("head='classes' needs num_classes.")


INITIAL = nn.initializers.normal(0.02)


def dense(features: int, dtype: Any, name: str) -> nn.Dense:
    return nn.Dense(features, dtype=dtype, kernel_init=INITIAL, name=name)


def layer_norm(module: nn.Module, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=module.epsilon, dtype=module.dtype, use_fast_variance=False, name=name)


def mean_pool(x: Array, mask: Array) -> Array:
    """Returns the mean of x [batch, length, width] over real tokens, in float32; 0 where there are none."""
    weights = mask.astype(jnp.float32)[..., None]
    return jnp.sum(x.astype(jnp.float32) * weights, axis=1) / jnp.maximum(jnp.sum(weights, axis=1), 1.0)


def safe_norm(x: Array) -> Array:
    """Computes the norm over the last axis, which stays with length 1; the gradient at 0 is 0."""
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def encoder(
    vocabulary: int = 30522,
    width: int = 384,
    depth: int = 6,
    heads: int = 12,
    hidden: int = 0,
    positions: int = 512,
    head: str = "classes",
    num_classes: int = 0,
    dtype: Any = "float32",
    **options: Any,
) -> Encoder:
    """Returns an Encoder of MiniLM-L6-H384's sizes; BERT-base is 768 wide with 12 layers. hidden = 0 is 4 * width."""
    return Encoder(
        vocabulary,
        width,
        depth,
        heads,
        hidden or 4 * width,
        positions,
        head=head,
        num_classes=num_classes,
        dtype=dtype,
        **options,
    )
