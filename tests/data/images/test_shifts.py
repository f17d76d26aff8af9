"""The shifted target domain: what the shift does to an image, which labels are left, what stays the source's."""

import numpy as np
import pytest

from kd_jax.data import arrays
from kd_jax.data.images import shifts
from kd_jax.data.load import load

SHIFT = {"contrast": 0.7, "gradient": 0.3, "noise": 0.05}
IMAGES = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4, 1) * 8


def shifted(**options):
    return shifts.shifted(IMAGES, np.random.default_rng(0), **options)


def test_each_part_of_the_shift():
    np.testing.assert_array_equal(shifted(), IMAGES)
    np.testing.assert_array_equal(shifted(invert=True), 255 - IMAGES)
    np.testing.assert_allclose(shifted(contrast=0.5), IMAGES / 2, atol=0.5)
    ramp = shifted(contrast=0.0, gradient=1.0)[..., 0].astype(int)
    assert ramp.min() == 0 and ramp.max() == 255 and (ramp[0] != ramp[1]).any()
    for axis in (1, 2):  # a plane: all differences along an axis are alike
        assert np.ptp(np.diff(ramp[0], axis=axis - 1)) <= 2
    noisy = shifts.shifted(np.full((9, 16, 16, 1), 128, np.uint8), np.random.default_rng(0), noise=0.1) / 255.0
    assert abs(noisy.std() - 0.1) < 0.01
    with pytest.raises(ValueError, match="uint8 images"):
        shifts.shifted(IMAGES / 255, np.random.default_rng(0))


def test_the_target_domain_has_labels_to_measure_only():
    config = {"name": "kd_jax.data.images.shifts:digits", "validation": 0.125, "shift": SHIFT, "train_slice": (629, 0)}
    target, source = load(config), load({"name": "digits", "validation": 0.125, "train_slice": (629, 0)})
    assert not target.train.labelled.any() and target.validation.labelled.all() and target.test.labelled.all()
    for one, other in zip(target, source, strict=True):
        assert len(one) == len(other) and (one.mean, one.std) == (arrays.DIGITS_MEAN, arrays.DIGITS_STD)
        correlation = np.corrcoef(one.images.ravel(), other.images.ravel())[0, 1]
        assert 0.8 < correlation < 0.98  # the same digits, shifted
    np.testing.assert_array_equal(load(config).test.images, target.test.images)
    few = load({**config, "labels": 20})
    assert few.train.labelled.sum() == 20


def test_a_shift_must_be_named():
    with pytest.raises(ValueError, match="needs data.shift"):
        shifts.digits({})
    with pytest.raises(ValueError, match="blur"):
        shifts.digits({"shift": {"blur": 1.0}})
