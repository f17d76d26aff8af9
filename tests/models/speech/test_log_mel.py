"""Log-mel energies against transformers' Whisper features and filter banks, and what counts as padding."""

import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.models.speech import log_mel

RNG = np.random.default_rng(0)


def wave(seconds=1.0, rate=16000):
    t = np.arange(int(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * 440 * t) + 0.05 * RNG.normal(size=len(t))).astype(np.float32)


def test_whisper_features_are_those_of_transformers():
    transformers = pytest.importorskip("transformers")
    extractor = transformers.WhisperFeatureExtractor(feature_size=80, chunk_length=2)
    x = wave(2.0)
    theirs = extractor(x, sampling_rate=16000, return_tensors="np").input_features
    mine = log_mel.whisper_log_mel(jnp.asarray(x)[None])
    np.testing.assert_allclose(np.asarray(mine).transpose(0, 2, 1), theirs, atol=2e-4)
    with pytest.raises(ValueError, match="16000 samples a second, not 8000"):
        log_mel.whisper_log_mel(jnp.asarray(x)[None], rate=8000)


@pytest.mark.parametrize("scale", ["slaney", "htk"])
@pytest.mark.parametrize("area", [True, False])
def test_filters_are_those_of_transformers(scale, area):
    audio = pytest.importorskip("transformers.audio_utils")
    theirs = audio.mel_filter_bank(129, 30, 60.0, 3800.0, 8000, "slaney" if area else None, scale)
    np.testing.assert_allclose(log_mel.filters(8000, 256, 30, 60.0, 3800.0, scale, area), theirs, atol=1e-6)


def test_power_by_hand():
    x = RNG.normal(size=(2, 700)).astype(np.float32)
    hann = np.hanning(201)[:-1]  # periodic
    frames = np.stack([x[:, s : s + 200] for s in range(0, 501, 80)], 1)
    expected = np.abs(np.fft.rfft(frames * hann, 256)) ** 2
    np.testing.assert_allclose(log_mel.power_spectrum(jnp.asarray(x), 200, 80, 256), expected, rtol=1e-3, atol=1e-3)


def test_a_tone_is_in_its_band():
    t = np.arange(4000) / 8000
    energy = log_mel.log_mel(jnp.asarray(np.sin(2 * np.pi * 1000 * t)[None]), 8000, 200, 80, 40, 256, scale="htk")
    centres = log_mel.mel_to_hertz(np.linspace(0, log_mel.hertz_to_mel(np.float64(4000), "htk"), 42), "htk")[1:-1]
    assert abs(centres[int(energy.mean((0, 1)).argmax())] - 1000) < 80


def test_padding_is_what_follows_the_last_sound():
    x = np.zeros((2, 4000, 1, 1), np.float32)
    x[0, :1600, 0, 0] = RNG.normal(size=1600)
    entries = log_mel.features({"image": jnp.asarray(x)}, False)
    mel, frames = np.asarray(entries["mel"]), np.asarray(entries["frames"])
    assert mel.shape == (2, 48, 40) and frames.shape == (2, 12)
    np.testing.assert_array_equal(frames[0], [True] * 5 + [False] * 7)  # 20 frames of 10 ms, one in four
    np.testing.assert_array_equal(frames[1], [True] + [False] * 11)
    assert (mel[0, 20:] == 0).all() and np.isfinite(mel).all()
    np.testing.assert_allclose(mel[0, :20].mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(mel[0, :20].std(0), 1, atol=1e-4)
    longer = log_mel.features({"image": jnp.asarray(np.pad(x, ((0, 0), (0, 800), (0, 0), (0, 0))))}, False)
    np.testing.assert_allclose(longer["mel"][:, :48], mel, atol=1e-5)


def test_bands_that_hold_nothing_are_refused():
    with pytest.raises(ValueError, match="band 0 of 300 holds no frequency of a spectrum of 256 samples at 8000 Hz"):
        log_mel.filters(8000, 256, 300)
    with pytest.raises(ValueError, match="bands from 0 to 5000 Hz do not lie in 0..4000"):
        log_mel.filters(8000, 256, 40, 0.0, 5000.0)
    with pytest.raises(ValueError, match="scale is 'slaney' or 'htk', not 'bark'"):
        log_mel.filters(8000, 256, 40, scale="bark")
    with pytest.raises(ValueError, match="100 samples are fewer than a window of 200"):
        log_mel.power_spectrum(jnp.zeros((1, 100)), 200, 80)
