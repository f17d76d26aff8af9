"""Words of a telephone menu: what is learned, what is tested, and a student that is asked about a recording."""

import wave

import numpy as np
import pytest

import kd_jax
from kd_jax.config import files
from kd_jax.data import commands
from kd_jax.data.source import DataNotFound

RATE, WORDS = 8000, list(commands.WORDS)


def tone(word, program="person", level=0.3):
    """A tenth of a second of silence, then a pitch that says which word it is, and an overtone that says who speaks."""
    pitch, t = 200 + 60 * WORDS.index(word), np.arange(4000) / RATE
    sound = np.sin(2 * np.pi * pitch * t) + (0.1 + 0.01 * len(program)) * np.sin(4 * np.pi * pitch * t)
    return np.concatenate([np.zeros(800), level * sound / 2]).astype(np.float32)


@pytest.fixture
def prompts(tmp_path, monkeypatch):
    """A folder of prompts, and programs that speak as `tone` does."""
    for word, name in commands.WORDS.items():
        path = tmp_path / "prompts" / "en_tones" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with wave.open(str(path), "wb") as file:
            file.setsampwidth(2), file.setnchannels(1), file.setframerate(RATE)
            file.writeframes((32767 * tone(word)).astype("<i2").tobytes())
    monkeypatch.setattr(commands, "spoken", lambda lines: [tone(line.text, line.voice, 0.9) for line in lines])
    return tmp_path / "prompts"


def test_synthetic_voices_are_learned_and_prompts_are_the_test(prompts):
    splits = commands.commands({"directory": str(prompts), "utterances": (120, 60)})
    assert (len(splits.train.labels), len(splits.validation.labels)) == (120, 60)
    assert splits.test.labels.tolist() == list(range(len(WORDS))) and splits.test.class_names == tuple(WORDS)
    assert splits.train.labels[:3].tolist() == [0, 1, 2] and splits.train.labels[len(WORDS)] == 0
    for source in (splits.train, splits.validation, splits.test):
        assert source.images.shape[1:] == (8448, 1, 1)
        np.testing.assert_allclose(np.abs(source.images).max((1, 2, 3)), commands.PEAK, rtol=1e-6)
        assert (np.abs(source.images[:, :40]).max((1, 2, 3)) > 0.02).all(), "sound begins at once"
    assert not set(commands.SPOKEN["train"]) & set(commands.SPOKEN["validation"])


def test_other_words_are_drawn_by_another_seed(prompts):
    def voices(seed):
        spoken = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(commands, "spoken", lambda lines: spoken.extend(lines) or [tone(x.text) for x in lines])
            commands.commands({"directory": str(prompts), "utterances": (58, 58), "split_seed": seed})
        return spoken

    assert voices(0) == voices(0) != voices(1)


def test_a_student_is_asked_about_a_recording(prompts, tmp_path):
    config = files.config_of(files.load(files.locate("speech.py")), "commands,tiny")
    config.data.directory, config.report, config.baseline = str(prompts), False, False
    results = kd_jax.run(config, tmp_path / "run")
    student = kd_jax.load(tmp_path / "run")
    answers = student.predict(commands.clips_of([tone(word) for word in WORDS]))
    right = np.mean(answers == np.arange(len(WORDS)))
    assert right == pytest.approx(results["models"]["student"]["best"]["test"]["accuracy"])
    assert list(student.classes) == WORDS


def test_what_is_missing_is_said(prompts, tmp_path):
    (prompts / "en_tones" / commands.WORDS["seven"]).unlink()
    with pytest.raises(DataNotFound, match="no folder en_[*] with the English prompts. On Debian: apt-get install"):
        commands.commands({"directory": str(prompts)})
    with pytest.raises(ValueError, match="recording 1 of 2 .from 0. is silent"):
        commands.clips_of([tone("one"), np.zeros(8000)])
