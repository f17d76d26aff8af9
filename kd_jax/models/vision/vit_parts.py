"""What vision transformers consist of: attention, blocks, positions of images of any size, pooling by attention.

Which published network has which of the options: kd_jax/models/vision/pretrained/. Taps are listed in vit.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.models.layers import Tap
from kd_jax.types import Array

INIT = nn.initializers.truncated_normal(0.02)
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "gelu_pytorch_tanh": nn.gelu,
    "gelu_new": nn.gelu,
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),  # CLIP's
    "silu": nn.silu,
    "relu": nn.relu,
}
LETTERS = "qkv"


class Attention(nn.Module):
    """Self-attention of heads; `biases` names the projections that have one: "qkv", "qv" or any other of the letters.

    `rotation` is (cosine, sine) [patches, width / heads] for the last tokens, the patches; earlier ones are not turned.
    `bias` [batch or 1, heads, tokens, tokens] is added to the scores. `cosine`: scores are cosines times a learned
    factor (Liu et al., "Swin Transformer V2", 2021, arXiv 2111.09883).
    """

    heads: int
    dtype: Any
    biases: str = LETTERS
    cosine: bool = False

    @nn.compact
    def __call__(self, x: Array, rotation: tuple[Array, Array] | None = None, bias: Array | None = None) -> Array:
        batch, tokens, width = x.shape
        split = []
        for name, y in zip(("queries", "keys", "values"), jnp.split(self._projected(x), 3, -1), strict=True):
            y = Tap(name=f"{name}_joined")(y).reshape(batch, tokens, self.heads, width // self.heads)
            split.append(Tap(name=name)(y.swapaxes(1, 2)))
        queries, keys, values = split
        if rotation is not None:
            queries, keys = (rotated(x, *rotation) for x in (queries, keys))
        if self.cosine:
            queries, keys = (_unit(x) for x in (queries, keys))
        scores = jnp.einsum("bhqd,bhkd->bhqk", queries, keys, preferred_element_type=jnp.float32)
        if self.cosine:
            log_scale = self.param("log_scale", nn.initializers.constant(math.log(10)), (self.heads, 1, 1))
            scores = scores * jnp.exp(jnp.minimum(log_scale, math.log(100)))[None]
        else:
            scores = scores / math.sqrt(width // self.heads)
        scores = Tap(name="scores")(scores if bias is None else scores + bias)
        probabilities = Tap(name="probabilities")(jax.nn.softmax(scores))
        x = jnp.einsum("bhqk,bhkd->bqhd", probabilities.astype(self.dtype), values).reshape(batch, tokens, width)
        return nn.Dense(width, dtype=self.dtype, kernel_init=INIT, name="out")(x)

    def _projected(self, x: Array) -> Array:
        """Returns queries, keys and values side by side [batch, tokens, 3 * width]."""
        width, all_biases = x.shape[-1], self.biases == LETTERS
        x = nn.Dense(3 * width, all_biases, dtype=self.dtype, kernel_init=INIT, name="qkv")(x)
        if all_biases or not self.biases:
            return x
        values = self.param(f"biases_{self.biases}", nn.initializers.zeros, (len(self.biases), width))
        there = dict(zip(self.biases, values.astype(self.dtype), strict=True))
        bias = jnp.concatenate([there.get(letter, jnp.zeros(width, self.dtype)) for letter in LETTERS])
        return x + bias[None, None]


class TransformerBlock(nn.Module):
    """Attention and an MLP, each behind a LayerNorm and beside an identity; tokens [batch, tokens, width].

    `gated` is SwiGLU (Shazeer, 2020, arXiv 2002.05202): activation(gate) * values. `layer_scale` (0: none) is the first
    value of a factor for each channel of both branches (Touvron et al., 2021, arXiv 2103.17239).
    """

    heads: int
    hidden: int
    dropout: float
    dtype: Any
    drop_path: float = 0.0
    activation: str = "gelu"
    gated: bool = False
    layer_scale: float = 0.0
    biases: str = LETTERS
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Array, train: bool, rotation: tuple[Array, Array] | None = None) -> Array:
        y = layer_norm(self.dtype, "norm1", self.epsilon)(x)
        y = Attention(self.heads, self.dtype, self.biases, name="attention")(y, rotation)
        x = x + self._kept(self._scaled(y, train, "layer_scale1"), train, "drop_path1")
        y = layer_norm(self.dtype, "norm2", self.epsilon)(x)
        y = mlp(y, self.hidden, self.activation, self.dtype, self.gated)
        return x + self._kept(self._scaled(y, train, "layer_scale2"), train, "drop_path2")

    def _scaled(self, y: Array, train: bool, name: str) -> Array:
        """Returns y after dropout, and after the factors of its channels where there are any."""
        y = nn.Dropout(self.dropout, deterministic=not train)(y)
        if not self.layer_scale:
            return y
        scale = self.param(name, nn.initializers.constant(self.layer_scale), y.shape[-1:])
        return y * scale.astype(y.dtype)[None, None]

    def _kept(self, y: Array, train: bool, name: str) -> Array:
        """Returns y, or 0 for the share `drop_path` of the examples, the others enlarged to make up for it."""
        return nn.Dropout(self.drop_path, broadcast_dims=(1, 2), deterministic=not train, name=name)(y)


class AttentionPool(nn.Module):
    """One vector of all tokens: a learned query attends to them, an MLP follows. SigLIP's "MAP head".

    Zhai, Kolesnikov, Houlsby, Beyer, "Scaling Vision Transformers", 2021, arXiv 2106.04560.
    """

    heads: int
    hidden: int
    dtype: Any
    activation: str
    epsilon: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, _, width = x.shape
        probe = self.param("probe", INIT, (1, 1, width)).astype(self.dtype)
        inputs = {"queries": jnp.broadcast_to(probe, (batch, 1, width)), "keys": x, "values": x}
        queries, keys, values = (
            nn.Dense(width, dtype=self.dtype, kernel_init=INIT, name=name)(y).reshape(
                batch, -1, self.heads, width // self.heads
            )
            for name, y in inputs.items()
        )
        scores = jnp.einsum("bqhd,bkhd->bhqk", queries, keys, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(scores / math.sqrt(width // self.heads)).astype(self.dtype)
        x = jnp.einsum("bhqk,bkhd->bqhd", weights, values).reshape(batch, 1, width)
        x = nn.Dense(width, dtype=self.dtype, kernel_init=INIT, name="out")(x)
        y = layer_norm(self.dtype, "norm", self.epsilon)(x)
        return (x + mlp(y, self.hidden, self.activation, self.dtype))[:, 0]


class Tokens(nn.Module):
    """Tokens under a name, and under it those of each kind: taps "patches" and, where there are any, the others."""

    kinds: tuple[tuple[str, int], ...]  # (name, number) of the tokens before the patches

    @nn.compact
    def __call__(self, x: Array) -> Array:
        start = 0
        for name, count in self.kinds:
            Tap(name=name)(x[:, start] if name != "registers" else x[:, start : start + count])
            start += count
        Tap(name="patches")(x[:, start:])
        return x


def mlp(x: Array, hidden: int, activation: str, dtype: Any, gated: bool = False) -> Array:
    """Computes two dense layers with an activation between them, in the module that calls it: mlp1, mlp2 and gate."""
    act = ACTIVATIONS[activation]
    y = nn.Dense(hidden, dtype=dtype, kernel_init=INIT, name="mlp1")(x)
    y = act(nn.Dense(hidden, dtype=dtype, kernel_init=INIT, name="gate")(x)) * y if gated else act(y)
    return nn.Dense(x.shape[-1], dtype=dtype, kernel_init=INIT, name="mlp2")(y)


def layer_norm(dtype: Any, name: str, epsilon: float = 1e-6) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=epsilon, dtype=dtype, name=name)


def resized(positions: Array, size: tuple[int, int], method: str) -> Array:
    """Resizes position embeddings [height, width, channels] to [*size, channels] as PyTorch's interpolate does.

    `method`: "bicubic", or "bicubic_antialias" and "bilinear_antialias" (torch's antialias=True).
    """
    rows, columns = (jnp.asarray(_weights(n, m, method)) for n, m in zip(size, positions.shape[:2], strict=True))
    return jnp.einsum("ih,jw,hwc->ijc", rows, columns, positions, precision="highest")


def _weights(size: int, old: int, method: str) -> np.ndarray:
    """Returns [size, old]: the share that each old value has in each new one. Pixels are areas, corners not aligned."""
    centre = ((np.arange(size) + 0.5) * old / size - 0.5)[:, None]
    if method == "bicubic":  # without antialiasing torch takes a = -0.75 and repeats the values at the edges
        source = np.floor(centre).astype(int) + np.arange(-1, 3)
        shares = _cubic(np.abs(source - centre), -0.75)
        weights = np.zeros((size, old))
        np.add.at(weights, (np.arange(size)[:, None], source.clip(0, old - 1)), shares)
        return weights.astype(np.float32)
    distance = np.abs(np.arange(old) - centre) / max(old / size, 1.0)
    weights = _cubic(distance, -0.5) if method == "bicubic_antialias" else np.maximum(1 - distance, 0)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys, "Cubic convolution interpolation for digital image processing", 1981, at distances x >= 0."""
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def rotation_of(grid: tuple[int, int], size: int, theta: float) -> tuple[Array, Array]:
    """Returns (cosine, sine) [patches, size]: rotary positions of two axes, from -1 to 1 whatever the image's size is.

    Siméoni et al., "DINOv3", 2025, arXiv 2508.10104; Su et al., "RoFormer", 2021, arXiv 2104.09864. What the authors
    do in training alone (shift, jitter, rescale) is left out.
    """
    axes = [2 * (np.arange(n) + 0.5) / n - 1 for n in grid]
    places = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2, 1)
    frequencies = 1 / theta ** np.arange(0, 1, 4 / size)
    angles = np.tile((2 * np.pi * places * frequencies).reshape(len(places), -1), 2)
    return jnp.asarray(np.cos(angles), jnp.float32), jnp.asarray(np.sin(angles), jnp.float32)


def _unit(x: Array) -> Array:
    """x divided by its norm over the last axis, at least 1e-12 as PyTorch has it."""
    x = x.astype(jnp.float32)
    return x / jnp.sqrt(jnp.maximum(jnp.sum(x * x, -1, keepdims=True), 1e-24))


def rotated(x: Array, cosine: Array, sine: Array) -> Array:
    """Turns the last tokens of x [batch, heads, tokens, size] by rotary positions, in float32."""
    first, x_patches = jnp.split(x, [x.shape[2] - len(cosine)], axis=2)
    cosine, sine, half = cosine[None, None], sine[None, None], x.shape[-1] // 2
    turned = jnp.concatenate([-x_patches[..., half:], x_patches[..., :half]], -1)
    return jnp.concatenate([first, (x_patches * cosine + turned * sine).astype(x.dtype)], 2)
