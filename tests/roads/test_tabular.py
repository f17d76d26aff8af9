"""From a table to a network that trees have taught: by the command, resumed, used. Rows are made up."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import people
import pytest

import kd_jax
from kd_jax import predict
from kd_jax.config import files
from kd_jax.data import public_tables, tables
from kd_jax.system.signals import Signals, Stopped

ROOT = Path(__file__).parents[2]


def tabular(words, path, steps=60):
    config = files.config_of(files.load(files.locate("tabular.py")), f"{words},tiny")
    config.data.directory, config.data.labels, config.data.eval_limit = str(path), 0, 0
    config.train.steps = config.eval_every = steps
    config.teacher.model.kwargs.trees = 30
    config.baseline = config.report = False
    return config


def scores(results, role):
    return results["models"][role]["last"]["test"]


def test_the_command_trains_a_soft_tree_that_is_used(tmp_path):
    path = people.adult(tmp_path / "adult.csv", n=500)
    line = [
        sys.executable,
        str(ROOT / "launch.py"),
        "--config=configs/tabular.py:adult,soft_tree,tiny",
        "--workdir=run",
    ]
    line += [f"--config.data.directory={path}", "--config.train.steps=60", "--config.data.eval_limit=0"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert scores(results, "teacher")["accuracy"] > 0.65 and "agreement" in scores(results, "student")
    x, y = public_tables.adult({**results["config"]["data"]}).test.in_memory()
    answers = np.asarray(kd_jax.load(tmp_path / "run").predict(x))
    assert np.mean(answers == y) == pytest.approx(scores(results, "student")["accuracy"])


@pytest.mark.parametrize("trees", ["boosting", "xgboost"])
def test_boosted_trees_teach_a_number(trees, tmp_path):
    if trees == "xgboost":
        pytest.importorskip("xgboost")
    path = people.diamonds(tmp_path / "diamonds.csv")
    words = "diamonds,xgboost" if trees == "xgboost" else "diamonds"
    results = kd_jax.run(tabular(words, path, 150), tmp_path / "run")
    assert scores(results, "teacher")["r2"] > 0.8 and scores(results, "student")["r2"] > 0.5
    x, y = public_tables.diamonds({**results["config"]["data"]}).test.in_memory()
    predicted = np.asarray(kd_jax.load(tmp_path / "run").predict(x))
    assert np.sqrt(np.mean((predicted - y) ** 2)) == pytest.approx(scores(results, "student")["rmse"], rel=1e-4)


def test_a_table_of_the_user_by_its_column(tmp_path):
    path = people.adult(tmp_path / "mine.csv")
    config = tabular("table", path)
    config.data.update({"target": "salary_>50K", "sensitive": ("sex_Male",), "left_out": ("salary_<=50K", "fnlwgt")})
    config.measure, config.measure_kwargs.groups.smallest = ("groups",), 1
    results = kd_jax.run(config, tmp_path / "run")
    assert set(results["models"]["student"]["measures"]["groups"]["sex_Male"]["groups"]) == {"0", "1"}
    assert scores(results, "teacher")["accuracy"] > 0.6


def test_a_student_of_a_table_is_asked_about_further_rows_of_a_file(tmp_path, capsys):
    """As the file has them: words and numbers, gaps, columns that the network does not read, in any order."""
    rng, n = np.random.default_rng(0), 400
    area, town = rng.uniform(30, 150, n).round(1), rng.choice(["Bonn", "Graz", "Bern"], n)
    dear = np.where(area + 60 * (town == "Bern") > 110, "dear", "cheap")
    cells = {"area": area.astype(str), "town": town, "number": np.arange(n), "class": dear}
    cells["area"][:20] = "?"
    path = people.write(tmp_path / "flats.csv", cells)
    config = tabular("table", path, 200)
    config.data.update({"target": "class", "left_out": ("number",)})
    kd_jax.run(config, tmp_path / "run")
    more = {"town": ["Bern", "Graz", "Bern", "Bonn"], "area": ["140", "31.5", "", "nowhere"], "extra": list("abcd")}
    new = people.write(tmp_path / "new.csv", {k: np.array(v[:3]) for k, v in more.items()})
    capsys.readouterr()
    predict.main([str(tmp_path / "run"), str(new)])
    rows = [line.split(",") for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[-1] for row in rows][:2] == ["dear", "cheap"]
    student = kd_jax.load(tmp_path / "run")
    x = tables.as_rows({"area": [140.0, 31.5], "town": ["Bern", "Graz"]}, student.info["columns"])
    assert [student.classes[i] for i in student.predict(x)] == ["dear", "cheap"]
    people.write(tmp_path / "new.csv", {k: np.array(v) for k, v in more.items()})
    with pytest.raises(SystemExit, match="'area' is one of numbers, and a row of it holds 'nowhere'"):
        predict.main([str(tmp_path / "run"), str(new)])


def test_asked_in_every_step_and_stopped_in_between_they_teach_the_same(tmp_path, monkeypatch):
    path = people.adult(tmp_path / "adult.csv")
    whole = kd_jax.run(tabular("adult,forest", path, 8), tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(Signals, "stop_at", lambda self, step: step == 4)
        with pytest.raises(Stopped):
            kd_jax.run(tabular("adult,forest", path, 8), tmp_path / "parts")
    parts = kd_jax.run(tabular("adult,forest", path, 8), tmp_path / "parts")
    assert scores(parts, "student") == scores(whole, "student")
    asked = tabular("adult,forest", path, 8)
    asked.teacher.cache.directory = ""
    student = scores(kd_jax.run(asked, tmp_path / "asked"), "student")
    assert student["nll"] == pytest.approx(scores(whole, "student")["nll"], rel=1e-5)
