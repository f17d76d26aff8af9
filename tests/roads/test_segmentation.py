"""Segmentation as users do it: a folder by the command, arrays in five lines, a cache, an export, a sweep."""

import json
import os
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import numpy as np
import pytest
from mask_files import squares, write_pairs

import kd_jax
from kd_jax.data import mask_folder
from kd_jax.export.examples import Examples
from kd_jax.export.run import export
from kd_jax.sweep import run as sweep
from kd_jax.sweep.spec import parse

ROOT = Path(__file__).parents[2]


class Pixels(nn.Module):
    """A network of a user's: three convolutions, an answer at every pixel."""

    width: int

    @nn.compact
    def __call__(self, x):
        for i in range(2):
            x = nn.relu(nn.Conv(self.width, (3, 3), name=f"conv{i}")(x))
        return nn.Conv(3, (1, 1), name="head")(x)


def data():
    return kd_jax.from_arrays(train=squares(96), validation=squares(32, seed=1), test=squares(32, seed=2))


def config(steps=40, **changes):
    made = kd_jax.base()
    made.terms = kd_jax.compose("kd")
    made.prepare.name, made.prepare.kwargs = "data.moved_masks.moved", dict(flip=True, shift=2)
    made.mesh.axes.data, made.report, made.baseline = 1, False, False
    for train in (made.train, made.teacher.train):
        train.batch_size, train.steps = 16, steps
        train.optimizer.name, train.optimizer.learning_rate = "adam", 0.02
    made.update(changes)
    return made


def score(answers, labels):
    """Mean IoU of masks."""
    there = labels >= 0
    pairs = [((answers == c) & there, labels == c) for c in range(labels.max() + 1)]
    return np.mean([(a & b).sum() / (a | b).sum() for a, b in pairs])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arrays") / "run"
    return folder, kd_jax.run(config(), folder, student=Pixels(6), teacher=Pixels(16), data=data())


def test_arrays_with_masks_are_segmentation_without_a_word(finished):
    folder, results = finished
    assert results["headline"]["metric"] == "miou" and results["task"] == "segment"
    scores = {name: model["best"]["test"] for name, model in results["models"].items()}
    x, y = squares(32, seed=2)
    student = kd_jax.load(folder)
    predicted = student.predict(x)
    assert predicted.shape == y.shape and student.predict(x[0]).shape == y[0].shape
    assert score(predicted, y) == pytest.approx(scores["student"]["miou"], rel=1e-6)
    assert scores["student"]["miou"] > 0.6 and scores["student"]["agreement"] > 0.8
    assert student.classes == ["0", "1", "2"]


def test_cached_answers_to_moved_pictures_are_those_of_the_teacher(finished, tmp_path):
    folder, _ = finished
    runs = {}
    for directory in ("auto", ""):
        made = config(8)
        made.teacher.workdir, made.teacher.train.steps = str(tmp_path / "teacher"), 8
        made.teacher.cache.directory = directory
        results = kd_jax.run(made, tmp_path / f"run{directory}", student=Pixels(6), teacher=Pixels(16), data=data())
        runs[directory] = results["models"]["student"]["last"]["test"]
    assert runs["auto"]["nll"] == pytest.approx(runs[""]["nll"], rel=1e-4)
    assert runs["auto"]["miou"] == pytest.approx(runs[""]["miou"], rel=1e-3)


@pytest.mark.parametrize(
    ("format", "package"), [("stablehlo", ""), ("onnx", "jax2onnx"), ("litert", "litert_converter")]
)
def test_an_export_answers_what_the_student_answers(finished, tmp_path, format, package):
    if package:
        pytest.importorskip(package)
    raw, labels = squares(32, seed=2)
    written = tmp_path / format
    (entry,) = export(kd_jax.load(finished[0]), [format], written, Examples({"image": raw}, labels), measure=False)
    assert entry["parity"]["largest_difference"] < 1e-4 and entry["parity"]["share_equal"] > 0.999


def test_the_command_learns_from_a_folder_and_its_report_shows_masks(tmp_path):
    write_pairs(tmp_path / "mine", 24)
    line = [sys.executable, str(ROOT / "launch.py"), "--config=configs/segmentation.py:ifvd,folder,tiny"]
    line += ["--workdir=run", f"--config.data.directory={tmp_path / 'mine'}", "--config.terms.ifvd.kwargs.classes=3"]
    line += ["--config.data.channels=1", "--config.train.steps=20", "--config.teacher.train.steps=20"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["data"]["class_names"] == ["0", "1", "2"] and results["models"]["baseline"]
    x, y = mask_folder.from_folder(tmp_path / "mine", channels=1).test.in_memory()
    answers = kd_jax.load(tmp_path / "run").predict(x)
    assert score(answers, y) == pytest.approx(results["models"]["student"]["best"]["test"]["miou"], rel=1e-6)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Colours of the masks" in page and "IoU by class" in page and "of the test pixels" in page


def test_a_sweep_over_arrays_in_a_file_is_headed_by_the_overlap(tmp_path):
    arrays = {"train": squares(48), "validation": squares(16, seed=1), "test": squares(16, seed=2)}
    np.savez(
        tmp_path / "data.npz", **{f"{s}_{k}": a for s, pair in arrays.items() for k, a in zip("xy", pair, strict=True)}
    )
    made = config(8)
    made.data.name, made.data.directory = "arrays", str(tmp_path / "data.npz")
    for role, widths in (("student", (4, 4)), ("teacher", (8, 8))):
        made[role].model = dict(name="models.vision.unet.unet", kwargs=dict(widths=widths))
    results = sweep.run(made, parse("seed=0,1"), tmp_path / "sweep")
    assert results["headline"]["metric"] == "miou"
    measured = [run["validation"] for run in results["runs"]]
    assert len(measured) == 2 and measured[0] != measured[1] and 0 < min(measured) < 1
