"""The 15 corruptions: PIL's own pixels and JPEG, statistics of noise, mCE by hand, independence of the batch."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from kd_jax.measure import picture_operations as op
from kd_jax.measure.corruption_kinds import KINDS, corrupted
from kd_jax.measure.corruptions import mean_corruption_error

SIDE = 16
RNG = np.random.default_rng(0)
SMOOTH = ndimage.gaussian_filter(RNG.uniform(0, 255, (SIDE, SIDE, 3)), (2, 2, 0))
PICTURE = ((SMOOTH - SMOOTH.min()) / np.ptp(SMOOTH) * 200 + 20).astype(np.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_of_its_example_alone_and_stronger_when_severer(kind):
    pictures = np.stack([PICTURE, PICTURE[::-1]])
    key, index = jax.random.key(0), np.arange(2)
    weak, strong = (np.asarray(corrupted(kind, key, pictures, index, s)) for s in (1, 5))
    assert weak.dtype == np.uint8 and weak.shape == pictures.shape
    again = np.asarray(corrupted(kind, key, pictures[::-1], index[::-1], 1))[::-1]
    np.testing.assert_array_equal(weak, again)
    change = [np.abs(made.astype(float) - pictures).mean() for made in (weak, strong)]
    assert 0 < change[0]
    if kind not in ("frost", "elastic_transform"):  # whose severities trade one strength for another
        assert change[0] < change[1]


def test_pixels_are_pils():
    share, grey = 0.65, PICTURE[..., 0]
    small = Image.fromarray(grey).resize((int(SIDE * share),) * 2, Image.Resampling.BOX)
    wanted = np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BOX), float)
    rows = np.asarray(op.box_resampling(SIDE, jnp.floor(SIDE * share)))
    np.testing.assert_allclose(rows @ grey.astype(float) @ rows.T, wanted, atol=1.01)  # PIL rounds twice


@pytest.mark.parametrize("quality", [80, 40])
def test_jpeg_is_pils(quality):
    for picture, most in ((PICTURE[..., :1], 0.2), (PICTURE, 1.0)):  # colours: libjpeg enlarges them another way
        stored = io.BytesIO()
        Image.fromarray(picture.squeeze()).save(stored, "JPEG", quality=quality)
        wanted = np.asarray(Image.open(stored), float).reshape(picture.shape)
        made = np.asarray(op.jpeg(jnp.asarray(picture, jnp.float32), jnp.float32(quality)))
        assert np.abs(made - wanted).mean() < most, np.abs(made - wanted).mean()


def test_blurs_are_scipys():
    made = op.gaussian(jnp.asarray(PICTURE, jnp.float32), jnp.float32(1.3), 1.3)
    wanted = ndimage.gaussian_filter(PICTURE.astype(float), (1.3, 1.3, 0), mode="nearest", radius=(6, 6, 0))
    np.testing.assert_allclose(made, wanted, atol=0.02)
    kernel = RNG.uniform(size=(3, 3)).astype(np.float32)
    made = op.convolve(jnp.asarray(PICTURE, jnp.float32), jnp.asarray(kernel))
    wanted = ndimage.correlate(PICTURE.astype(float), kernel[..., None], mode="mirror")
    np.testing.assert_allclose(made, wanted, rtol=1e-4)


def test_noise_has_the_strength_that_is_said():
    grey = np.full((1, 64, 64, 1), 128, np.uint8)
    made = {k: np.asarray(corrupted(k, jax.random.key(1), grey, np.arange(1), 3)) / 255 for k in KINDS if "noise" in k}
    assert made["gaussian_noise"].std() == pytest.approx(0.08, rel=0.05)
    assert made["shot_noise"].var() == pytest.approx((128 / 255) / 100, rel=0.1)
    assert np.isin(made["impulse_noise"], [0, 1]).mean() == pytest.approx(0.03, rel=0.3)


def test_mce_by_hand():
    errors, baseline = {"fog": [0.1, 0.3], "snow": [0.2, 0.2]}, {"fog": [0.4, 0.4], "snow": [0.1, 0.3]}
    assert mean_corruption_error(errors, baseline) == pytest.approx((0.4 / 0.8 + 0.4 / 0.4) / 2)
    assert mean_corruption_error(baseline, baseline) == 1
    assert mean_corruption_error(errors, {"fog": [0.0, 0.0], "snow": [0.1, 0.3]}) is None
