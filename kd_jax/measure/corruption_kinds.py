"""The 15 corruptions of Hendrycks, Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", 2019, arXiv 1903.12261, in 5 severities, on the device, for pictures of any size.

The strengths are those of the version for small pictures (CIFAR-10-C, 32 x 32); lengths in pixels are multiplied by the
shorter side / 32 for larger ones, and are never less, since half a pixel of blur is none. A kind is a function
`(key, picture, strength, scale) -> picture` of one picture [H, W, C] in [0, 1], with C = 1 or 3; every number is drawn
from the key. Deviations from the published code, where the pictures are made one by one with OpenCV, ImageMagick and
scikit-image:
frost         a fractal texture in place of six photographs of frosted glass, which are not shipped
glass_blur    every pixel takes the value of a random neighbour, all at once, not in swaps one after another
motion_blur, snow   points along the ray are interpolated, not rounded to whole pixels
zoom_blur, snow     zoom about the very middle, without cutting to whole pixels first
elastic_transform   affine map and displacement in one interpolation, not two
jpeg_compression    colours are enlarged again bilinearly, libjpeg's "fancy" upsampling nearly
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.data.augment import example_key
from kd_jax.measure import picture_operations as op
from kd_jax.types import Array

SIDE = 32  # of the pictures that the strengths are for
SEVERITIES = (1, 2, 3, 4, 5)
Strength = Array


def gaussian_noise(key: Array, picture: Array, strength: Strength, scale: float) -> Array:
    """Adds Gaussian noise of a standard deviation."""
    return picture + strength[0] * jax.random.normal(key, picture.shape)


def shot_noise(key: Array, picture: Array, strength: Strength, scale: float) -> Array:
    """Draws from a Poisson distribution of so many photons at full brightness."""
    return jax.random.poisson(key, picture * strength[0]).astype(jnp.float32) / strength[0]


def impulse_noise(key: Array, picture: Array, strength: Strength, scale: float) -> Array:
    """Sets a share of the values to 0 or 1."""
    where, which = jax.random.split(key)
    salt = jax.random.bernoulli(which, 0.5, picture.shape).astype(jnp.float32)
    return jnp.where(jax.random.uniform(where, picture.shape) <= strength[0], salt, picture)


def defocus_blur(key: Array, picture: Array, strength: Strength, scale: float) -> Array:
    """Averages over a disk of a radius, whose edge is smoothed by a Gaussian of 3 x 3."""
    radius, alias = strength[0] * scale, strength[1]
    reach = math.ceil(1.5 * scale) + 1
    x = jnp.arange(-reach, reach + 1)
    disk = (x[:, None] ** 2 + x[None, :] ** 2 <= radius**2).astype(jnp.float32)
    window = jnp.exp(-(jnp.arange(-1, 2) ** 2) / (2 * alias**2))
    window /= window.sum()
    smooth = op.convolve((disk / disk.sum())[..., None], window[:, None] * window[None, :], "constant")
    return op.convolve(picture, smooth[..., 0])


def glass_blur(key: Array, picture: Array, strength: Strength, scale: float) -> Array:
    """Blurs, moves every pixel by a random step, once or twice, and blurs again: sigma, largest step, times."""
    sigma, most, largest = strength[0] * scale, round(scale), 0.4 * scale
    rows, columns = (at.astype(jnp.int32) for at in op.grid(picture))
    made = op.gaussian(picture, sigma, largest)
    for number in (0, 1):
        steps = jax.random.randint(jax.random.fold_in(key, number), (2, *picture.shape[:2]), -most, most)
        there = [jnp.clip(at + s, 0, n - 1) for at, s, n in zip((rows, columns), steps, picture.shape, strict=False)]
        made = jnp.where(number < strength[2], made[there[0], there[1]], made)
    return op.gaussian(made, sigma, largest)


def motion_blur(key: Array, picture: Array, strength: Strength, scale: float) -> Array:
    """Smears along a direction within 45 degrees of the horizontal: radius and sigma."""
    angle = jax.random.uniform(key, (), minval=-math.pi / 4, maxval=math.pi / 4)
    return op.smeared(picture, strength[1], angle, 19, scale, 2 * strength[0] + 1)


def zoom_blur(key: Array, picture: Array, strength: Strength, scale: float) -> Array:
    """Averages with so many enlargements, each 1% larger than the one before."""

    def add(number: Array, total: Array) -> Array:
        return total + op.zoomed(picture, 1 + 0.01 * number)

    count = strength[0].astype(jnp.int32)
    return (picture + jax.lax.fori_loop(0, count, add, jnp.zeros_like(picture))) / (count + 1)


def snow(key: Array, picture: Array, strength: Strength, scale: float) -> Array:
    """Brightens, and adds falling flakes: mean and deviation of the layer, zoom, threshold, radius, sigma, rest."""
    mean, deviation, zoom, threshold, radius, sigma, rest = strength
    flakes, direction = jax.random.split(key)
    layer = mean + deviation * jax.random.normal(flakes, (*picture.shape[:2], 1))
    layer = op.zoomed(layer, zoom)
    layer = jnp.clip(jnp.where(layer < threshold, 0.0, layer), 0, 1)
    angle = jax.random.uniform(direction, (), minval=-0.75 * math.pi, maxval=-0.25 * math.pi)
    layer = op.smeared(layer, sigma, angle, 29, scale, 2 * radius + 1)
    made = rest * picture + (1 - rest) * jnp.maximum(picture, grey(picture) * 1.5 + 0.5)
    return made + layer + layer[::-1, ::-1]


def frost(key: Array, picture: Array, strength: Strength, scale: float) -> Array:
    """Adds a share of a texture of ridges to a share of the picture."""
    ridges = 1 - jnp.abs(2 * op.plasma(key, _power(picture), 2.0) - 1)
    texture = ridges[: picture.shape[0], : picture.shape[1], None] ** 2
    return strength[0] * picture + strength[1] * texture


def fog(key: Array, picture: Array, strength: Strength, scale: float) -> Array:
    """Adds a fractal of a strength and a decay, and scales what is brightest back."""
    haze = op.plasma(key, _power(picture), strength[1])[: picture.shape[0], : picture.shape[1], None]
    brightest = picture.max()
    return (picture + strength[0] * haze) * brightest / (brightest + strength[0])


def brightness(key: Array, picture: Array, strength: Strength, scale: float) -> Array:
    """Adds to the value of hue, saturation and value: the largest channel, of which the others keep their shares."""
    value = picture.max(-1, keepdims=True)
    raised = jnp.clip(value + strength[0], 0, 1)
    return jnp.where(value > 0, picture * raised / jnp.maximum(value, 1e-6), raised)


def contrast(key: Array, picture: Array, strength: Strength, scale: float) -> Array:
    """Draws every channel towards its mean."""
    mean = picture.mean((0, 1), keepdims=True)
    return (picture - mean) * strength[0] + mean


def elastic_transform(key: Array, picture: Array, strength: Strength, scale: float) -> Array:
    """Moves pixels by a smooth random field after a random affine map: all three as shares of the shorter side."""
    side = min(picture.shape[:2])
    reach, sigma, affine = strength * side
    largest = max(row[1] for row in KINDS["elastic_transform"].strengths) * side
    corners, field = jax.random.split(key)
    noise = jax.random.uniform(field, (*picture.shape[:2], 2), minval=-1.0)
    moved = op.gaussian(noise, sigma, largest, "symmetric") * reach
    middle, arm = np.array(picture.shape[:2]) // 2, side // 3
    before = np.array([middle + arm, middle + [arm, -arm], middle - arm], np.float32)
    after = before + jax.random.uniform(corners, (3, 2), minval=-1.0) * affine
    # What maps `after` back to `before`: a picture is made by asking every pixel where it comes from.
    back = jnp.linalg.solve(jnp.concatenate([after, jnp.ones((3, 1))], 1), jnp.asarray(before))
    rows, columns = op.grid(picture)
    points = jnp.stack([rows + moved[..., 0], columns + moved[..., 1], jnp.ones_like(rows)], -1)
    there = jnp.matmul(points, back, precision=jax.lax.Precision.HIGHEST)
    return op.sample(picture, there[..., 0], there[..., 1], "mirror")


def pixelate(key: Array, picture: Array, strength: Strength, scale: float) -> Array:
    """Makes pixels larger: the share of the side that is left."""
    rows, columns = (op.box_resampling(n, jnp.floor(n * strength[0])) for n in picture.shape[:2])
    return jnp.einsum("ij,jkc,lk->ilc", rows, picture, columns, precision="highest")


def jpeg_compression(key: Array, picture: Array, strength: Strength, scale: float) -> Array:
    """Stores as JPEG of a quality, and reads again."""
    return op.jpeg(255 * picture, strength[0]) / 255


def grey(picture: Array) -> Array:
    """Returns the brightness [H, W, 1]: the channel, or the usual weights of red, green and blue."""
    if picture.shape[-1] == 1:
        return picture
    return (picture * jnp.array([[[0.299, 0.587, 0.114]]])).sum(-1, keepdims=True)


def _power(picture: Array) -> int:
    """The side of the smallest square of a power of two that covers the picture."""
    return 1 << (max(picture.shape[:2]) - 1).bit_length()


class Kind(NamedTuple):
    """A corruption: its function, and its strength at severities 1 to 5."""

    apply: Callable[[Array, Array, Strength, float], Array]
    strengths: tuple[tuple[float, ...], ...]


def _one(*values: float) -> tuple[tuple[float, ...], ...]:
    return tuple((value,) for value in values)


KINDS: Mapping[str, Kind] = {
    "gaussian_noise": Kind(gaussian_noise, _one(0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": Kind(shot_noise, _one(500, 250, 100, 75, 50)),
    "impulse_noise": Kind(impulse_noise, _one(0.01, 0.02, 0.03, 0.05, 0.07)),
    "defocus_blur": Kind(defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))),
    "glass_blur": Kind(glass_blur, ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))),
    "motion_blur": Kind(motion_blur, ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))),
    "zoom_blur": Kind(zoom_blur, _one(*(len(np.arange(1, to, 0.01)) for to in (1.06, 1.11, 1.16, 1.21, 1.26)))),
    "snow": Kind(
        snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
    ),
    "frost": Kind(frost, ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))),
    "fog": Kind(fog, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))),
    "brightness": Kind(brightness, _one(0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": Kind(contrast, _one(0.75, 0.5, 0.4, 0.3, 0.15)),
    "elastic_transform": Kind(
        elastic_transform,
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    ),
    "pixelate": Kind(pixelate, _one(0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg_compression": Kind(jpeg_compression, _one(80, 65, 58, 50, 40)),
}


@functools.partial(jax.jit, static_argnames="kind")
def corrupted(kind: str, key: Array, pictures: Array, index: Array, severity: Array) -> Array:
    """Returns uint8 pictures [n, H, W, C] corrupted; `severity` is 1..5, `index` [n] the numbers of the examples.

    A picture depends on the key, its index and nothing else: not on the batch. Values are cut off to whole ones, as the
    published ones are.
    """
    function, strengths = KINDS[kind]
    strength = jnp.asarray(strengths, jnp.float32)[severity - 1]
    scale = max(1.0, min(pictures.shape[1:3]) / SIDE)

    def one(number: Array, picture: Array) -> Array:
        return function(example_key(key, number, severity), picture.astype(jnp.float32) / 255, strength, scale)

    made = jax.vmap(one)(index, pictures)
    # A thousandth above the whole number: 128 / 255 * 255 may come out a little below 128.
    return jnp.floor(jnp.clip(made, 0, 1) * 255 + 1e-3).astype(jnp.uint8)
