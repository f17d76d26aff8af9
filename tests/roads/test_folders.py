"""From a folder of pictures to a student that is used: by the command, in Python, stopped and resumed, in a sweep."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from digits_on_disk import class_folders, shards
from mistakes import config

import kd_jax
from kd_jax.models.vision.cnn import cnn
from kd_jax.system.checkpoint import load_tree
from kd_jax.system.signals import Signals, Stopped

ROOT = Path(__file__).parents[2]
WIDTHS = dict(widths=(2, 4))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return class_folders(tmp_path_factory.mktemp("pictures"), {"train": 160, "test": 40}, size=10)


def classes_of(run: Path, data) -> np.ndarray:
    """What the student of a run says of the test pictures, loaded from its export."""
    model = kd_jax.LinenModel(cnn(num_classes=10, **WIDTHS))
    images = np.stack([data.test.example(i)["image"] for i in range(len(data.test))])
    prepared = ((images / 255 - data.train.mean) / data.train.std).astype(np.float32)
    params, stats = jax.eval_shape(model.init, jax.random.key(0), prepared)
    tree = load_tree(run / "student/export/last/student", {"params": params, **({"stats": stats} if stats else {})})
    outputs, _ = model.apply(tree["params"], tree.get("stats", {}), prepared, train=False, key=jax.random.key(0))
    return np.asarray(outputs.logits).argmax(-1)


def accuracy(results) -> float:
    return results["models"]["student"]["last"]["test"]["accuracy"]


def made(folder, **fields):
    """A run of a small student and teacher on the folder."""
    small = config(steps=6, **fields)
    small.data.update(dict(name="folder", directory=str(folder), channels=1, validation=0.2))
    for role in ("student", "teacher"):
        small[role].model = dict(name="models.vision.cnn.cnn", kwargs=WIDTHS)
    return small


def test_the_command(folder, tmp_path):
    line = [
        *(sys.executable, str(ROOT / "launch.py"), "--config=cifar_resnet.py:digits,tiny", "--workdir=run"),
        *("--config.data.name=folder", f"--config.data.directory={folder}", "--config.data.channels=1"),
        *("--config.data.labels=0", "--config.data.limit=0", "--config.data.eval_limit=0"),
        *(f"--config.{role}.model.name=models.vision.cnn.cnn" for role in ("student", "teacher")),
        *("--noconfig.report", "--noconfig.baseline"),
    ]
    ran = subprocess.run(line, cwd=tmp_path, env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["data"]["class_names"] == [f"digit{i}" for i in range(10)]
    assert (results["data"]["train"], results["data"]["test"]) == (140, 40)


@pytest.mark.parametrize("image_size", [0, 8], ids=["in memory", "streamed"])
def test_five_lines_of_python(folder, tmp_path, image_size):
    data = kd_jax.from_folder(folder, channels=1, validation=0.2, image_size=image_size)
    student, teacher = cnn(num_classes=10, **WIDTHS), cnn(num_classes=10, widths=(8, 8))
    results = kd_jax.run(config(steps=30), tmp_path / "run", student=student, teacher=teacher, data=data)
    assert np.mean(classes_of(tmp_path / "run", data) == data.test.labels) == pytest.approx(accuracy(results))


def test_stopped_and_resumed_with_streamed_pictures(folder, tmp_path, monkeypatch, capsys):
    small = made(folder, data__image_size=8, workers=2)
    kd_jax.run(small, tmp_path / "whole")
    monkeypatch.setattr(Signals, "stop_at", lambda self, calls: calls == 4 and not self.asked)
    with pytest.raises(Stopped):
        kd_jax.run(small, tmp_path / "stopped")
    with pytest.raises(Stopped):  # the teacher has ended, and the student stops
        kd_jax.run(small, tmp_path / "stopped")
    monkeypatch.undo()
    kd_jax.run(small, tmp_path / "stopped")
    assert "student: resumed at step 4 of 6" in capsys.readouterr().out
    for network in ("teacher", "student"):
        one, two = (tmp_path / name / network for name in ("whole", "stopped"))
        assert (one / "metrics.jsonl").read_bytes() == (two / "metrics.jsonl").read_bytes()
        done = [json.loads((path / "done.json").read_text()) for path in (one, two)]
        assert done[0]["last"] == done[1]["last"]


def test_other_pictures_in_the_folder_are_not_shown_as_old_results(folder, tmp_path):
    copy = class_folders(tmp_path / "copy", {"train": 60, "test": 20})
    small = made(copy, data__image_size=6)
    kd_jax.run(small, tmp_path / "run")
    path = sorted(copy.glob("train/*/*.png"))[17]
    other = sorted(copy.glob("train/*/*.png"))[40]
    path.write_bytes(other.read_bytes())
    with pytest.raises(ValueError, match="files"):
        kd_jax.run(small, tmp_path / "run")


def test_a_sweep(folder, tmp_path):
    from kd_jax.sweep import run as sweep
    from kd_jax.sweep.spec import parse

    results = sweep.run(made(folder), parse("seed=0,1"), tmp_path)
    assert len(results["runs"]) == 2 and (tmp_path / "sweep.json").exists()


def test_shards_to_a_student(tmp_path):
    small = made(shards(tmp_path / "tars", {"train": 80, "test": 20}))
    small.data.name = "webdataset"
    results = kd_jax.run(small, tmp_path / "run")
    data = kd_jax.data.load.load(small.data)
    assert np.mean(classes_of(tmp_path / "run", data) == data.test.labels) == pytest.approx(accuracy(results))
