"""Log-mel energies of waveforms, on the device: frames, Hann window, power spectrum, triangular bands, logarithm.

`features` is what a config names in config.prepare: raw waveforms lie in the data, and both networks read its entries.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from kd_jax.ranges import Count, NotNegative
from kd_jax.types import Array

SCALES = ("slaney", "htk")
LEAST = 1e-6  # added to the energy of a band: digital silence has no logarithm
WHISPER = dict(window=400, hop=160, bands=80)  # at 16 kHz


def hertz_to_mel(hertz: np.ndarray, scale: str = "slaney") -> np.ndarray:
    """Returns mel: 2595 log10(1 + f / 700) ("htk"), or linear below 1 kHz and logarithmic above (Slaney, 1998)."""
    if scale == "htk":
        return 2595 * np.log10(1 + hertz / 700)
    above = 15 + np.log(np.maximum(hertz, 1000) / 1000) * 27 / np.log(6.4)
    return np.where(hertz < 1000, hertz * 3 / 200, above)


def mel_to_hertz(mel: np.ndarray, scale: str = "slaney") -> np.ndarray:
    """Returns the inverse of `hertz_to_mel`."""
    if scale == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))


@functools.cache
def filters(
    rate: int, size: int, bands: int, low: float = 0.0, high: float = 0.0, scale: str = "slaney", area: bool = True
) -> np.ndarray:
    """Returns [size // 2 + 1, bands] float32: triangles whose corners are equally far apart in mel, from low to high.

    `high` = 0 is half of the rate. With `area` a triangle has an area of 1 (2 / its width in hertz), as Slaney's
    Auditory Toolbox and librosa have it, else a height of 1. ValueError for another scale, for corners outside of
    0..rate / 2, and for bands so narrow that no frequency of the spectrum lies in one.
    """
    high = high or rate / 2
    if scale not in SCALES:
        raise ValueError(f"log_mel: scale is {' or '.join(map(repr, SCALES))}, not {scale!r}.")
    if not 0 <= low < high <= rate / 2:
        raise ValueError(f"log_mel: bands from {low:g} to {high:g} Hz do not lie in 0..{rate / 2:g}, half of the rate.")
    first, last = hertz_to_mel(np.array([low, high], float), scale)
    corner = mel_to_hertz(np.linspace(first, last, bands + 2), scale)
    frequency = np.linspace(0, rate / 2, size // 2 + 1)[:, None]
    left, middle, right = corner[:-2], corner[1:-1], corner[2:]
    rising, falling = (frequency - left) / (middle - left), (right - frequency) / (right - middle)
    triangles = np.clip(np.minimum(rising, falling), 0, None)
    if not triangles.any(0).all():
        empty = int(np.argmin(triangles.any(0)))
        raise ValueError(
            f"log_mel: band {empty} of {bands} holds no frequency of a spectrum of {size} samples at {rate} Hz: take "
            "fewer bands or a larger size."
        )
    return (triangles * 2 / (right - left) if area else triangles).astype(np.float32)


def power_spectrum(waves: Array, window: int, hop: int, size: int = 0) -> Array:
    """Returns abs(FFT)^2 [batch, frames, size // 2 + 1] of waves [batch, samples].

    There are 1 + (samples - window) // hop frames. The window is Hann's, periodic; `size` is that of the FFT, 0 for the
    window's. ValueError for waves shorter than a window.
    """
    samples = waves.shape[1]
    if samples < window:
        raise ValueError(f"log_mel: {samples} samples are fewer than a window of {window}.")
    count = 1 + (samples - window) // hop
    frames = waves[:, np.arange(count)[:, None] * hop + np.arange(window)]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    spectrum = jnp.fft.rfft(frames * hann.astype(np.float32)[None, None], size or window)
    return spectrum.real**2 + spectrum.imag**2


def log_mel(
    waves: Array,
    rate: int,
    window: int,
    hop: int,
    bands: int,
    size: int = 0,
    low: float = 0.0,
    high: float = 0.0,
    scale: str = "slaney",
    area: bool = True,
) -> Array:
    """Returns log(energy + 1e-6) [batch, frames, bands], float32, of waves float [batch, samples] in -1..1."""
    power = power_spectrum(waves.astype(jnp.float32), window, hop, size)
    return jnp.log(power @ filters(rate, size or window, bands, low, high, scale, area) + LEAST)


def whisper_log_mel(waves: Array, rate: int = 16000, bands: int = 80) -> Array:
    """Returns Whisper's input [batch, samples // 160, bands] of waves [batch, samples] at 16 kHz.

    Frames are centred by reflection, the last is dropped, the logarithm is that of 10, values lie in 8 below the
    largest of a recording, and are (x + 4) / 4. Radford et al., "Robust Speech Recognition via Large-Scale Weak
    Supervision", 2022, arXiv 2212.04356. ValueError for another rate.
    """
    if rate != 16000:
        raise ValueError(f"Whisper reads 16000 samples a second, not {rate}.")
    window, hop = WHISPER["window"], WHISPER["hop"]
    padded = jnp.pad(waves.astype(jnp.float32), ((0, 0), (window // 2, window // 2)), mode="reflect")
    energy = power_spectrum(padded, window, hop)[:, :-1] @ filters(rate, window, bands)
    logs = jnp.log10(jnp.maximum(energy, 1e-10))
    return (jnp.maximum(logs, logs.max((1, 2), keepdims=True) - 8) + 4) / 4


def sounding(waves: Array) -> Array:
    """Returns int [batch]: the samples up to the last that is not exactly 0; what follows is padding."""
    there = waves != 0
    return jnp.where(there.any(1), there.shape[1] - jnp.argmax(there[:, ::-1], axis=1), 0)


def features(
    batch: Mapping[str, Array],
    train: bool,
    rate: Count[int] = 8000,
    window: Count[int] = 200,
    hop: Count[int] = 80,
    size: Count[int] = 256,
    bands: Count[int] = 40,
    stride: Count[int] = 4,
    low: NotNegative[float] = 60.0,
    scale: str = "htk",
) -> dict[str, Array]:
    """Returns the entries "mel" [batch, F, bands] and "frames" bool [batch, ceil(F / stride)] of batch["image"].

    That is waves [batch, samples, 1, 1]. Bands have mean 0 and standard deviation 1 over the frames of a recording;
    a frame that begins after the last sample that is not exactly 0 is padding: 0 in "mel". "frames" says of each
    frame of a network that takes one in `stride` whether it is none. The first frame always counts.
    """
    del train
    waves = batch["image"].reshape(len(batch["image"]), -1)
    mel = log_mel(waves, rate, window, hop, bands, size, low, scale=scale, area=False)
    starts = np.arange(mel.shape[1]) * hop
    real = (starts[None] < sounding(waves)[:, None]) | (starts == 0)[None]
    count = real.sum(1)[:, None, None]
    mean = jnp.where(real[..., None], mel, 0).sum(1, keepdims=True) / count
    centred = jnp.where(real[..., None], mel - mean, 0)
    deviation = jnp.sqrt((centred**2).sum(1, keepdims=True) / count)
    return {"mel": centred / jnp.maximum(deviation, 0.1), "frames": real[:, ::stride]}
