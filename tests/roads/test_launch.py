"""The command line, and every mistake that must be told, clearly, before anything is trained."""

import json
import os
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

import kd_jax
from kd_jax.config import base, compose, training
from kd_jax.data.load import load
from kd_jax.data.source import DataNotFound
from kd_jax.system.checkpoint import load_tree, save_tree
from kd_jax.train.finish import exported
from kd_jax.train.jobs import make_model

ROOT = Path(__file__).parents[2]
NETS = ("--config.student.model.name=models.vision.cnn.cnn", "--config.teacher.model.name=models.vision.cnn.cnn")


def launch(*arguments: str, config: str = "digits,tiny", **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "launch.py", f"--config=configs/cifar_resnet.py:{config}", *arguments]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", **environment}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def test_a_run_and_the_same_command_again(tmp_path):
    run = ("--workdir", str(tmp_path / "run"), *NETS)
    first = launch(*run)
    assert first.returncode == 0, first.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert set(results["models"]) == {"teacher", "baseline", "student"} and "launch.py" in results["command"]
    assert (tmp_path / "run" / "report.html").exists() and "accuracy" in first.stdout
    again = launch(*run)
    assert again.returncode == 0, again.stderr
    read, *shown = again.stdout.splitlines()
    assert re.fullmatch(r"Read from .*run, finished 20.*; nothing was trained\.", read)
    assert shown == first.stdout.splitlines()[-len(shown) :]
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == results
    other = launch(*run, "--config.terms.kd.kwargs.temperature=2", "--config.seed=7")
    assert other.returncode not in (0, None) and "Traceback" not in other.stderr
    for line in ("seed: 0 -> 7", "terms.kd.kwargs.temperature: 4.0 -> 2.0", "another --workdir"):
        assert line in other.stderr
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == results


def test_missing_data_on_the_command_line(tmp_path):
    start = time.monotonic()
    ended = launch("--workdir", str(tmp_path / "run"), config="cifar10", HOME=str(tmp_path), KD_JAX_DATA=str(tmp_path))
    assert time.monotonic() - start < 30
    assert ended.returncode not in (0, None) and "Traceback" not in ended.stderr
    for text in (str(tmp_path), "tensorflow_datasets", "tfds build cifar10", "cifar-10-binary.tar.gz", ":digits"):
        assert text in ended.stderr, ended.stderr
    assert not (tmp_path / "run").exists()


def test_a_wrong_field_on_the_command_line():
    ended = launch("--config.trian.steps=3")
    assert ended.returncode not in (0, None) and "Traceback" not in ended.stderr
    assert "config has no field 'trian'. Did you mean 'train'" in ended.stderr


def digits():
    """Two very small networks on digits; two steps."""
    config = base()
    for role, widths in (("student", (4,)), ("teacher", (4, 8))):
        config[role].model = dict(name="models.vision.cnn.cnn", kwargs=dict(widths=widths))
    config.data.update(dict(validation=0.125, labels=100))
    config.train = training(batch_size=16, steps=2, augment=("flip",))
    config.teacher.train = training(batch_size=16, steps=2)
    config.terms = compose("kd+feature", feature={"tap": "stage1"})
    config.eval_batch_size = 64
    config.report, config.examples = False, 0
    return config


MISTAKES = {
    "'losses.response.kd_los'.*'kd_loss'": {"terms.kd.fn": "losses.response.kd_los"},
    "no module 'kd_jax.losses.respons'.*'response'": {"terms.kd.fn": "losses.respons.kd_loss"},
    "takes no argument 'temprature'.*'temperature'": {"terms.kd.kwargs": {"temprature": 2.0}},
    "no tap 'stage9'.*'stage1'": {"terms.hint.inputs": ("student.features:stage9",)},
    "no 'techer' in this step.*'teacher'": {"terms.kd.targets": ("techer.logits",)},
    "optimizer.name 'sgdd'.*'sgd'": {"train.optimizer.name": "sgdd"},
    "'optax.sgd' takes no argument 'momentun'.*'momentum'": {"teacher.train.optimizer.kwargs": {"momentun": 0.9}},
    "schedule 'cosin'.*'cosine'": {"train.optimizer.schedule": "cosin"},
    "no data set 'digts'.*'digits'": {"data.name": "digts"},
    "labels=5000 needs": {"data.labels": 5000},
    "'models.vision.cnn.cn'.*'cnn'": {"student.model.name": "models.vision.cnn.cn"},
    "takes no argument 'width'.*'widths'": {"student.model.kwargs": {"width": 3}},
    "student has 7 classes, digits has 10.*config.student.model.kwargs.num_classes": {
        "student.model.kwargs": {"num_classes": 7}
    },
    "teacher has 7 classes, digits has 10.*config.teacher.model.kwargs.num_classes": {
        "teacher.model.kwargs": {"num_classes": 7}
    },
    "student's batch_size = 20 is not divisible by the 8": {"train.batch_size": 20, "baseline": False},
    "eval_batch_size = 100 is not divisible by the 8": {"eval_batch_size": 100},
    "needs 16 devices, there are 8": {"mesh.axes.data": 16},
    "match no parameter of 'student'": {"mesh.student_rules": (("kernl", "fsdp"),)},
    "augmentation 'flop'.*'flip'": {"train.augment": ("flop",)},
    "'pad_crop' takes no argument 'paddin'.*'padding'": {"train.augment": ({"name": "pad_crop", "paddin": 1},)},
    "labelled_share=0.99": {"train.labelled_share": 0.99},
    "eval_every is 0": {"eval_every": 0},
    "either train.steps or train.epochs": {"train.steps": 0},
    "teacher.use": {"teacher.use": "bset"},
    "no module 'kd_jax.schemes.ofline'.*'offline'": {"scheme.name": "schemes.ofline.build"},
    "bfloat61": {"teacher.dtype": "bfloat61"},
    "no exported model at nowhere.*<workdir>": {"teacher.checkpoint": "nowhere"},
    "no exported model at no/where.*<workdir>": {"student.initial.name": "no/where"},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_is_told_before_anything_is_written(message, tmp_path):
    config = digits()
    for path, value in MISTAKES[message].items():
        *parents, field = path.split(".")
        at = config
        for parent in parents:
            at = at[parent]
        at[field] = value
    with pytest.raises(ValueError, match=f"(?s){message}"):
        kd_jax.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_missing_data(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KD_JAX_DATA", raising=False)
    config = digits()
    config.data.name = "cifar100"
    with pytest.raises(DataNotFound, match="cifar-100-binary.tar.gz"):
        kd_jax.run(config, tmp_path / "run")


def load_params(export):
    model = make_model(digits().teacher.model, load(digits().data).train)
    variables = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32))
    return load_tree(export, exported(*variables))["params"]


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """An export of the teacher of `digits`, and of a wider one."""
    folder = tmp_path_factory.mktemp("teachers")
    for name, widths in (("right", (4, 8)), ("foreign", (4, 12))):
        config = digits()
        config.teacher.model.kwargs.widths = widths
        model = make_model(config.teacher.model, load(config.data).train)
        save_tree(folder / name, exported(*jax.jit(model.init)(jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32))))
    (folder / "empty").mkdir()
    (folder / "file").write_text("no checkpoint")
    return folder


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ("foreign", "does not hold this model.*stage2/conv/kernel has shape .*12.* in the file, .*8.* in the model"),
        ("empty", "There is no exported model at .*empty. Near it lie: .*foreign, .*right"),
        ("file", "There is no exported model at .*file. Near it lie: .*foreign, .*right"),
        ("right", "on the validation split, config.teacher.min_accuracy asks for 99.00%.*right checkpoint"),
    ],
)
def test_a_teacher_that_cannot_be_used_ends_the_run_before_training(untrained, checkpoint, message, tmp_path):
    config = digits()
    config.teacher.checkpoint, config.teacher.min_accuracy = str(untrained / checkpoint), 0.99
    with pytest.raises(ValueError, match=f"(?s){message}"):
        kd_jax.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_loaded_teacher_and_another_config_in_the_same_folder(untrained, tmp_path):
    config = digits()
    config.teacher.checkpoint = str(untrained / "right")
    results = kd_jax.run(config, tmp_path)
    assert set(results["models"]) == {"teacher", "baseline", "student"} and not (tmp_path / "teacher").exists()
    assert results["models"]["teacher"]["last"]["step"] is None
    config.terms.hint.weight = 1.0
    with pytest.raises(ValueError, match="(?s)Another config was run in .*student.*terms.hint.weight: 100.0 -> 1.0"):
        kd_jax.run(config, tmp_path)
    (tmp_path / "student" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="not the config of a run"):
        kd_jax.run(config, tmp_path)


@pytest.mark.parametrize("spelled", ["a path", "a function"])
def test_a_run_may_start_from_the_export_of_another(spelled, untrained, tmp_path):
    path = str(untrained / "right")
    function = {"name": "train.initial.checkpoint", "kwargs": {"path": path}}
    initial = {"name": path, "kwargs": {}} if spelled == "a path" else function
    config = digits()
    config.baseline = False
    config.student.model = config.teacher.model.copy_and_resolve_references()
    config.student.initial = config.teacher.initial = initial
    config.teacher.train.steps = 0  # teaches as it is loaded
    config.train.optimizer.update(dict(learning_rate=1e-30, weight_decay=0.0))
    results = kd_jax.run(config, tmp_path / "run")
    assert set(results["models"]) == {"teacher", "student"} and not (tmp_path / "run" / "teacher").exists()
    # With a rate of next to nothing the student keeps what it started from, but for what BatchNorm counts.
    start, end = (load_params(p) for p in (untrained / "right", tmp_path / "run/student/export/last/student"))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-20), start, end)
    config.student.model.kwargs.widths = (4,)
    with pytest.raises(ValueError, match="right does not hold this model.*stage2/conv/kernel is in the file only"):
        kd_jax.run(config, tmp_path / "other")
    assert not (tmp_path / "other").exists()
