"""Second modalities of an image, against NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.data.images import modalities

IMAGE = np.random.default_rng(0).normal(size=(2, 5, 4, 3)).astype(np.float32)
BATCH = {"image": jnp.asarray(IMAGE)}


def test_spectrum():
    spectrum = modalities.spectrum(BATCH, True)["spectrum"]
    one = np.fft.fftshift(np.abs(np.fft.fft2(IMAGE[1, ..., 2]))) / np.sqrt(20)
    np.testing.assert_allclose(spectrum[1, ..., 2], np.log1p(one), rtol=1e-4, atol=1e-5)
    shifted = {"image": jnp.roll(BATCH["image"], 2, axis=2)}
    np.testing.assert_allclose(modalities.spectrum(shifted, False)["spectrum"], spectrum, atol=1e-5)


def test_edges():
    edges = modalities.edges(BATCH, True)["edges"]
    padded = np.pad(IMAGE[0, ..., 1], 1, mode="edge")
    down, right = (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2, (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2
    np.testing.assert_allclose(edges[0, ..., 1], np.sqrt(down**2 + right**2), rtol=1e-5)
    assert not modalities.edges({"image": jnp.ones((1, 3, 3, 1))}, True)["edges"].any()


def test_halves():
    halves = modalities.halves(BATCH, False)
    assert halves["upper"].shape == (2, 2, 4, 3)
    np.testing.assert_array_equal(np.concatenate([halves["upper"], halves["lower"]], 1), IMAGE)


@pytest.mark.parametrize("make", [modalities.spectrum, modalities.edges, modalities.halves])
def test_features_are_no_image(make):
    with pytest.raises(ValueError, match=rf"{make.__name__} is of images.*\(2, 7\)"):
        make({"image": jnp.zeros((2, 7))}, True)
