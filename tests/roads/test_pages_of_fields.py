"""The code of the pages on detection and policies, run as it stands there (in fewer steps)."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import kd_jax

ROOT = Path(__file__).parents[2]


def code_blocks(page):
    return re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / page).read_text(), flags=re.M | re.S)


def test_the_pictures_of_the_page_on_detection_are_learned(tmp_path, monkeypatch):
    pytest.importorskip("faster_coco_eval")
    (code,) = code_blocks("detection.md")
    monkeypatch.chdir(tmp_path)
    names = {}
    one = "config.report, config.baseline, config.mesh.axes.data = False, False, 1\nkd_jax.run("
    shorter = code.replace("steps=60", "steps=4").replace("kd_jax.run(", one)
    assert shorter.count("steps=4") == shorter.count(one) == 1
    exec(shorter, names)
    answer = kd_jax.load("runs/squares").predict(names["images"][60:])
    assert answer["boxes"].shape == (20, 20, 4) and {*answer} == {"boxes", "scores", "classes"}


def test_the_environment_of_the_page_on_policies_is_played_by_the_command(tmp_path):
    asked, corridor = code_blocks("policies.md")
    assert "student.predict" in asked
    (tmp_path / "of_the_docs.py").write_text(corridor)
    line = [sys.executable, str(ROOT / "launch.py"), "--config=configs/policy.py:dagger,tiny", "--workdir=run"]
    line += ["--config.data.name=of_the_docs:corridor", "--config.train.steps=60", "--config.teacher.train.steps=80"]
    line += ["--config.teacher.scheme.kwargs.length=16", "--config.train.optimizer.learning_rate=0.03"]
    line += ["--config.teacher.train.optimizer.learning_rate=0.01", "--config.eval_every=40", "--noconfig.baseline"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"}
    lost = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert lost.returncode and "put PYTHONPATH=. before the command" in lost.stderr
    environment["PYTHONPATH"] = os.pathsep.join([".", *environment.get("PYTHONPATH", "").split(os.pathsep)])
    ran = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    student = kd_jax.load(tmp_path / "run")
    assert student.classes == ["left", "right"]
    np.testing.assert_array_equal(student.predict(np.eye(5, dtype=np.float32)[:4]), 1)  # to the right, as pays
