"""Transformer encoders of text as options of one module: BERT, MiniLM, RoBERTa, DistilBERT and narrower students,
MPNet, ELECTRA, DeBERTa, T5's encoder and ModernBERT.

Devlin, Chang, Lee, Toutanova, "BERT", 2018, arXiv 1810.04805; Liu et al., "RoBERTa", 2019, arXiv 1907.11692; Sanh et
al., "DistilBERT", 2019, arXiv 1910.01108; Clark et al., "ELECTRA", 2020, arXiv 2003.10555. encoder_layers.py and
relative_positions.py have what is inside, pretrained.py reads published weights.
Inputs: token ids int [batch, length]; mask bool [batch, length], True on real tokens (default: what is not `pad`);
token types int [batch, length] (default: 0). Taps: embeddings, layerN [batch, length, width], layerN/attention and in
it queries, keys, values [batch, heads, length, d], the same with heads side by side as queries_joined and so on
[batch, length, width], scores (before the softmax; -1e9 on padding keys) and probabilities [batch, heads, length,
length]; embedding (one vector a text), head; of DeBERTa v2 also convolution (the states behind the one that follows
layer0, whose tap is what it was added to).
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.models.language import rotary
from kd_jax.models.language.encoder_layers import (
    ACTIVATIONS,
    INITIAL,
    Convolution,
    Layer,
    Positions,
    PreNorm,
    PreNormLayer,
    dense,
    layer_norm,
    pre_norm,
    sees,
)
from kd_jax.models.language.relative_positions import Buckets, Disentangled
from kd_jax.models.layers import Tap
from kd_jax.resolve import near
from kd_jax.types import Array

HEADS = ("hidden", "tokens", "classes", "sentence")


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
    positions: int  # that a text has at most; 0: any number (T5)
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
    family: str = ""  # of `transformers`, where the other fields do not tell (pretrained.py)
    embedding_width: int = 0  # of the tables, with a linear map to the width behind them; 0: the width
    relative: Buckets | Disentangled | None = None  # distances in attention
    placed: bool = True  # a table of places is added to the words
    pre_norm: PreNorm | None = None  # layers that norm what they read; None: what they add
    embeddings_normed: bool = True
    mean_classes: bool = False  # "classes" reads the mean over real tokens, not the first one
    pooler_bias: bool = True  # of the layers before the classes and the tokens
    pooler_normed: bool = False  # the one before the classes (the one before the tokens always is)
    transform_activation: str = ""  # before the tokens; "": `activation`

    @nn.compact
    def __call__(self, tokens: Array, mask: Array | None = None, types: Array | None = None, *, train: bool) -> Array:
        self._check(tokens)
        mask = tokens != self.pad if mask is None else mask.astype(bool)
        words = self._embed(self.vocabulary, "words")
        x = embedded = self._embedded(tokens, types, words, mask, train)
        windows = (self.pre_norm.windows if self.pre_norm else ()) or (0,)
        everywhere, nearby = self._places(tokens.shape[1])
        for i in range(self.depth):
            window = windows[i % len(windows)]
            x = self._layer(i)(x, sees(mask, window), train, nearby if window else everywhere)
            if i == 0 and self._disentangled and self._disentangled.convolution:
                x = self._convolved(self._disentangled, embedded, x, mask, train)
        if self.pre_norm is not None:
            x = pre_norm(self, self.pre_norm, "final_norm")(x)
        if self.head == "hidden":
            return x
        if self.head == "tokens":
            return self._token_logits(x, words)
        return self._text(x, mask, train)

    @property
    def _disentangled(self) -> Disentangled | None:
        return self.relative if isinstance(self.relative, Disentangled) else None

    @property
    def _norm_bias(self) -> bool:
        return self.pre_norm is None or self.pre_norm.norm_bias

    def _embedded(self, tokens: Array, types: Array | None, words: nn.Embed, mask: Array, train: bool) -> Array:
        """What the first layer reads. Narrow tables are normed, then mapped to the width."""
        x = words(tokens)
        if self.placed:
            x = x + self._embed(self.positions, "positions")(self._position_ids(tokens))
        if self.token_types:
            x = x + self._embed(self.token_types, "types")(jnp.zeros_like(tokens) if types is None else types)
        x = layer_norm(self, "norm", self._norm_bias)(x) if self.embeddings_normed else x
        x = x * mask[..., None] if self._disentangled else x  # its convolution reads beyond the last token
        if self.embedding_width:
            x = dense(self.width, self.dtype, "project")(x)
        return nn.Dropout(self.dropout, deterministic=not train)(Tap(name="embeddings")(x))

    def _places(self, length: int) -> tuple[Positions, Positions]:
        """What attention is told of places, in layers that see everything and in those with a window."""
        if isinstance(self.relative, Buckets):
            table = nn.Embed(self.relative.count, self.heads, embedding_init=INITIAL, name="relative_bias")
            bias = table(self.relative.numbers(length)).transpose(2, 0, 1)[None]
            return Positions(bias), Positions(bias)
        if isinstance(self.relative, Disentangled):
            vectors = self._embed(2 * self.relative.span, "relative").embedding
            vectors = layer_norm(self, "relative_norm")(vectors) if self.relative.normed else vectors
            return Positions(distances=vectors), Positions(distances=vectors)
        if self.pre_norm is None or not self.pre_norm.theta:
            return Positions(), Positions()
        width, slots = self.head_width or self.width // self.heads, jnp.arange(length)[None]
        thetas = self.pre_norm.theta, self.pre_norm.local_theta or self.pre_norm.theta
        everywhere, nearby = (Positions(angles=rotary.angles(slots, width, theta, {}, 0)) for theta in thetas)
        return everywhere, nearby

    def _layer(self, number: int) -> Layer | PreNormLayer:
        dtype, name = jnp.dtype(self.dtype), f"layer{number}"
        sizes = {"heads": self.heads, "hidden": self.hidden, "head_width": self.head_width}
        how = {"activation": self.activation, "epsilon": self.epsilon, "dropout": self.dropout, "dtype": dtype}
        if self.pre_norm is not None:
            return PreNormLayer(form=self.pre_norm, number=number, name=name, **sizes, **how)
        form = {"bottleneck": self.bottleneck, "stack": self.stack, "disentangled": self._disentangled}
        return Layer(name=name, **form, **sizes, **how)

    def _convolved(self, form: Disentangled, embedded: Array, x: Array, mask: Array, train: bool) -> Array:
        """The states behind the first layer, with a convolution of the embeddings added (DeBERTa v2)."""
        parts = form.convolution, form.convolution_activation, self.epsilon, self.dropout, jnp.dtype(self.dtype)
        return Convolution(*parts, name="convolution")(embedded, x, mask, train)

    def _token_logits(self, x: Array, words: nn.Embed) -> Array:
        activation = ACTIVATIONS[self.transform_activation or self.activation]
        x = activation(dense(self.embedding_width or self.width, self.dtype, "transform", self.pooler_bias)(x))
        x = layer_norm(self, "transform_norm", self._norm_bias)(x)
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
            x = mean_pool(x, mask).astype(x.dtype) if self.mean_classes else x[:, 0]
            x = ACTIVATIONS[self.pooler_activation](dense(self.width, self.dtype, "pooler", self.pooler_bias)(x))
            x = layer_norm(self, "pooler_norm", self._norm_bias)(x) if self.pooler_normed else x
            x = Tap(name="embedding")(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x.astype(jnp.float32))
        return dense(self.num_classes, "float32", "head")(x)  # float32 whatever the dtype: losses need exact logits

    def _embed(self, number: int, name: str) -> nn.Embed:
        width = self.width if name == "relative" else self.embedding_width or self.width
        return nn.Embed(number, width, dtype=self.dtype, embedding_init=INITIAL, name=name)

    def _position_ids(self, tokens: Array) -> Array:
        if not self.counted_positions:
            return jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        real = tokens != self.pad
        return jnp.cumsum(real, axis=1) * real + self.pad

    def _check(self, tokens: Array) -> None:
        if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise ValueError(f"An encoder takes token ids, int [batch, length], not {tokens.dtype}{tokens.shape}.")
        longest = self.positions - (self.pad + 1 if self.counted_positions else 0)
        if self.positions and tokens.shape[1] > longest:
            raise ValueError(f"The texts are {tokens.shape[1]} tokens long; this encoder has positions for {longest}.")
        if not self.head_width and (self.bottleneck or self.width) % self.heads:
            raise ValueError(f"width={self.bottleneck or self.width} must be a multiple of heads={self.heads}.")
        if self.head not in HEADS:
            raise ValueError(f"head={self.head!r}. {near(self.head, HEADS)}")
        for name in (self.activation, self.pooler_activation, self.transform_activation or self.activation):
            if name not in ACTIVATIONS:
                raise ValueError(f"activation {name!r}. {near(name, ACTIVATIONS)}")
        if (self.head == "classes") > (self.num_classes > 0):
            raise ValueError("head='classes' needs num_classes.")


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
