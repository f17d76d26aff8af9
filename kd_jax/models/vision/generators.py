"""Where images come from when there are no real ones: a network that paints them from noise, or a bank of free pixels.

Both return normalised images [batch, height, width, channels], for as many examples as their first input has rows;
what is in those rows does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.models.adapters import FunctionModel
from kd_jax.models.layers import conv, norm
from kd_jax.ranges import NotNegative
from kd_jax.types import Array, Outputs


class Generator(nn.Module):
    shape: tuple[int, ...]
    noise: int = 32
    width: int = 16

    @nn.compact
    def __call__(self, like: Array, train: bool) -> Array:
        height, width, channels = self.shape
        key = self.make_rng("params") if self.has_rng("params") else jax.random.key(0)
        x = jax.random.normal(key, (like.shape[0], self.noise))
        x = nn.Dense(height // 4 * (width // 4) * 2 * self.width, name="noise")(x)
        x = norm(train, name="norm0")(x.reshape(-1, height // 4, width // 4, 2 * self.width))
        for i, features in enumerate((2 * self.width, self.width)):
            x = x.repeat(2, axis=1).repeat(2, axis=2)
            x = conv(features, 3, name=f"conv{i + 1}")(x)
            x = nn.leaky_relu(norm(train, name=f"norm{i + 1}")(x), 0.2)
        x = jnp.tanh(conv(channels, 3, bias=True, name="paint")(x))
        unscaled = dict(use_bias=False, use_scale=False, name="normalised")
        return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, **unscaled)(x)


def generator(shape: Sequence[int], noise: int = 32, width: int = 16) -> Generator:
    """Returns noise -> dense -> two doublings of the picture, each with a 3 x 3 convolution -> tanh -> BatchNorm.

    `shape` is (height, width, channels) of an image, sides multiples of 4 (8, 28, 32), ValueError otherwise. The last
    BatchNorm gives every channel of a batch mean 0 and variance 1, what normalised real images have. The layout of DAFL
    (arXiv 1904.01186) with fewer channels. In eval mode, which has no random numbers, the noise is always the same.
    """
    if len(shape) != 3 or shape[0] % 4 or shape[1] % 4 or min(shape) < 1:
        raise ValueError(f"A generator's shape is (height, width, channels), sides multiples of 4, not {tuple(shape)}.")
    return Generator(tuple(shape), noise, width)


def image_bank(
    num_classes: int, shape: Sequence[int], size: int = 1024, shift: int = 0, noise: NotNegative[float] = 0.0
) -> FunctionModel:
    """Returns `size` images whose pixels are the parameters, N(0, 1) at first; image i is of class i mod num_classes.

    Inputs (like [B, ...], window int [2]): B images are drawn from the window[1] ones that start at window[0], anew in
    every call. Features: "label" int [B], the class that each is meant to be, and "row" int [B]. In training each is
    moved by up to `shift` pixels in both directions, the border repeated, and N(0, noise^2) is added. ValueError for a
    shape that is none.
    """
    if len(shape) != 3 or min(*shape, size) < 1 or shift < 0:
        raise ValueError(f"A bank needs shape=(height, width, channels), size >= 1, shift >= 0; got {shape=}, {size=}.")

    def init(key: Array, like: Array, window: Array) -> dict[str, Array]:
        del like, window
        return {"images": jax.random.normal(key, (size, *shape))}

    def bank(params: dict[str, Array], like: Array, window: Array, train: bool, key: Array) -> Outputs:
        draw, move = jax.random.split(key)
        rows = jax.random.randint(draw, like.shape[:1], window[0], window[0] + window[1])
        images = params["images"][rows]
        if train and shift:
            padded = jnp.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)), mode="edge")
            starts = jax.random.randint(move, (len(rows), 2), 0, 2 * shift + 1)
            images = jax.vmap(lambda x, at: jax.lax.dynamic_slice(x, (at[0], at[1], 0), tuple(shape)))(padded, starts)
        if train and noise:
            images += noise * jax.random.normal(jax.random.fold_in(move, 1), images.shape)
        return Outputs(images, {"label": rows % num_classes, "row": rows})

    return FunctionModel(init, bank)
