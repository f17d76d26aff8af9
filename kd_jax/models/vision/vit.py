"""Vision transformers: ViT, DeiT with its distillation token, and by their options DINOv2, DINOv3, CLIP's and SigLIP's.

Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020, arXiv 2010.11929; Touvron et al., "Training data-efficient
image transformers & distillation through attention", 2020, arXiv 2012.12877. The published networks and their weights:
kd_jax/models/vision/pretrained/. Taps: stem (all tokens with positions), blockN, blockN/attention and in it queries,
keys, values [batch, heads, tokens, width / heads], the same with heads side by side as queries_joined and so on [batch,
tokens, width], scores (before the softmax) and probabilities [batch, heads, tokens, tokens]; tokens [batch, tokens,
width] after the last norm and of these tokens/patches [batch, patches, width], tokens/class and tokens/distillation
[batch, width], tokens/registers [batch, registers, width]; embedding (the pooled vector), projection, head,
head_distillation.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from kd_jax.models.layers import Tap, classify, uniform_fan_in
from kd_jax.models.vision.vit_parts import (
    ACTIVATIONS,
    INIT,
    LETTERS,
    AttentionPool,
    Tokens,
    TransformerBlock,
    layer_norm,
    resized,
    rotation_of,
)
from kd_jax.resolve import near
from kd_jax.types import Array

POOLS = ("class", "class_and_mean", "mean", "mean_before_norm", "attention")


class ViT(nn.Module):
    """A vision transformer; with a distillation token, its logits depend on `train`.

    In training they are those of the class head, so that the labels teach it, in evaluation the mean of both heads. The
    teacher's loss reads the tap head_distillation. `drop_path` is stochastic depth (Huang et al., 2016, arXiv
    1603.09382): in training the last block leaves out its branches for that share of the examples, earlier ones for
    less, linearly, the first for none.

    `num_classes` 0: the output is what the head would read, [batch, width], or its `projection` (CLIP's).
    `image_size` is the size that positions are learned for; images of another size get them resized, by `resample`
    ("bicubic", "bicubic_antialias" or "bilinear_antialias"), and what is left of them beside whole patches is cut off,
    as transformers does. 0: that of the first images, and no other.
    `positions` is "learned" or "rotary" (DINOv3's, with `theta`). `registers` are further tokens without positions.
    `pool` says what the head reads: the class token, this beside the mean of the patches ("class_and_mean"), the mean
    after or before the last norm, or an "attention" over all tokens. `hidden` 0 is width * mlp_ratio.
    `distillation_head=False` leaves the token without a head, and the logits to the class token.
    """

    num_classes: int
    patch: int
    width: int
    depth: int
    heads: int
    mlp_ratio: float = 4
    dropout: float = 0.0
    distillation_token: bool = False
    dtype: Any = "float32"
    drop_path: float = 0.0
    distillation_head: bool = True
    hidden: int = 0
    image_size: int = 0
    class_token: bool = True
    registers: int = 0
    positions: str = "learned"
    resample: str = "bicubic"
    theta: float = 100.0
    activation: str = "gelu"
    gated: bool = False
    layer_scale: float = 0.0
    biases: str = LETTERS
    patch_bias: bool = True
    norm_first: bool = False
    epsilon: float = 1e-6
    pool: str = "class"
    projection: int = 0

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        self._check(x.shape)
        dtype, grid = jnp.dtype(self.dtype), (x.shape[1] // self.patch, x.shape[2] // self.patch)
        kinds = self._kinds()
        x = self._embedded(x, kinds, dtype)
        x = nn.Dropout(self.dropout, deterministic=not train)(Tap(name="stem")(x))
        rotation = rotation_of(grid, self.width // self.heads, self.theta) if self.positions == "rotary" else None
        hidden = self.hidden or int(self.width * self.mlp_ratio)
        for i in range(self.depth):
            drop_path = self.drop_path * i / max(self.depth - 1, 1)
            options = (self.activation, self.gated, self.layer_scale, self.biases, self.epsilon)
            block = TransformerBlock(self.heads, hidden, self.dropout, dtype, drop_path, *options, name=f"block{i}")
            x = block(x, train, rotation)
        first, before = sum(count for _, count in kinds), x
        x = Tokens(kinds, name="tokens")(layer_norm(dtype, "norm", self.epsilon)(x))
        pooled = self._pooled(x, before, first, hidden, dtype)
        if not self.num_classes:
            pooled = Tap(name="embedding")(pooled)
            if self.projection:
                pooled = nn.Dense(self.projection, False, dtype=dtype, kernel_init=INIT, name="projection")(pooled)
            return pooled.astype(jnp.promote_types(pooled.dtype, jnp.float32))
        logits = classify(pooled, self.num_classes, INIT, nn.initializers.zeros)
        if not (self.distillation_token and self.distillation_head):
            return logits
        distilled = nn.Dense(self.num_classes, kernel_init=INIT, name="head_distillation")(x[:, 1].astype(jnp.float32))
        return logits if train else (logits + distilled) / 2

    def _kinds(self) -> tuple[tuple[str, int], ...]:
        counts = {"class": self.class_token, "distillation": self.distillation_token, "registers": self.registers}
        return tuple((name, int(count)) for name, count in counts.items() if count)

    def _embedded(self, x: Array, kinds: tuple[tuple[str, int], ...], dtype: Any) -> Array:
        """Returns the tokens [batch, tokens, width] of images: class, distillation, registers, patches."""
        patch, width = (self.patch, self.patch), self.width
        uniform = uniform_fan_in(self.patch * self.patch * x.shape[-1])
        x = nn.Conv(
            width,
            patch,
            patch,
            "VALID",
            use_bias=self.patch_bias,
            dtype=dtype,
            kernel_init=uniform,
            bias_init=uniform,
            name="patches",
        )(x)
        grid = x.shape[1:3]
        x = x.reshape(x.shape[0], -1, width)
        names = {"class": "class_token", "distillation": "distillation_token", "registers": "register_tokens"}
        first = {name: self.param(names[name], INIT, (1, n, width)).astype(dtype) for name, n in kinds}
        first = {name: jnp.broadcast_to(token, (len(x), *token.shape[1:])) for name, token in first.items()}
        registers = first.pop("registers", None)
        x = jnp.concatenate([*first.values(), x], 1)
        if self.positions == "learned":
            x = x + self._positions(grid, len(first)).astype(dtype)
        if registers is not None:
            x = jnp.concatenate([x[:, : len(first)], registers, x[:, len(first) :]], 1)
        return layer_norm(dtype, "first_norm", self.epsilon)(x) if self.norm_first else x

    def _positions(self, grid: tuple[int, int], first: int) -> Array:
        """Returns [1, first + patches, width]; patches of another image size than the learned one get them resized."""
        learned = (self.image_size // self.patch,) * 2 if self.image_size else grid
        positions = self.param("positions", INIT, (1, first + learned[0] * learned[1], self.width))
        if grid == learned:
            return positions
        maps = resized(positions[0, first:].reshape(*learned, self.width), grid, self.resample)
        return jnp.concatenate([positions[:, :first], maps.reshape(1, -1, self.width)], 1)

    def _pooled(self, x: Array, before: Array, first: int, hidden: int, dtype: Any) -> Array:
        """What the head reads of tokens after and `before` the last norm; `first` of them are no patches."""
        if self.pool == "attention":
            return AttentionPool(self.heads, hidden, dtype, self.activation, self.epsilon, name="pool")(x)
        if self.pool == "mean_before_norm":
            return before[:, first:].mean(1)
        if self.pool == "mean":
            return x[:, first:].mean(1)
        return x[:, 0] if self.pool == "class" else jnp.concatenate([x[:, 0], x[:, first:].mean(1)], -1)

    def _check(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError for options that do not exist or do not fit each other or images of such a shape."""
        patch = self.patch
        cut = any(side % patch for side in shape[1:3]) and not self.image_size
        if cut or min(shape[1:3]) < patch or self.width % self.heads:
            raise ValueError(
                f"image {shape[1:3]} must be a multiple of patch={patch}, width={self.width} of heads={self.heads}"
            )
        choices = {"pool": POOLS, "positions": ("learned", "rotary"), "activation": tuple(ACTIVATIONS)}
        for field, there in choices.items():
            if getattr(self, field) not in there:
                raise ValueError(f"ViT: {field}={getattr(self, field)!r}. {near(str(getattr(self, field)), there)}")
        if not self.class_token and (self.pool.startswith("class") or self.distillation_token):
            raise ValueError(f"ViT: pool={self.pool!r} and a distillation token need class_token=True.")
        if {*self.biases} - {*LETTERS}:
            raise ValueError(f"ViT: biases={self.biases!r} must be letters of {LETTERS!r}.")


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
