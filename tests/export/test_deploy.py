"""The whole way as a user goes it: a run, the command, the files, and the code of docs/deploy.md."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

import kd_jax
from configs.cifar_resnet import get_config
from kd_jax.export import litert
from kd_jax.export.__main__ import main
from kd_jax.files import digest

PAGE = Path(__file__).parents[2] / "docs" / "deploy.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder in which runs/deploy lies, a finished run on digits."""
    folder, config = tmp_path_factory.mktemp("deploy"), get_config("digits,tiny")
    config.teacher.model = config.student.model = dict(name="models.mlp.mlp", kwargs=dict(widths=(8,)))
    config.baseline = False
    kd_jax.run(config, folder / "runs" / "deploy")
    return folder


def test_the_command(folder, capsys):
    pytest.importorskip("litert_converter")
    run = folder / "runs" / "deploy"
    main([str(run), "--to=litert,safetensors"])
    printed, records = capsys.readouterr().out, json.loads((run / "student" / "exported" / "export.json").read_text())
    assert [r["format"] for r in records] == ["litert", "safetensors"] and "DEBUG" not in printed
    assert all(r["format"] in printed and f"{r['bytes']:,}" in printed for r in records)
    student = kd_jax.load(run)
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1)).astype(np.uint8)
    np.testing.assert_allclose(
        litert.read(run / "student/exported/model.tflite")(images)[0], student.logits(images), atol=1e-4
    )
    assert "The exported files" in (run / "report.html").read_text()
    main(
        [
            student_folder := str(next(run.glob("student/export/last/student"))),
            "--to=safetensors",
            f"--out={folder / 'x'}",
        ]
    )
    assert student_folder and (folder / "x" / "model.safetensors").is_file()


def test_a_failed_gate_ends_with_1_and_leaves_no_file(folder, monkeypatch):
    from kd_jax.export import stablehlo

    read = stablehlo.read
    monkeypatch.setattr(stablehlo, "read", lambda path: lambda *x: [y + 1 for y in read(path)(*x)])
    with pytest.raises(SystemExit, match="ParityFailed: stablehlo: on"):
        main([str(folder / "runs" / "deploy"), "--to=stablehlo", f"--out={folder / 'failed'}"])
    assert not (folder / "failed").exists() and not list(folder.glob(".failed*"))


def test_a_damaged_export_is_refused(folder, tmp_path):
    import shutil

    export = shutil.copytree(folder / "runs/deploy/student/export/last/student", tmp_path / "student")
    file = max((p for p in export.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    before = digest(file)
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    assert digest(file) != before
    with pytest.raises(SystemExit, match="is damaged"):
        main([str(export), "--to=stablehlo"])


def test_the_code_of_the_page_runs(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), flags=re.M | re.S)
    names: dict = {}
    exec(code, names)
    np.testing.assert_allclose(names["logits"], names["student"].logits(names["real"].raw["image"]), atol=1e-4)
    assert [record["format"] for record in names["records"]] == ["stablehlo", "safetensors"]


def test_a_decoder_writes_outside_what_it_writes_here(tmp_path):
    """Texts in, a trained decoder out: the files of all formats, and greedy.py without this package."""
    pytest.importorskip("jax2onnx")
    text = tmp_path / "texts.txt"
    text.write_text("\n\n".join(f"the {a} sees the {b}" for a in ("cat", "dog", "cow", "hen") for b in ("sun", "sea")))
    config = kd_jax.base()
    config.teacher.model.name, config.baseline, config.report = "", False, False
    config.terms = {"ce": {}}
    config.train.steps, config.train.batch_size = 60, 8
    config.train.optimizer.update(dict(name="adam", learning_rate=0.02))
    config.data.update(dict(name="text", directory=str(text), tokenizer="character", length=24, test=0.25))
    small = dict(name="models.language.decoder_families.llama", kwargs=dict(width=16, depth=1, heads=2, tied=True))
    config.student.model, config.student.inputs = small, ("batch.tokens", "batch.segments")
    kd_jax.run(config, tmp_path / "run")
    main([str(tmp_path / "run"), "--to=stablehlo,onnx,safetensors,huggingface", f"--out={tmp_path / 'out'}"])
    student = kd_jax.load(tmp_path / "run")
    written = student.write("the c", length=18)  # up to the end of the cache
    assert written.strip(), "an empty text proves nothing"
    hf = tmp_path / "out" / "hf"
    tokens, generation = (json.loads((hf / f"{name}_config.json").read_text()) for name in ("tokenizer", "generation"))
    assert tokens["eos_token"] == "<end>" and generation == dict(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    whole = Tokenizer.from_file(str(hf / "tokenizer.json"))
    assert whole.encode("the c").ids[0] == 1  # what begins a text is put there, as in the run
    alone = {**os.environ, "PYTHONPATH": ""}
    ran = subprocess.run(
        [sys.executable, str(tmp_path / "out" / "greedy.py"), "the c"], capture_output=True, text=True, env=alone
    )
    assert ran.stdout.removesuffix("\n") == "the c" + written, ran.stderr
