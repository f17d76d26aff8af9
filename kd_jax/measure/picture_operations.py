"""Operations on one picture [H, W, C], float32, that corruptions are made of; sizes are static, strengths traced."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

from kd_jax.types import Array


def convolve(picture: Array, kernel: Array, mode: str = "reflect") -> Array:
    """Computes the correlation of each channel with a kernel [k, k], k odd; `mode` is that of jnp.pad at the border."""
    pad = len(kernel) // 2
    padded = jnp.pad(picture, ((pad, pad), (pad, pad), (0, 0)), mode=mode)
    channels = jnp.moveaxis(padded, -1, 0)[:, None]
    made = jax.lax.conv(channels, kernel[None, None], (1, 1), "VALID", precision=jax.lax.Precision.HIGHEST)
    return jnp.moveaxis(made[:, 0], 0, -1)


def gaussian(picture: Array, sigma: Array, largest: float, mode: str = "edge") -> Array:
    """Computes a Gaussian blur; `largest` is the greatest sigma that occurs, which decides the size of the window.

    The window reaches to 4 sigma, as in scikit-image. sigma = 0 leaves the picture as it is.
    """
    radius = max(math.ceil(4 * largest), 1)
    padded = jnp.pad(picture, ((radius, radius), (radius, radius), (0, 0)), mode=mode)

    def weights(size: int) -> Array:
        apart = jnp.arange(size + 2 * radius)[None, :] - jnp.arange(size)[:, None] - radius
        inside = jnp.abs(apart) <= jnp.ceil(4 * sigma)
        band = jnp.where(inside, jnp.exp(-(apart**2) / (2 * jnp.maximum(sigma, 1e-3) ** 2)), 0.0)
        return band / band.sum(1, keepdims=True)

    rows, columns = map(weights, picture.shape[:2])
    return jnp.einsum("ij,jkc,lk->ilc", rows, padded, columns, precision="highest")


def sample(picture: Array, rows: Array, columns: Array, mode: str = "nearest") -> Array:
    """Returns the picture at real coordinates [H, W], by bilinear interpolation; `mode` is that of map_coordinates."""
    one = lambda channel: map_coordinates(channel, [rows, columns], order=1, mode=mode)  # noqa: E731
    return jax.vmap(one, -1, -1)(picture)


def grid(picture: Array) -> tuple[Array, Array]:
    """Returns the coordinates of the pixels, (rows [H, W], columns [H, W]), float32."""
    rows, columns = (jnp.arange(n, dtype=jnp.float32) for n in picture.shape[:2])
    rows, columns = jnp.meshgrid(rows, columns, indexing="ij")
    return rows, columns


def zoomed(picture: Array, factor: Array) -> Array:
    """Returns the middle of the picture, `factor` times as large."""
    middle = [(n - 1) / 2 for n in picture.shape[:2]]
    rows, columns = (m + (at - m) / factor for at, m in zip(grid(picture), middle, strict=True))
    return sample(picture, rows, columns)


def smeared(picture: Array, sigma: Array, angle: Array, length: int, step: float, reach: Array) -> Array:
    """Computes a motion blur: the mean along a ray at `angle` (radians), with the right half of a Gaussian as weights.

    Of `length` points at a distance of `step` pixels the first `reach` count; `sigma` is in steps.
    """
    (rows, columns), numbers = grid(picture), jnp.arange(length)
    weights = jnp.where(numbers < reach, jnp.exp(-(numbers**2) / (2 * sigma**2)), 0.0)

    def along(total: Array, point: tuple[Array, Array]) -> tuple[Array, None]:
        weight, distance = point
        moved = sample(picture, rows + distance * jnp.sin(angle), columns + distance * jnp.cos(angle))
        return total + weight * moved, None

    points = weights / weights.sum(), numbers * step
    return jax.lax.scan(along, jnp.zeros_like(picture), points)[0]


def plasma(key: Array, side: int, decay: Array) -> Array:
    """Returns a fractal [side, side] in [0, 1] by the diamond-square algorithm; larger `decay` makes it smoother.

    Every new point is the mean of its four neighbours, at periodic borders, and noise whose width falls by decay^2
    from one level to the next.
    """
    levels = max(math.ceil(math.log2(side)), 1)
    drawn = jax.random.uniform(key, (4**levels - 1,), minval=-1.0)  # at once: a draw for every level compiles slowly
    heights, wibble = jnp.zeros((1, 1)), 100.0
    for level in range(levels):
        noise = wibble**2 * drawn[4**level - 1 : 4 ** (level + 1) - 1].reshape(3, *heights.shape)
        right, below = jnp.roll(heights, -1, 1), jnp.roll(heights, -1, 0)
        centres = (heights + right + below + jnp.roll(right, -1, 0)) / 4 + noise[0]
        between = (heights + right + centres + jnp.roll(centres, 1, 0)) / 4 + noise[1]
        under = (heights + below + centres + jnp.roll(centres, 1, 1)) / 4 + noise[2]
        top = jnp.stack([heights, between], -1).reshape(len(heights), -1)
        bottom = jnp.stack([under, centres], -1).reshape(len(heights), -1)
        heights = jnp.stack([top, bottom], 1).reshape(2 * len(heights), -1)
        wibble = wibble / decay
    heights -= heights.min()
    return (heights / jnp.maximum(heights.max(), 1e-12))[:side, :side]


def box_resampling(side: int, count: Array) -> Array:
    """Returns the matrix [side, side] that makes `count` pixels of `side`, and `side` of those, by PIL's box filter."""
    pixel = jnp.arange(side, dtype=jnp.float32) + 0.5
    width = side / count
    inside = (pixel[None, :] - pixel[:, None] * width) / jnp.maximum(width, 1.0)
    down = jnp.where((inside > -0.5) & (inside <= 0.5) & (pixel[:, None] < count), 1.0, 0.0)
    down /= jnp.maximum(down.sum(1, keepdims=True), 1.0)
    from_where = pixel[None, :] - pixel[:, None] * (count / side)  # of each pixel, which of the few it is
    up = jnp.where((from_where > -0.5) & (from_where <= 0.5) & (pixel[None, :] < count), 1.0, 0.0)
    return jnp.matmul(up, down, precision=jax.lax.Precision.HIGHEST)


# The quantisation tables of Annex K of the JPEG standard (ITU-T T.81), for luminance and chrominance.
LUMINANCE = np.array(
    [
        *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55),
        *(14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62),
        *(18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
        *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
    ]
).reshape(8, 8)
CHROMINANCE = np.full((8, 8), 99)
CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
_TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
_COSINES = np.array([[math.cos((2 * x + 1) * u * math.pi / 16) for x in range(8)] for u in range(8)])
_DCT = _COSINES * np.where(np.arange(8) == 0, math.sqrt(1 / 8), 0.5)[:, None]


def jpeg(picture: Array, quality: Array) -> Array:
    """Returns a picture in 0..255, [H, W, 1] or [H, W, 3], as JPEG of the quality (50..100) leaves it.

    Blocks of 8 x 8 in the discrete cosine basis, rounded by the tables of the standard; colours have half the
    resolution. What follows in the format loses nothing.
    """
    height, width, channels = picture.shape
    pad = [(0, -n % 16) for n in (height, width)]
    whole = jnp.pad(jnp.round(picture), (*pad, (0, 0)), mode="edge")
    if channels == 1:
        return jnp.clip(jnp.round(_quantised(whole[..., 0], LUMINANCE, quality)), 0, 255)[:height, :width, None]
    luma, *chroma = jnp.moveaxis(jnp.round(whole @ _TO_YCC.T.astype(np.float32)), -1, 0)
    luma = _quantised(luma, LUMINANCE, quality)
    half = [c.reshape(c.shape[0] // 2, 2, c.shape[1] // 2, 2).mean((1, 3)) for c in chroma]
    pixels = [_quantised(c + 128, CHROMINANCE, quality) - 128 for c in half]
    large = [jax.image.resize(c, luma.shape, "bilinear") for c in pixels]
    back = np.linalg.inv(_TO_YCC).T.astype(np.float32)
    made = jnp.stack([luma, *large], -1) @ back
    return jnp.clip(jnp.round(made), 0, 255)[:height, :width]


def _quantised(channel: Array, table: np.ndarray, quality: Array) -> Array:
    """A channel in 0..255 with its blocks rounded; libjpeg's scale of the tables."""
    scale = jnp.where(quality < 50, 5000 / quality, 200 - 2 * quality)
    steps = jnp.clip(jnp.floor((table * scale + 50) / 100), 1, 255)
    high, wide = (n // 8 for n in channel.shape)
    blocks = (channel - 128).reshape(high, 8, wide, 8)
    waves = jnp.einsum("ux,hxwy,vy->huwv", _DCT, blocks, _DCT, precision="highest")
    steps = steps[None, :, None, :]
    waves = jnp.round(waves / steps) * steps
    blocks = jnp.einsum("ux,huwv,vy->hxwy", _DCT, waves, _DCT, precision="highest")
    return blocks.reshape(channel.shape) + 128
