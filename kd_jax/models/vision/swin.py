"""Swin transformers: attention within windows that are shifted in every second block, maps halved from stage to stage.

Liu et al., "Swin Transformer", 2021, arXiv 2103.14030; "Swin Transformer V2", 2021, arXiv 2111.09883. Published
weights: kd_jax/models/vision/pretrained/swin.py. Taps: stem [batch, height, width, channels], stageN_blockM and stageN
(its last map), mergeN (the map that stage N begins with), stageN_blockM/attention and in it those of models.vision.vit,
for windows in place of images; final (the map after the last norm), embedding, head.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from kd_jax.models.layers import Tap, classify_map
from kd_jax.models.vision.vit_parts import ACTIVATIONS, INIT, LETTERS, Attention, layer_norm, mlp
from kd_jax.resolve import near
from kd_jax.types import Array

NO_WEIGHT = -100.0  # the authors' score of a pair of patches that a shift made neighbours
COORDINATE_WIDTH = 512


class SwinBlock(nn.Module):
    """Attention within windows and an MLP; maps [batch, height, width, channels] in and out.

    Version 2 has its norms after the branches, cosine attention, and computes the bias of a pair from their distance;
    version 1 looks it up. `learned` is the window that version 2's distances are relative to.
    """

    heads: int
    window: int
    shift: int
    hidden: int
    dropout: float
    drop_path: float
    dtype: Any
    activation: str
    biases: str
    epsilon: float
    version: int
    learned: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        norm1, norm2 = (layer_norm(self.dtype, name, self.epsilon) for name in ("norm1", "norm2"))
        if self.version == 2:
            x = x + self._kept(norm1(self._attended(x)), train, "drop_path1")
            y = norm2(mlp(x, self.hidden, self.activation, self.dtype))
        else:
            x = x + self._kept(self._attended(norm1(x)), train, "drop_path1")
            y = mlp(norm2(x), self.hidden, self.activation, self.dtype)
        return x + self._kept(y, train, "drop_path2")

    def _attended(self, x: Array) -> Array:
        """Attention within windows of the map, filled up with zeros where they do not cover it."""
        height, width = x.shape[1:3]
        window, shift = self.window, self.shift
        x = jnp.pad(x, ((0, 0), (0, -height % window), (0, -width % window), (0, 0)))
        size = x.shape[1:3]
        bias = self._bias().transpose(2, 0, 1)[None]
        if shift:
            x = jnp.roll(x, (-shift, -shift), (1, 2))
            mask = jnp.tile(_separated(size, window, shift), (len(x), 1, 1))
            bias = bias + mask[:, None]
        x = _windows(x, window)
        x = Attention(self.heads, self.dtype, self.biases, self.version == 2, name="attention")(x, bias=bias)
        x = _map(x, window, size)
        x = jnp.roll(x, (shift, shift), (1, 2)) if shift else x
        return x[:, :height, :width]

    def _bias(self) -> Array:
        """Returns what is added to the score of each pair in a window [patches, patches, heads]."""
        side, index = 2 * self.window - 1, _pairs(self.window)
        if self.version == 1:
            return self.param("bias_table", INIT, (side * side, self.heads))[index]
        places = np.arange(-self.window + 1, self.window) / max((self.learned or self.window) - 1, 1) * 8
        places = np.sign(places) * np.log2(np.abs(places) + 1) / 3
        places = np.stack(np.meshgrid(places, places, indexing="ij"), -1).reshape(-1, 2)
        x = nn.relu(nn.Dense(COORDINATE_WIDTH, kernel_init=INIT, name="bias1")(jnp.asarray(places, jnp.float32)))
        x = nn.Dense(self.heads, use_bias=False, kernel_init=INIT, name="bias2")(x)
        return 16 * nn.sigmoid(x[index])

    def _kept(self, y: Array, train: bool, name: str) -> Array:
        """Returns y after dropout, or 0 for the share `drop_path` of the examples, the others enlarged for it."""
        y = nn.Dropout(self.dropout, deterministic=not train)(y)
        return nn.Dropout(self.drop_path, broadcast_dims=(1, 2, 3), deterministic=not train, name=name)(y)


class Merge(nn.Module):
    """Patches in fours, side by side: half the height and width, twice the channels."""

    dtype: Any
    version: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        x = jnp.concatenate([x[:, row::2, column::2] for column in range(2) for row in range(2)], -1)
        norm = layer_norm(self.dtype, "norm", 1e-5)
        reduction = nn.Dense(x.shape[-1] // 2, use_bias=False, dtype=self.dtype, kernel_init=INIT, name="reduction")
        return norm(reduction(x)) if self.version == 2 else reduction(norm(x))


class Swin(nn.Module):
    """A Swin transformer, of version 1 or 2. `num_classes` 0: the output is the mean of the last map [batch, channels].

    `image_size` is what the windows are made for: where a map is smaller than the window it is one window, and in
    version 2 such a map is not shifted; images of other sizes are taken too. `learned_windows` are those of the stages
    in an earlier training of version 2, 0: the window itself. `drop_path` grows linearly from block to block.
    """

    num_classes: int
    patch: int = 4
    width: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7
    image_size: int = 224
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    drop_path: float = 0.0
    dtype: Any = "float32"
    activation: str = "gelu"
    biases: str = LETTERS
    epsilon: float = 1e-5
    version: int = 1
    learned_windows: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        self._check()
        dtype, patch, count = jnp.dtype(self.dtype), self.patch, 0
        x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % patch), (0, -x.shape[2] % patch), (0, 0)))
        x = nn.Conv(self.width, (patch,) * 2, (patch,) * 2, "VALID", dtype=dtype, kernel_init=INIT, name="patches")(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(layer_norm(dtype, "first_norm", 1e-5)(x))
        x = Tap(name="stem")(x)
        for stage, (depth, heads) in enumerate(zip(self.depths, self.heads, strict=True)):
            if stage:
                x = Merge(dtype, self.version, name=f"merge{stage}")(x)
            window, shift = self._window(stage, min(x.shape[1:3]))
            for i in range(depth):
                x = SwinBlock(
                    heads,
                    window,
                    shift * (i % 2),
                    int(x.shape[-1] * self.mlp_ratio),
                    self.dropout,
                    self.drop_path * count / max(sum(self.depths) - 1, 1),
                    dtype,
                    self.activation,
                    self.biases,
                    self.epsilon,
                    self.version,
                    self.learned_windows[stage] if self.learned_windows else 0,
                    name=f"stage{stage}_block{i}",
                )(x, train)
                count += 1
            x = Tap(name=f"stage{stage}")(x)
        x = layer_norm(dtype, "norm", self.epsilon)(x)
        if self.num_classes:
            return classify_map(x, self.num_classes, INIT, nn.initializers.zeros)
        x = Tap(name="embedding")(Tap(name="final")(x).mean((1, 2)))
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))

    def _window(self, stage: int, side: int) -> tuple[int, int]:
        """(the window of a stage, its shift) for a map whose shorter side is `side`."""
        learned = -(-(self.image_size // self.patch) // 2**stage)
        window = min(self.window, learned)
        one = (learned if self.version == 2 else side) <= window
        return window, 0 if one else self.window // 2

    def _check(self) -> None:
        """Raises ValueError for options that do not exist or do not fit each other."""
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"Swin: activation={self.activation!r}. {near(self.activation, ACTIVATIONS)}")
        counts = {len(self.depths), len(self.heads), len(self.learned_windows or self.depths)}
        if len(counts) > 1 or self.version not in (1, 2):
            raise ValueError(
                f"Swin: depths={self.depths}, heads={self.heads} and learned_windows={self.learned_windows} have one "
                f"number a stage, version={self.version} is 1 or 2."
            )


def _pairs(window: int) -> np.ndarray:
    """The row of the table of biases for each pair of patches in a window [patches, patches]."""
    places = np.stack(np.meshgrid(*[np.arange(window)] * 2, indexing="ij"), -1).reshape(-1, 2)
    distance = places[:, None] - places[None] + window - 1
    return distance[..., 0] * (2 * window - 1) + distance[..., 1]


def _separated(size: tuple[int, int], window: int, shift: int) -> np.ndarray:
    """NO_WEIGHT [windows, patches, patches] for pairs of patches of a shifted map that were no neighbours before."""
    rows, columns = ((np.arange(n) >= n - window).astype(int) + (np.arange(n) >= n - shift) for n in size)
    regions = _windows((rows[:, None] * 3 + columns)[None, ..., None], window)[..., 0]
    return np.where(regions[:, None] == regions[:, :, None], 0.0, NO_WEIGHT).astype(np.float32)


def _windows(x: Any, window: int) -> Any:
    """[batch, height, width, channels] as [batch * windows, patches of a window, channels]."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // window, window, width // window, window, channels).swapaxes(2, 3)
    return x.reshape(-1, window * window, channels)


def _map(x: Array, window: int, size: tuple[int, int]) -> Array:
    """The inverse of `_windows` for a map of such a size."""
    height, width = size
    x = x.reshape(-1, height // window, width // window, window, window, x.shape[-1]).swapaxes(2, 3)
    return x.reshape(-1, height, width, x.shape[-1])


def swin(num_classes: int, width: int = 96, depths: Any = (2, 2, 6, 2), heads: Any = (3, 6, 12, 24), **options: Any):
    """Returns a Swin: the tiny one by default; small is 96 wide of depths 2, 2, 18, 2; base 128 with heads 4 to 32."""
    return Swin(num_classes, width=width, depths=tuple(depths), heads=tuple(heads), **options)
