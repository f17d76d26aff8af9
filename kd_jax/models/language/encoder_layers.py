"""The layers of encoders: normed after what they add (BERT and its kin) or before it (T5, ModernBERT).

Raffel et al., "T5", 2019, arXiv 1910.10683; Warner et al., "Smarter, Better, Faster, Longer" (ModernBERT), 2024, arXiv
2412.13663.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.models.language import rotary
from kd_jax.models.language.relative_positions import Disentangled
from kd_jax.models.layers import Tap
from kd_jax.types import Array

MASKED = -1e9  # finite, so that a row without a single token has finite probabilities and gradients
INITIAL = nn.initializers.normal(0.02)
ACTIVATIONS = {
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "gelu_new": nn.gelu,
    "relu": nn.relu,
    "silu": nn.silu,
    "tanh": jnp.tanh,
}


@dataclasses.dataclass(frozen=True)
class PreNorm:
    """What layers that norm what they read are made of; the norm after the last one is the network's."""

    norm: str = "layer"  # layer | rms
    gated: bool = True  # mlp2(activation(gate x) * mlp1 x), else mlp2(activation(mlp1 x))
    attention_bias: bool = False
    mlp_bias: bool = False
    norm_bias: bool = False
    scaled: bool = True  # scores by 1 / sqrt(head width)
    first_norm: bool = True  # of what the first attention reads
    windows: tuple[int, ...] = ()  # how far layer i % len(windows) sees in either direction; 0 = all
    theta: float = 0.0  # of rotary positions; 0 = none
    local_theta: float = 0.0  # in layers with a window


class Positions(NamedTuple):
    """What attention is told of places: scores to add, angles to turn by, vectors of distances; None where it has none.

    bias [1, heads, queries, keys], angles as of rotary.angles, distances [2 span, width].
    """

    bias: Array | None = None
    angles: tuple[Array, Array] | None = None
    distances: Array | None = None


class Attention(nn.Module):
    """Queries and keys read `x`, values read `source`, which may be wider."""

    heads: int
    dropout: float
    dtype: Any
    head_width: int = 0  # 0: width / heads
    bias: bool = True
    scaled: bool = True
    disentangled: Disentangled | None = None

    @nn.compact
    def __call__(self, x: Array, source: Array, mask: Array, train: bool, places: Positions) -> Array:
        """Maps x [batch, length, width]; mask bool [batch, 1 or queries, keys] is True where a query sees a key."""
        batch, length, width = x.shape
        joined = self.heads * (self.head_width or width // self.heads)
        maps = {n: dense(joined, self.dtype, f"{n}_dense", self.bias) for n in ("queries", "keys", "values")}
        split = {}
        for name, read in (("queries", x), ("keys", x), ("values", source)):
            y = Tap(name=f"{name}_joined")(maps[name](read)).reshape(batch, length, self.heads, -1)
            split[name] = Tap(name=name)((y if name == "values" else rotary.rotated(y, places.angles)).swapaxes(1, 2))
        scores = _products(split["queries"], split["keys"])
        form, compared = self.disentangled, 1
        if form is not None and places.distances is not None:
            scores = scores + self._of_distances(form, split["queries"], split["keys"], places.distances, maps)
            compared += len(form.kinds)
        if self.scaled:
            scores = scores / math.sqrt(joined // self.heads * compared)
        scores = scores if places.bias is None else scores + places.bias
        scores = jnp.where(mask[:, None], scores, MASKED)
        probabilities = Tap(name="probabilities")(jax.nn.softmax(Tap(name="scores")(scores)))
        dropped = nn.Dropout(self.dropout, deterministic=not train)(probabilities.astype(self.dtype))
        y = jnp.einsum("bhqk,bhkd->bqhd", dropped, split["values"]).reshape(batch, length, joined)
        return dense(width, self.dtype, "out", self.bias)(y)

    def _of_distances(
        self, form: Disentangled, queries: Array, keys: Array, distances: Array, maps: dict[str, nn.Dense]
    ) -> Array:
        """The scores [batch, heads, length, length] between what stands somewhere and how far the other is."""
        numbers, total = form.numbers(queries.shape[2]), jnp.zeros((), jnp.float32)
        joined = maps["keys"].features
        for kind, name, read in (("c2p", "keys", queries), ("p2c", "queries", keys)):
            if kind not in form.kinds:
                continue
            linear = maps[name] if form.shared else dense(joined, self.dtype, f"distance_{name}", True)
            vectors = linear(distances[None]).reshape(1, len(distances), self.heads, -1).swapaxes(1, 2)
            products = _products(read, jnp.broadcast_to(vectors, (read.shape[0], *vectors.shape[1:])))
            index = numbers if kind == "c2p" else numbers.T
            taken = jnp.take_along_axis(products, index[None, None], axis=-1)
            total = total + (taken if kind == "c2p" else taken.swapaxes(-1, -2))
        return total


def _products(queries: Array, keys: Array) -> Array:
    return jnp.einsum("bhqd,bhkd->bhqk", queries, keys, preferred_element_type=jnp.float32)


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
    disentangled: Disentangled | None = None

    @nn.compact
    def __call__(self, x: Array, mask: Array, train: bool, places: Positions) -> Array:
        drop = nn.Dropout(self.dropout, deterministic=not train)
        wide = x
        if self.bottleneck:
            x = layer_norm(self, "norm_in")(dense(self.bottleneck, self.dtype, "dense_in")(wide))
        attention = Attention(
            self.heads,
            self.dropout,
            self.dtype,
            self.head_width,
            disentangled=self.disentangled,
            name="attention",
        )
        x = layer_norm(self, "norm1")(x + drop(attention(x, wide, mask, train, places)))
        for i in range(self.stack):
            number = "" if i == self.stack - 1 else f"_{i}"
            y = ACTIVATIONS[self.activation](dense(self.hidden, self.dtype, f"mlp1{number}")(x))
            x = layer_norm(self, f"norm2{number}")(x + drop(dense(x.shape[-1], self.dtype, f"mlp2{number}")(y)))
        if self.bottleneck:
            x = layer_norm(self, "norm_out")(wide + drop(dense(wide.shape[-1], self.dtype, "dense_out")(x)))
        return x


class PreNormLayer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), by a PreNorm."""

    form: PreNorm
    number: int
    heads: int
    hidden: int
    activation: str
    epsilon: float
    dropout: float
    dtype: Any
    head_width: int = 0

    @nn.compact
    def __call__(self, x: Array, mask: Array, train: bool, places: Positions) -> Array:
        form, drop = self.form, nn.Dropout(self.dropout, deterministic=not train)
        attention = Attention(
            self.heads, self.dropout, self.dtype, self.head_width, form.attention_bias, form.scaled, name="attention"
        )
        y = pre_norm(self, form, "norm1")(x) if form.first_norm or self.number else x
        x = x + drop(attention(y, y, mask, train, places))
        y = pre_norm(self, form, "norm2")(x)
        up = dense(self.hidden, self.dtype, "mlp1", form.mlp_bias)(y)
        activation = ACTIVATIONS[self.activation]
        hidden = (
            activation(dense(self.hidden, self.dtype, "gate", form.mlp_bias)(y)) * up if form.gated else activation(up)
        )
        return x + drop(dense(x.shape[-1], self.dtype, "mlp2", form.mlp_bias)(drop(hidden)))


class Convolution(nn.Module):
    """norm(x + activation(the convolution of `read`)), with 0 where there is no token: of DeBERTa v2.

    The kernel is [out, in, width], as PyTorch has it.
    """

    width: int
    activation: str
    epsilon: float
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, read: Array, x: Array, mask: Array, train: bool) -> Array:
        features, half = x.shape[-1], (self.width - 1) // 2
        kernel = self.param("kernel", INITIAL, (features, features, self.width)).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (features,)).astype(self.dtype)
        wide = jnp.pad(read, ((0, 0), (half, self.width - 1 - half), (0, 0)))
        shifted = jnp.stack([wide[:, i : i + x.shape[1]] for i in range(self.width)], -1)
        y = jnp.einsum("blik,oik->blo", shifted, kernel) + bias[None, None]
        y = nn.Dropout(self.dropout, deterministic=not train)(jnp.where(mask[..., None], y, 0))
        return layer_norm(self, "norm")(x + ACTIVATIONS[self.activation](y)) * mask[..., None]


def sees(mask: Array, window: int) -> Array:
    """Returns bool [batch, 1 or queries, keys]: keys that are tokens [batch, keys], with a window those so near."""
    if not window:
        return mask[:, None]
    places = jnp.arange(mask.shape[1])
    return mask[:, None] & (jnp.abs(places[:, None] - places[None]) <= window)[None]


def dense(features: int, dtype: Any, name: str, bias: bool = True) -> nn.Dense:
    return nn.Dense(features, bias, dtype=dtype, kernel_init=INITIAL, name=name)


def layer_norm(module: Any, name: str, bias: bool = True) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=module.epsilon, dtype=module.dtype, use_bias=bias, use_fast_variance=False, name=name)


def pre_norm(module: Any, form: PreNorm, name: str) -> nn.LayerNorm | nn.RMSNorm:
    """Returns the norm of a PreNorm."""
    if form.norm == "rms":
        return nn.RMSNorm(epsilon=module.epsilon, dtype=module.dtype, name=name)
    return layer_norm(module, name, form.norm_bias)
