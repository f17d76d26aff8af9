"""Recommender, activity, policy and distilled data set: from the config to a network that is used, on the real data."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import kd_jax
from kd_jax import predict
from kd_jax.config import files
from kd_jax.data import activity, ratings
from kd_jax.data.load import load

ROOT = Path(__file__).parents[2]


def needs(package, line):
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=line)


def tiny(name, words="", **fields):
    config = files.config_of(files.load(files.locate(f"{name}.py")), ",".join(filter(None, (words, "tiny"))))
    config.data.limit, config.data.eval_limit, config.mesh.axes.data = 0, 0, 1
    for path, value in fields.items():
        config.update_from_flattened_dict({path.replace("__", "."): value})
    return config


def scores(results):
    """Of the student that kd_jax.load takes: the best one by validation."""
    return results["models"]["student"]["best"]["test"]


def test_a_data_set_is_distilled_by_the_command_and_its_student_is_used(tmp_path, capsys):
    line = [sys.executable, str(ROOT / "launch.py"), "--config=configs/dataset_distillation.py:trajectory,tiny"]
    line += ["--workdir=run", "--config.train.steps=40", "--config.data.eval_limit=0"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert "Distilled images" in (tmp_path / "run" / "report.html").read_text()
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    x, y = load(results["config"]["data"]).test.in_memory()
    student = kd_jax.load(tmp_path / "run")
    assert np.mean(student.predict(x) == y) == pytest.approx(scores(results)["accuracy"])
    picture = tmp_path / "nine.png"
    Image.fromarray(x[9, :, :, 0]).resize((64, 64)).save(picture)
    predict.main([str(tmp_path / "run"), str(picture)])
    prediction = capsys.readouterr().out.splitlines()[1].split(",")[-2:]
    assert prediction[0] == prediction[1] and prediction[0] in student.classes


@needs("recbole", "pip install --no-deps recbole")
def test_films_are_recommended_to_users(tmp_path):
    results = kd_jax.run(tiny("recommender"), tmp_path / "run")
    titles = [section["title"] for section in results["sections"]]
    assert {"Top lists", "By gender", "By age"} <= {*titles}
    student, test = kd_jax.load(tmp_path / "run"), ratings.movielens({}).test
    _, labels = test.in_memory()
    ranked = np.where(labels >= 0, student.logits({"user": test.fields["user"]}), -np.inf)
    top = np.argsort(-ranked, axis=1, kind="stable")[:, :10]
    hits = np.take_along_axis(labels, top, 1) > 0
    assert hits.any(1).mean() == pytest.approx(scores(results)["hit_rate"], abs=2e-3)
    assert student.predict({"user": np.array([3])}).shape == (1, 10)
    assert len(student.classes) == 1682
    with pytest.raises(ValueError, match="Training saw user 0 to 942, and these lie between 943 and 943"):
        student.predict({"user": np.array([943])})


@needs("seglearn", "pip install --no-deps seglearn")
def test_exercises_of_people_that_training_never_saw(tmp_path):
    config = tiny("activity", "response,accelerometer", train__steps=30, data__labels=140)
    results = kd_jax.run(config, tmp_path / "run")
    x, y = activity.watch({}).test.in_memory()
    answers = kd_jax.load(tmp_path / "run").predict(x)
    assert np.mean(answers == y) == pytest.approx(scores(results)["accuracy"])
    counts = np.zeros((7, 7), int)
    np.add.at(counts, (y, answers), 1)
    np.testing.assert_array_equal(scores(results)["confusion"], counts)
    f1 = 2 * np.diag(counts) / (counts.sum(0) + counts.sum(1))  # of classes that are never said: 0
    assert scores(results)["macro_f1"] == pytest.approx(f1.mean())
    assert any("onfusion" in section["title"] for section in results["sections"])


@needs("gymnax", "pip install gymnax")
def test_a_policy_balances_a_pole(tmp_path):
    import gymnax
    import jax

    config = tiny("policy", "cartpole", train__steps=40, teacher__train__steps=40, eval_every=20)
    results = kd_jax.run(config, tmp_path / "run")
    assert {"An episode of the teacher", "An episode of the student"} <= {s["title"] for s in results["sections"]}
    assert "return" in (tmp_path / "run" / "report.html").read_text()
    student = kd_jax.load(tmp_path / "run")
    environment, parameters = gymnax.make("CartPole-v1")
    observation, state = environment.reset(jax.random.key(0), parameters)
    total, done = 0.0, False
    while not done:
        action = student.predict(np.asarray(observation, np.float32)[None])[0]
        observation, state, reward, done, _ = environment.step(jax.random.key(1), state, int(action), parameters)
        total += float(reward)
    assert 5 <= total <= 500
    assert scores(results)["return"] >= 5
