"""Speech from recordings that the test makes: which are taken, what the two modalities show, what is missing."""

import wave

import numpy as np
import pytest

from kd_jax.data import speech
from kd_jax.data.load import load
from kd_jax.data.source import DataNotFound

SECOND = np.arange(speech.RATE) / speech.RATE


def tone(hertz, seconds=1.5, level=0.5):
    return level * np.sin(2 * np.pi * hertz * np.arange(int(seconds * speech.RATE)) / speech.RATE + 0.1)


def write(path, samples, rate=speech.RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setsampwidth(2), file.setnchannels(1), file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())


@pytest.fixture
def folder(tmp_path):
    """Four tones for each language, in two folders, and what is no speech."""
    for number, code in enumerate(speech.LANGUAGES):
        for i in range(4):
            write(tmp_path / f"{code}_XX_f_Voice" / ("digits" if i % 2 else ".") / f"{i}.wav", tone(200 + 400 * number))
        write(tmp_path / f"{code}_XX_f_Voice" / "silence" / "1.wav", np.zeros(speech.RATE))
        write(tmp_path / f"{code}_XX_f_Voice" / "beep.wav", tone(1000, 0.1))
        write(tmp_path / f"{code}_XX_f_Voice" / "empty.wav", np.zeros(0))
    return str(tmp_path)


def test_languages_in_two_modalities(folder):
    splits = load({"name": "kd_jax.data.speech:languages", "directory": folder, "test": 0.25, "validation": 0.34})
    assert [len(source) for source in splits] == [9, 6, 5]
    assert splits.train.class_names == speech.LANGUAGES and splits.train.image_shape == (32, 16, 1)
    np.testing.assert_array_equal(np.sort(splits.test.labels), np.arange(5))
    for source in splits:
        # A higher tone is louder in a higher band and crosses zero more often.
        band = source.images[..., 0].mean(1).argmax(1)
        crossings = source.fields["contour"][..., 1].mean(1)
        order = np.argsort(source.labels, kind="stable")
        assert (np.diff(band[order]) >= 0).all() and len(set(band)) == 5
        assert (np.diff(crossings[order]) > -1e-3).all()
    assert splits.train.fields["contour"].shape == (9, 32, 2)


def test_modalities_of_a_tone():
    mel, contour = speech.modalities(speech.speech_of(tone(1000).astype(np.float32)))
    assert mel.shape == (32, 16, 1) and contour.shape == (32, 2) and mel.dtype == contour.dtype == np.float32
    np.testing.assert_allclose(contour[:, 1], 2 * 1000 / speech.RATE, atol=0.005)
    np.testing.assert_allclose(contour[:, 0], np.log(0.5**2 / 2), atol=0.02)
    centre = speech.mel_filters().argmax(0)[int(mel.mean((0, 2)).argmax())] * speech.RATE / speech.WINDOW
    assert abs(centre - 1000) < 150


def test_speech_starts_where_the_sound_does():
    late = np.concatenate([np.zeros(4000), tone(300, 0.6)]).astype(np.float32)
    clip = speech.speech_of(late)
    assert len(clip) == speech.WINDOW + 31 * speech.HOP
    assert np.abs(clip[:100]).max() > 0.1 and (clip[4900:] == 0).all()
    assert speech.speech_of(late * 0.01) is None and speech.speech_of(late[:4500]) is None


def test_what_is_missing_is_named_with_its_package(tmp_path, folder):
    with pytest.raises(DataNotFound, match="no folder for en, es.*apt-get install asterisk-core-sounds-en-wav ast"):
        speech.languages({"directory": str(tmp_path / "nowhere")})
    write(tmp_path / "stereo.wav", np.zeros(10), rate=16000)
    with pytest.raises(ValueError, match=r"8000 Hz, got \(2, 1, 16000\)"):
        speech.read(tmp_path / "stereo.wav")


def test_a_prompt_is_in_one_split_in_all_languages(tmp_path):
    for number, code in enumerate(speech.LANGUAGES):
        for i in range(30):
            write(tmp_path / f"{code}_XX_f_Voice" / f"{i}.wav", tone(200 + 400 * number + 4 * i, 0.6))
    splits = speech.prompts({"directory": str(tmp_path), "split_seed": 1})
    assert sum(map(len, splits)) == 150 and splits.train.image_shape == (8448, 1, 1)
    for source in splits:
        np.testing.assert_array_equal(np.bincount(source.labels, minlength=5), [len(source) // 5] * 5)
        assert source.num_classes == 5
    other = speech.prompts({"directory": str(tmp_path), "split_seed": 3})
    assert [*map(len, other)] != [*map(len, splits)] or (other.test.images != splits.test.images).any()
