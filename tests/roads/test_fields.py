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


ENVIRONMENT = {**os.environ, "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"}


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
    ran = subprocess.run(line, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
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


@pytest.mark.parametrize("student", ["factorization", "history"])
def test_items_of_one_s_own_table_are_recommended_by_the_command(student, tmp_path):
    """Readers of two kinds of books: whoever took books of a kind is recommended the rest of it."""
    words = "listwise,table,history,tiny" if student == "history" else "listwise,table,tiny"
    rng, lines = np.random.default_rng(0), ["reader,book,day"]
    for reader in range(60):
        books = rng.permutation(12)[:8] + 12 * (reader % 2)
        lines += [f"r{reader:02d},book {book},{day}" for day, book in enumerate(books)]
    (tmp_path / "shop.csv").write_text("\n".join(lines))
    line = [sys.executable, str(ROOT / "launch.py"), f"--config=configs/recommender.py:{words}"]
    line += ["--config.data.directory=shop.csv", "--config.data.user=reader", "--config.data.item=book"]
    line += ["--workdir=run", "--config.data.time=day", "--config.train.steps=80", "--config.data.eval_limit=0"]
    line += ["--config.student.model.kwargs.users=60"] if student == "factorization" else []
    ran = subprocess.run(line, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    student = kd_jax.load(tmp_path / "run")
    assert len(student.classes) == 24 and student.classes[0] == "book 0"
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Top lists" in page and "user r00" in page and "By gender" not in page
    kinds = np.array([int(name.removeprefix("book ")) // 12 for name in student.classes])
    if words.count("history"):  # of readers that training never saw, who took three books
        taken = np.stack([kinds == kind for kind in (0, 1)]) & (np.arange(24) % 4 == 0)
        lists, of_kind = student.predict(taken.astype(np.float32)), np.arange(2)
    else:
        lists, of_kind = student.predict({"user": np.arange(60)}), np.arange(60) % 2
    assert np.mean(kinds[lists] == of_kind[:, None]) > 0.9


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


def walks(count, seed):
    """Windows [n, 80, 1, 2] of two sensors at 40 Hz: walking is slow and regular, running fast, rest is noise."""
    rng, time = np.random.default_rng(seed), np.arange(80) / 40
    labels = rng.integers(0, 3, count)
    hertz = np.array([0.0, 1.5, 3.5])[labels][:, None]
    wave = np.sin(2 * np.pi * (hertz * time + rng.random((count, 1)))) * (hertz > 0)
    x = np.stack([wave, 0.5 * wave], -1) + rng.normal(0, 0.3, (count, 80, 2))
    return x[:, :, None].astype(np.float32), labels


def test_recordings_of_one_s_own_sensors_are_told_apart_by_the_command(tmp_path):
    parts = {"train": walks(192, 0), "validation": walks(48, 1), "test": walks(96, 2)}
    arrays = {f"{split}_{k}": a for split, pair in parts.items() for k, a in zip("xy", pair, strict=True)}
    np.savez(tmp_path / "walks.npz", **arrays)
    line = [sys.executable, str(ROOT / "launch.py"), "--config=configs/activity.py:relation,tiny", "--workdir=run"]
    line += ["--config.data.name=arrays", "--config.data.directory=walks.npz", "--config.train.steps=60"]
    line += ["--config.teacher.train.steps=60", "--config.data.eval_limit=0"]
    ran = subprocess.run(line, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    student = kd_jax.load(tmp_path / "run")
    x, y = parts["test"]
    assert np.mean(student.predict(x) == y) > 0.8
    assert student.predict(x[0]) == student.predict(x[:1])[0] and student.info["input"]["shape"] == [80, 1, 2]
    assert "Confusion" in (tmp_path / "run" / "report.html").read_text()
    with pytest.raises(ValueError, match="Expected image .n, 80, 1, 2. float32, as in training; these have shape"):
        student.predict(x[:, :60])


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
