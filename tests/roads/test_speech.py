"""From recordings of one's own to a network that transcribes them: by the command, loaded, asked."""

import csv
import json
import os
import subprocess
import sys
import wave
from pathlib import Path

import jax
import numpy as np
import pytest

import kd_jax
from kd_jax.config import files
from kd_jax.data import spoken, spoken_tokens, transcripts
from kd_jax.data.source import DataNotFound
from kd_jax.models.adapters import as_model
from kd_jax.models.safetensors_io import Tensors
from kd_jax.models.speech import whisper, whisper_decoding, whisper_folder
from kd_jax.predict import predict_files

ROOT = Path(__file__).parents[2]
SENTENCES = ("one two", "three", "call tom", "turn off", "seven", "nine four")


def write(path, samples, rate):
    with wave.open(str(path), "wb") as file:
        file.setsampwidth(2), file.setnchannels(1), file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    return recorded(tmp_path_factory.mktemp("recordings"))


def recorded(folder, rate=transcripts.RATE):
    """Writes a folder of 24 sentences by two programs, with its list."""
    voices = (("espeak-ng", "en-us+m1"), ("espeak-ng", "en-gb+f2"), ("flite", "kal"), ("flite", "slt"))
    lines = [spoken.Line(text, *voice, 150, 50) for voice in voices for text in SENTENCES]
    try:
        heard = spoken.spoken(lines, rate=rate)
    except DataNotFound as e:
        pytest.skip(str(e))
    for i, samples in enumerate(heard):
        write(folder / f"{i}.wav", samples, rate)
    rows = [f"{i}.wav\t{line.text}\t{line.voice}" for i, line in enumerate(lines)]
    (folder / transcripts.LIST).write_text("\n".join(rows))
    return folder


def command(folder, *words):
    line = [sys.executable, str(ROOT / "launch.py"), *words]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"}
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)


def test_recordings_of_one_s_own_are_transcribed(recordings, tmp_path):
    jiwer = pytest.importorskip("jiwer")
    ran = command(
        tmp_path,
        *("--config=configs/speech.py:sequence,tiny", "--workdir=run", "--noconfig.baseline", "--noconfig.report"),
        *("--config.data.name=data.transcripts.folder", f"--config.data.directory={recordings}"),
        *("--config.data.labels=0", "--config.data.test=0.25", "--config.data.validation=0.25"),
    )
    assert ran.returncode == 0, ran.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    student = kd_jax.load(tmp_path / "run")
    test = transcripts.folder({**results["config"]["data"]}).test
    answers = student.predict(test.images)
    spoken_texts = [transcripts.decode(row) for row in test.labels]
    measured = results["models"]["student"]["best"]["test"]
    assert jiwer.wer(spoken_texts, answers.tolist()) == pytest.approx(measured["wer"])
    assert jiwer.cer(spoken_texts, answers.tolist()) == pytest.approx(measured["cer"])
    assert isinstance(student.predict(test.images[0]).item(), str)
    assert student.info["task"]["predicts"] == "the text of a recording"
    assert predict_files(str(tmp_path / "run"), [str(recordings / "0.wav")], str(tmp_path / "said.csv")) == 1
    (row,) = csv.DictReader((tmp_path / "said.csv").open())
    longest = student.info["input"]["shape"][0]
    mine = transcripts.waves_of([transcripts.read_wave(recordings / "0.wav")], longest)
    assert row["prediction"] == student.predict(mine)[0]


def small(variant, **data):
    config = files.config_of(files.load(files.locate("speech.py")), f"{variant},tiny")
    config.baseline = config.report = False
    config.mesh.axes.data = 1  # of the eight devices: it compiles faster
    config.data.update(data)
    return config


def test_a_detector_that_silero_taught_says_where_somebody_speaks(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("silero_vad")
    config = small("vad", utterances=(48, 8, 16))
    config.train.steps = config.eval_every = 60
    try:
        results = kd_jax.run(config, tmp_path)
    except DataNotFound as e:
        pytest.skip(str(e))
    assert results["models"]["teacher"]["last"]["test"]["accuracy"] > 0.8
    measured = results["models"]["student"]["last"]["test"]["accuracy"]
    assert measured > 0.7
    from kd_jax.data import voice_activity

    test = voice_activity.clips({**results["config"]["data"]}).test
    student = kd_jax.load(tmp_path, which="last")
    assert np.mean(student.predict(test.images) == test.labels) == pytest.approx(measured)


def published(folder):
    """A folder as transformers writes it: a Whisper of random weights, and its tokens, single bytes."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    names = ("<|endoftext|>", *spoken_tokens.PROMPT)
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in names])
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    sizes = dict(width=8, encoder_depth=1, decoder_depth=3, heads=2, source_positions=90, target_positions=48)
    model = as_model(whisper.whisper(tokenizer.get_vocab_size(), **sizes))
    params, _ = model.init(jax.random.key(0), np.zeros((1, 800), np.float32), np.zeros((1, 2), np.int32))
    whisper_folder.save(folder, model, params)
    return folder


def test_a_published_whisper_teaches_its_first_and_last_layer(tmp_path):
    config = small("whisper")
    config.teacher.path = str(published(tmp_path / "whisper"))
    config.scheme.kwargs.word_errors = 1000.0
    try:
        kd_jax.run(config, tmp_path / "run")
    except DataNotFound as e:
        pytest.skip(str(e))
    student = kd_jax.load(tmp_path / "run")
    options = student.model.module.options
    assert (options.decoder_depth, options.width, options.source_positions) == (2, 8, 90)
    before = Tensors(tmp_path / "whisper")["model.encoder.layers.0.self_attn.k_proj.weight"]
    np.testing.assert_array_equal(student.params["encoder"]["layer0"]["attention"]["key"]["kernel"].T, before)
    tokens = spoken_tokens.of_folder(str(tmp_path / "whisper"))
    assert (
        len(tokens.prompt) == 4 and tokens.decode([*tokens.prompt, *tokens.encode("one two"), tokens.end]) == "one two"
    )
    rows = whisper_decoding.transcribe(
        student.model.module, student.params, np.ones((2, 800), np.float32), tokens.prompt, tokens.end, 5
    )
    assert rows.shape == (2, 5)


def test_a_student_of_whisper_writes_what_it_hears(tmp_path):
    try:
        results = kd_jax.run(small("whisper"), tmp_path)
    except DataNotFound as e:
        pytest.skip(str(e))
    errors = next(section for section in results["sections"] if section["title"] == "Errors")
    assert errors["columns"] == ["", "word error rate", "recordings right", "recordings"]
    student, teacher = kd_jax.load(tmp_path), kd_jax.load(tmp_path / "teacher")
    before, after = (network.params["encoder"]["conv1"]["kernel"] for network in (teacher, student))
    np.testing.assert_array_equal(before, after)  # the encoder is the teacher's, and stays
    assert {*student.params["decoder"]} & {"layer0", "layer1", "layer2"} == {"layer0", "layer1"}
    test = spoken_tokens.sentences({**results["config"]["data"]}).test
    tokens = spoken_tokens.characters()
    rows = whisper_decoding.transcribe(
        student.model.module, student.params, test.fields["source"], tokens.prompt, tokens.end, 12
    )
    assert rows.shape == (len(test), 12) and all(isinstance(tokens.decode(row), str) for row in rows)
    again = whisper_decoding.transcribe(
        student.model.module, student.params, test.fields["source"][:1], (1,), tokens.end, 12
    )
    np.testing.assert_array_equal(again[0], rows[0])


def test_whisper_is_distilled_on_recordings_of_one_s_own(tmp_path):
    """Texts as a list has them; test voices are in no training."""
    (tmp_path / "mine").mkdir()
    recorded(tmp_path / "mine", spoken_tokens.RATE)
    data = dict(name="kd_jax.data.spoken_tokens:folder", directory=str(tmp_path / "mine"), test=0.25, validation=0.25)
    config = small("whisper", **data)
    test = spoken_tokens.folder({**config.data}).test
    tokens = spoken_tokens.characters()
    assert sorted({tokens.decode(row) for row in test.images}) == sorted(SENTENCES) and len(test) == 6
    kd_jax.run(config, tmp_path / "run")
    student = kd_jax.load(tmp_path / "run")
    waves = transcripts.waves_of([transcripts.read_wave(tmp_path / "mine" / "0.wav", spoken_tokens.RATE)], 28800)
    rows = whisper_decoding.transcribe(
        student.model.module, student.params, waves[..., 0, 0], tokens.prompt, tokens.end, 8
    )
    assert rows.shape == (1, 8) and isinstance(tokens.decode(rows[0]), str)
