"""The whole way as a user goes it: a run, the command, the files, and the code of docs/deploy.md."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

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
