"""Second modalities of images, as functions for config.prepare: (batch, train, **options) -> further batch entries.

They are computed from the prepared image (augmented, normalised), so that both modalities show one event. The inputs of
a network say which it reads, such as ("batch.spectrum",). A second modality that was recorded needs no function: it is
in Source.fields. Images are [batch, height, width, channels]; ValueError for anything else.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp

from kd_jax.types import Array

Batch = Mapping[str, Array]


def spectrum(batch: Batch, train: bool) -> dict[str, Array]:
    """Computes `spectrum`: log(1 + |F|), F the orthonormal 2-D Fourier transform with frequency 0 in the middle."""
    frequencies = jnp.fft.fft2(_image("spectrum", batch), axes=(1, 2), norm="ortho")
    return {"spectrum": jnp.fft.fftshift(jnp.log1p(jnp.abs(frequencies)), axes=(1, 2))}


def edges(batch: Batch, train: bool) -> dict[str, Array]:
    """Computes `edges`: the length of the image's gradient, by central differences with the border repeated."""
    x = _image("edges", batch)
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    down, right = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1], padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    return {"edges": jnp.hypot(down, right) / 2}


def halves(batch: Batch, train: bool) -> dict[str, Array]:
    """Returns `upper`, the rows above the middle, and `lower`, the others."""
    x = _image("halves", batch)
    middle = x.shape[1] // 2
    return {"upper": x[:, :middle], "lower": x[:, middle:]}


def _image(what: str, batch: Batch) -> Array:
    image = batch["image"]
    if image.ndim != 4 or image.shape[1] < 2:
        raise ValueError(f"{what} is of images [batch, height, width, channels], got {image.shape}")
    return image
