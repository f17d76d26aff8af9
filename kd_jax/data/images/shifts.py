"""A target domain for domain adaptation: the digits in other light, without labels to train on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from kd_jax.data import arrays
from kd_jax.data.load import DEFAULTS
from kd_jax.data.source import Source, Splits

SEED = 0  # of the shift: the target domain is the same in every run


def digits(config: Mapping[str, Any]) -> Splits:
    """Loads the digits (arrays.digits) after `shifted(**config.shift)`; validation and test keep their labels.

    `labels` = 0 hides all labels of train, `labels` = N leaves N of them. Images are normalised like those of the
    source domain, since the teacher expects that. ValueError if `shift` is missing or has an option that `shifted` does
    not take.
    """
    fields = {**DEFAULTS, **config}
    if "shift" not in config:
        raise ValueError("shifts.digits needs data.shift, such as {'contrast': 0.6, 'gradient': 0.4, 'noise': 0.1}")
    plain = arrays.held_out(arrays.digits(fields["test"]), fields["validation"], fields["split_seed"])
    train = _shifted_source(plain.train, 0, config["shift"])
    if not fields["labels"]:
        train = train.with_labels(np.full(len(train), -1))
    validation = plain.validation and _shifted_source(plain.validation, 1, config["shift"])
    return Splits(train, validation, _shifted_source(plain.test, 2, config["shift"]))


def _shifted_source(source: Source, number: int, shift: Mapping[str, float]) -> Source:
    rng = np.random.default_rng((SEED, number))
    try:
        images = shifted(source.in_memory()[0], rng, **shift)
    except TypeError as error:
        raise ValueError(f"data.shift = {dict(shift)}: {error}") from error
    return dataclasses.replace(source, name="shifted digits", images=images)


def shifted(
    images: np.ndarray,
    rng: np.random.Generator,
    *,
    contrast: float = 1.0,
    gradient: float = 0.0,
    noise: float = 0.0,
    invert: bool = False,
) -> np.ndarray:
    """Computes clip(contrast * x + gradient * ramp + noise * z), x = images / 255, as uint8 [n, H, W, C].

    ramp grows from 0 to 1 across an image in a direction drawn for it, z is standard normal in each pixel; `invert`
    takes 1 - x for x. Raises ValueError for what are no uint8 images.
    """
    if images.ndim != 4 or images.dtype != np.uint8:
        raise ValueError(f"shifted takes uint8 images [n, H, W, C], got {images.dtype} {images.shape}")
    x = images / 255.0
    x = 1 - x if invert else x
    rows, columns = (np.linspace(-1, 1, size) for size in images.shape[1:3])
    angle = rng.uniform(0, 2 * np.pi, (len(x), 1, 1))
    ramp = np.sin(angle) * rows[:, None] + np.cos(angle) * columns
    low, high = (limit(ramp, axis=(1, 2), keepdims=True) for limit in (np.min, np.max))
    x = contrast * x + gradient * ((ramp - low) / (high - low))[..., None] + noise * rng.normal(size=x.shape)
    return np.round(np.clip(x, 0, 1) * 255).astype(np.uint8)
