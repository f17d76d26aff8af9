"""A folder of `transformers` teaches digits by command, and the student goes back into one."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from vision_checkpoints import folder_of, network  # noqa: E402

import kd_jax  # noqa: E402
from kd_jax.data.load import load as load_data  # noqa: E402
from kd_jax.models.vision.pretrained import load, of, preparation, save  # noqa: E402
from kd_jax.models.vision.vit import vit  # noqa: E402
from kd_jax.system.checkpoint import load_tree  # noqa: E402

ROOT, KEY = Path(__file__).parents[2], jax.random.key(0)
DIGITS = dict(image_size=8, patch_size=2, num_channels=1, num_labels=10)  # scikit-learn's 1,797 digits, 8 x 8, grey
STUDENT = dict(patch=2, width=16, depth=2, heads=2)
NAMES = [f"digit {i}" for i in range(10)]
QUICK = ("--noconfig.report", "--noconfig.baseline", "--config.examples=0")


def exported(run, module):
    """The parameters of a student, as a user reads them from a run."""
    images = np.zeros((1, 8, 8, 1), np.float32)
    params, _ = jax.eval_shape(kd_jax.LinenModel(module).init, KEY, images)
    return load_tree(str(run / "student/export/last/student"), {"params": params})["params"]


def digits():
    """Digits as a run prepares them [n, 8, 8, 1]."""
    splits = load_data({"name": "digits"})
    images, _ = splits.test.in_memory()
    return ((images[:64] / 255.0 - splits.train.mean) / splits.train.std).astype(np.float32)


def logits(module, params, images):
    model = kd_jax.LinenModel(module)
    return np.asarray(model.apply(params, {}, images, train=False, key=None)[0].logits)


def logits_there(folder, images):
    """What the class that config.json names answers, and the labels that it knows."""
    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    theirs = getattr(transformers, architecture).from_pretrained(folder).eval()
    with torch.no_grad():
        answered = theirs(torch.tensor(np.asarray(images, np.float32).transpose(0, 3, 1, 2).copy()))
    return answered.logits.numpy(), theirs.config.id2label


def test_by_command_from_a_folder_to_a_folder(tmp_path):
    teacher = folder_of(network("vit", **DIGITS), tmp_path / "teacher")
    line = [
        *(sys.executable, str(ROOT / "launch.py"), "--config=cifar_resnet.py:digits,tiny", "--workdir=run", *QUICK),
        "--config.teacher.model.name=models.vision.pretrained.of",
        f"--config.teacher.model.kwargs.path={teacher}",
        "--config.teacher.initial.name=models.vision.pretrained.load",
        f"--config.teacher.initial.kwargs.path={teacher}",
        "--config.teacher.train.steps=0",
        "--config.student.model.name=models.vision.vit.vit",
        f"--config.student.model.kwargs={STUDENT}",
    ]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    ran = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    module = vit(10, **STUDENT)
    params = exported(tmp_path / "run", module)
    prepared = dict(size=8, crop=1.0, mean=(0.3,), std=(0.4,))
    save(module, params, {}, tmp_path / "student", prepared, class_names=NAMES)
    there, labels = logits_there(tmp_path / "student", digits())
    np.testing.assert_allclose(there, logits(module, params, digits()), atol=1e-4)
    assert list(labels.values()) == NAMES
    assert preparation(str(tmp_path / "student")) == {**prepared, "class_names": tuple(NAMES)}


def small(arg, **fields):
    config = importlib.import_module("configs.attention").get_config(arg)
    config.train.steps, config.teacher.train.steps = 4, 0
    config.eval_every = config.log_every = 4
    config.report = config.baseline = False
    config.examples = 0
    with config.unlocked():
        config.teacher.model = dict(name="models.vision.pretrained.of", kwargs=dict(path=fields["teacher"]))
        config.teacher.initial = dict(name="models.vision.pretrained.load", kwargs=dict(path=fields["teacher"]))
    return config


def test_a_pretrained_teacher_teaches_the_distillation_token(tmp_path):
    teacher = folder_of(network("vit", **DIGITS), tmp_path / "teacher")
    config = small("distillation_token_hard,tiny", teacher=teacher)
    with config.unlocked():
        config.student.model.kwargs = dict(**STUDENT, distillation_token=True)
    kd_jax.run(config, tmp_path / "run")
    module = vit(10, **STUDENT, distillation_token=True)
    params = exported(tmp_path / "run", module)
    first, _ = kd_jax.LinenModel(module).init(KEY, digits()[:1])
    assert not np.array_equal(params["distillation_token"], first["distillation_token"])
    save(module, params, {}, tmp_path / "deit")
    assert json.loads((tmp_path / "deit" / "config.json").read_text())["model_type"] == "deit"
    there, _ = logits_there(tmp_path / "deit", digits())
    np.testing.assert_allclose(there, logits(module, params, digits()), atol=1e-4)


def test_a_student_that_begins_in_a_folder_returns_into_one(tmp_path):
    teacher = folder_of(network("swin", **DIGITS, window_size=2), tmp_path / "swin")
    student = folder_of(network("dinov2", image_size=8, patch_size=2, num_channels=1), tmp_path / "dinov2")
    config = small("response,tiny", teacher=teacher)
    with config.unlocked():
        config.student.model = dict(name="models.vision.pretrained.of", kwargs=dict(path=student))
        config.student.initial = dict(name="models.vision.pretrained.load", kwargs=dict(path=student))
    kd_jax.run(config, tmp_path / "run")
    module = of(student, num_classes=10)  # a new head on DINOv2, as transformers puts it there
    params, before = exported(tmp_path / "run", module), load(module, KEY, student)[0]
    kernels = [tree["block1"]["mlp1"]["kernel"] for tree in (params, before)]
    assert 0 < np.abs(kernels[0] - kernels[1]).max() < 0.2  # trained, from where the checkpoint was
    save(module, params, {}, tmp_path / "back")
    there, _ = logits_there(tmp_path / "back", digits())
    np.testing.assert_allclose(there, logits(module, params, digits()), atol=1e-4)
