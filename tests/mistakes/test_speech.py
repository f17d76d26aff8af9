"""Recordings and transcripts that do not fit, programs and packages that are missing."""

import importlib.util
import json
import wave

import numpy as np
import pytest
from mistakes import Mistake, check, each

import kd_jax
from kd_jax.config import files
from kd_jax.data import commands, spoken, spoken_tokens, transcripts
from kd_jax.models.speech import voice_activity
from kd_jax.tasks import transcribe

RATE = transcripts.RATE


def tone(seconds=1.0, level=0.5):
    return (level * np.sin(np.arange(1, int(seconds * RATE) + 1))).astype(np.float32)


def write(path, samples, rate=RATE, channels=1):
    with wave.open(str(path), "wb") as file:
        file.setsampwidth(2), file.setnchannels(channels), file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())


def listed(*lines, **written):
    """What reads a folder whose list has these lines; "a.wav" to "d.wav" are tones, `written` changes a.wav."""

    def do(folder):
        for name in "abcd":
            write(folder / f"{name}.wav", tone())
        if written:
            write(folder / "a.wav", written.pop("samples", tone()), **written)
        more = [f"{name}.wav\tone" for name in "bcd"]
        (folder / transcripts.LIST).write_text("\n".join([*lines, *more]))
        return transcripts.folder({"directory": str(folder), "test": 0.25})

    return do


def for_whisper(line, rate=16000, **fields):
    """What reads a folder of two recordings for Whisper, whose list has this line and another."""

    def do(folder):
        for name in "ab":
            write(folder / f"{name}.wav", tone(2.0)[:16000], rate)
        (folder / transcripts.LIST).write_text(f"{line}\nb.wav\tone")
        return spoken_tokens.folder({"directory": str(folder), "test": 0.5, **fields})

    return do


def without_programs(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(folder))
        patch.setenv("KD_JAX_DATA", str(folder))
        return spoken.sentences({"utterances": (4, 1, 1)})


def without_jiwer(folder):
    there = importlib.util.find_spec
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "jiwer" else there(name, *more))
        return run(folder)


def run(folder, labels=None, **changes):
    """The tiny config on tones; `changes` are paths of the config with "__" for "."."""
    text = np.full((24, 8), -1, np.int32)
    text[:, :3] = transcripts.encode("one")
    labels = text if labels is None else labels
    x = transcripts.waves_of([tone(0.5)] * 24, 6000)
    data = kd_jax.from_arrays(
        train=(x, labels), test=(x, labels), validation=(x, labels), names=transcripts.SYMBOLS, mean=(0.0,), std=(1.0,)
    )
    config = files.config_of(files.load(files.locate("speech.py")), "tiny")
    config.data.labels, config.report, config.baseline = 0, False, False
    for path, value in changes.items():
        config.update_from_flattened_dict({path.replace("__", "."): value})
    return kd_jax.run(config, folder / "run", data=data)


def other_model(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    config = files.config_of(files.load(files.locate("speech.py")), "whisper,tiny")
    config.teacher.path = str(folder)
    return kd_jax.run(config, folder / "run")


READING = [
    Mistake("an empty transcript", "a.wav: the transcript is empty; leave the recording out", listed("a.wav\t ")),
    Mistake(
        "a transcript of another recording",
        "a.wav: 'once upon a time there was a king' needs 33 frames of 40 ms, and the recording has 25",
        listed("a.wav\tonce upon a time there was a king"),
    ),
    Mistake(
        "digits in a transcript", "a.wav: '7' in 'room 7': symbols are a to z…write numbers", listed("a.wav\tRoom 7")
    ),
    Mistake(
        "recordings of another rate",
        "expected 16 bit, 1 channel, 8000 Hz, got 16 bit, 1 channels, 16000 Hz. sox",
        listed("a.wav\tone", rate=16000),
    ),
    Mistake("recordings in stereo", "got 16 bit, 2 channels, 8000 Hz", listed("a.wav\tone", channels=2)),
    Mistake("a silent recording", "a.wav: it is silent", listed("a.wav\tone", samples=np.zeros(8000))),
    Mistake("an empty recording", "a.wav: 'one' needs 3 frames", listed("a.wav\tone", samples=np.zeros(0))),
    Mistake("a recording that is not there", "line 1: there is no file …e.wav", listed("e.wav\tone")),
    Mistake("a list with blanks for tabs", "line 1: expected FILE.wav, text and maybe speaker", listed("a.wav one")),
    Mistake(
        "a folder without a list",
        "There is no …transcripts.tsv: lines of FILE.wav, text",
        lambda folder: transcripts.folder({"directory": str(folder)}),
    ),
    Mistake(
        "an empty transcript for Whisper",
        "a.wav: the transcript is empty; leave the recording out",
        for_whisper("a.wav\t"),
    ),
    Mistake(
        "recordings for Whisper at the rate of a telephone",
        "expected 16 bit, 1 channel, 16000 Hz, got 16 bit, 1 channels, 8000 Hz. sox IN.wav -b 16 -c 1 -r 16000",
        for_whisper("a.wav\tone", rate=8000),
    ),
    Mistake(
        "a recording for Whisper that is too long",
        "wav: 1.00 s are longer than 0.50 s",
        for_whisper("a.wav\tone", samples=8000),
    ),
    Mistake(
        "a text of more tokens than rows have",
        "wav: 'one' has 4 tokens, data.length is 3",
        for_whisper("a.wav\tone", length=3),
    ),
    Mistake(
        "fewer commands than there are words",
        "data.utterances is how many to train and validate with, each at least a word of 58, not (100, 20)",
        lambda folder: commands.commands({"utterances": (100, 20)}),
    ),
    Mistake(
        "no prompts to test commands with",
        "has no folder en_* with the English prompts. On Debian: apt-get install asterisk-core-sounds-en-wav",
        lambda folder: commands.commands({"directory": str(folder)}),
    ),
    Mistake("nobody to speak", "the program espeak-ng is not here…apt-get install espeak-ng flite", without_programs),
    Mistake(
        "a folder that holds no program",
        "there is no …usr/bin/espeak-ng: dpkg -x unpacks the packages of espeak-ng",
        lambda folder: spoken.spoken([spoken.Line("one", "espeak-ng", "en-us+m1", 99, 1)], str(folder)),
    ),
    Mistake(
        "no sentence to test with",
        "data.utterances is how many to train, validate and test with, not (4, 0, 1)",
        lambda folder: spoken.sentences({"utterances": (4, 0, 1)}),
    ),
    Mistake(
        "a recording to transcribe that is too long",
        "recording 0: 1.00 s are longer than 0.50 s",
        lambda folder: transcripts.waves_of([tone()], 4000),
    ),
    Mistake(
        "integers to transcribe",
        "a recording is a row of floats in -1..1, not int16 [8000]",
        lambda folder: transcripts.waves_of([(32767 * tone()).astype(np.int16)], 8000),
    ),
    Mistake(
        "integers as floats to transcribe",
        "samples lie in -1..1, and the largest is 16",
        lambda folder: transcripts.waves_of([32767 * tone()], 8000),
    ),
    Mistake(
        "no detector of speech",
        "silero: there is no file …none.onnx; pip install --no-deps silero-vad brings it",
        lambda folder: voice_activity._file(str(folder / "none.onnx")),  # noqa: SLF001
    ),
]
STARTS = [
    Mistake("a package to count errors that is missing", "which is not here: pip install jiwer", without_jiwer),
    Mistake("a folder that is no Whisper's", "the model type is 'bert', not 'whisper'", other_model),
]
RUNS = [
    Mistake(
        "frames at another rate than the network's",
        "are not those of the network…it takes one frame in 4, so config.prepare.kwargs.stride is 4",
        lambda folder: run(folder, prepare__kwargs={"stride": 2}),
    ),
    Mistake(
        "transcripts as classes",
        "the task takes transcripts, integers [recordings, length], -1 behind their ends",
        lambda folder: run(folder, np.zeros(24, np.int32)),
    ),
    Mistake(
        "more symbols than frames",
        "frames, and the transcript of recording 0 of arrays/train needs 60",
        lambda folder: run(folder, np.tile(np.arange(1, 21, dtype=np.int32), (24, 3))),
    ),
]


@each(READING)
def test_reading(mistake, tmp_path, capsys):
    check(mistake, tmp_path, capsys)


@each(STARTS)
def test_starts(mistake, tmp_path, capsys):
    check(mistake, tmp_path, capsys)


@each(RUNS)
def test_runs(mistake, tmp_path, capsys):
    pytest.importorskip("jiwer")
    check(mistake, tmp_path, capsys)


def test_a_task_without_data():
    pytest.importorskip("jiwer")
    with pytest.raises(ValueError, match="reads symbols from a source"):
        transcribe.task()
