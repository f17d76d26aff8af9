"""Recordings with transcripts: a folder of one's own, and sentences that programs speak (made up here)."""

import wave

import numpy as np
import pytest

from kd_jax.data import spoken, spoken_tokens, transcripts
from kd_jax.data.load import load
from kd_jax.data.source import DataNotFound


def write(path, seconds=1.0, rate=transcripts.RATE, level=0.5):
    samples = level * np.sin(2 * np.pi * 300 * np.arange(int(seconds * rate)) / rate + 0.1)
    with wave.open(str(path), "wb") as file:
        file.setsampwidth(2), file.setnchannels(1), file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())


def folder(path, rows):
    for name, *_ in rows:
        write(path / name)
    (path / transcripts.LIST).write_text("\n".join("\t".join(row) for row in rows) + "\n")
    return str(path)


def test_symbols_and_back():
    symbols = transcripts.encode("  It's  Two ")
    assert transcripts.decode(symbols) == "it's two" and transcripts.decode([0, 1, -1, 2]) == " a"
    assert symbols.min() >= 1 and symbols.max() < len(transcripts.SYMBOLS)
    assert transcripts.needed(transcripts.encode("three")) == 6  # a blank stands between the two e


def test_speakers_are_in_one_split(tmp_path):
    rows = [(f"{i}.wav", "one two", f"speaker{i % 5}") for i in range(10)]
    config = {"name": "kd_jax.data.transcripts:folder", "directory": folder(tmp_path, rows), "validation": 0.2}
    splits = load(config)
    assert [*map(len, splits)] == [6, 2, 2] and splits.train.image_shape == (8000, 1, 1)
    assert splits.train.class_names == transcripts.SYMBOLS and splits.train.noun == "example"
    np.testing.assert_array_equal(splits.test.labels[0], transcripts.encode("one two"))
    plain = folder(tmp_path, [row[:2] for row in rows])
    assert [*map(len, load({**config, "directory": plain, "validation": 0.1}))] == [7, 1, 2]


def test_recordings_are_followed_by_nothing():
    waves = transcripts.waves_of([np.full(10, 0.5, np.float32), np.full(4, -1.0)], 12)
    assert waves.shape == (2, 12, 1, 1) and waves.dtype == np.float32
    assert (waves[0, 10:] == 0).all() and (waves[1, :4] == -1).all() and (waves[1, 4:] == 0).all()


@pytest.fixture
def tones(monkeypatch, tmp_path):
    """Programs that speak a tone as long as the text; returns how often they did."""
    asked = []

    def speak(line, path, environment, rate=transcripts.RATE):
        asked.append(line)
        count = int(rate * 0.09 * len(line.text))
        return (8000 * np.sin(np.arange(1, count + 1))).astype(np.int16)

    monkeypatch.setattr(spoken, "speak", speak)
    monkeypatch.setattr(spoken, "_program", lambda name, directory: (name, {}))
    monkeypatch.setenv("KD_JAX_DATA", str(tmp_path))
    return asked


def test_voices_and_sentences_are_in_one_split(tones):
    splits = spoken.sentences({"utterances": (40, 10, 20), "samples": 20000})
    assert [*map(len, splits)] == [40, 10, 20]
    texts = [{transcripts.decode(row) for row in source.labels} for source in splits]
    assert not texts[0] & texts[1] and not texts[0] & texts[2] and not texts[1] & texts[2]
    assert all(spoken.share_of(text) == "test" for text in texts[2])
    names = [set(source.levels["voice"]) for source in splits]
    assert not names[0] & names[1] and not names[0] & names[2] and not names[1] & names[2]
    count = len(tones)
    again = spoken.sentences({"utterances": (40, 10, 20), "samples": 20000})
    assert len(tones) == count, "what was spoken lies on the disk"
    np.testing.assert_array_equal(again.test.images, splits.test.images)
    other = spoken.sentences({"utterances": (40, 10, 20), "samples": 20000, "split_seed": 1})
    assert (other.test.labels != splits.test.labels).any()


def test_sentences_that_are_too_long_are_left_out(tones):
    short = spoken.sentences({"utterances": (20, 4, 4), "samples": 8000})
    assert max((row >= 0).sum() for row in short.train.labels) <= 8000 / (0.09 * transcripts.RATE) + 1
    with pytest.raises(ValueError, match="No sentence fits data.samples=100 at 8000 Hz"):
        spoken.sentences({"utterances": (20, 4, 4), "samples": 100})


def test_sentences_as_tokens(tones):
    train, _, test = spoken_tokens.sentences({"utterances": (8, 2, 2), "samples": 50000})
    assert train.per_token and train.fields["source"].shape == (8, 50000) and len(test) == 2
    for row, label in zip(train.images, train.labels, strict=True):
        text = train.decode(label[label >= 0])
        assert text and text == train.decode(row) and label[len(text)] == train.end
        np.testing.assert_array_equal(row[1 : 1 + len(text)], label[: len(text)])
    with pytest.raises(ValueError, match="tokens, data.length is 4"):
        spoken_tokens.sentences({"utterances": (8, 2, 2), "samples": 50000, "length": 4})


def test_programs_speak():
    lines = [spoken.Line("seven", *spoken.VOICES["train"][0], 150, 50), spoken.Line("seven", "flite", "kal", 150, 50)]
    try:
        ours, theirs = (spoken.speak(line, *spoken._program(line.program, "")) for line in lines)  # noqa: SLF001
    except DataNotFound as e:
        pytest.skip(str(e))
    for recording in (ours, theirs):
        assert recording.dtype == np.int16 and 0.25 < len(recording) / transcripts.RATE < 0.9
        assert np.abs(recording.astype(int)).max() == 16384
    with pytest.raises(ValueError, match="espeak-ng did not speak 'one' by the voice nobody"):
        spoken.speak(spoken.Line("one", "espeak-ng", "nobody", 150, 50), *spoken._program("espeak-ng", ""))  # noqa: SLF001
