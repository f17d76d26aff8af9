"""The scores of a teacher whose cache holds less than it said are its own, or they are marked."""

import json
import shutil

import numpy as np
import pytest
from cached_run import configure, run, splits, trained

from kd_jax.data.arrays import from_arrays
from kd_jax.train.scores import SCORES

ROUGH = {"k": 1}, {"k": 2, "dtype": "float16"}, {"dtype": "uint8"}


def without_hint(config):
    del config.terms["hint"]
    return config


def teacher_of(results):
    return results["models"]["teacher"]


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """The scores of the teacher that is asked in every step."""
    return teacher_of(run(without_hint(configure()), tmp_path_factory.mktemp("own")))["last"]


@pytest.mark.parametrize("cache", ROUGH, ids=str)
def test_the_scores_are_the_teachers_own(asked, tmp_path, cache):
    results = run(without_hint(configure(str(tmp_path / "cache"), **cache)), tmp_path / "run")
    assert teacher_of(results)["last"] == asked  # not those of the distribution that the cache holds
    assert teacher_of(results)["answers"] == {"k": 0, "dtype": "float32", **cache}
    exact = run(without_hint(configure(str(tmp_path / "exact"))), tmp_path / "other")
    assert "answers" not in teacher_of(exact) and not (tmp_path / "exact" / SCORES).exists()


def test_they_are_kept_beside_the_answers_for_each_set_of_labels(asked, tmp_path, monkeypatch):
    config = without_hint(configure(str(tmp_path / "cache"), k=1))
    run(config, tmp_path / "a")
    before = (tmp_path / "cache" / SCORES).read_text()
    assert teacher_of(run(config, tmp_path / "b"))["last"] == asked
    assert (tmp_path / "cache" / SCORES).read_text() == before
    train, validation, test = splits()  # the same pictures, whose labels are others
    parts = {"train": train.in_memory(), "validation": validation.in_memory()}
    other = from_arrays(**parts, test=(test.images, (test.labels + 1) % 3), names=3)
    scores = teacher_of(run(config, tmp_path / "c", data=other))["last"]
    assert scores["validation"] == asked["validation"] and scores["test"]["nll"] != asked["test"]["nll"]
    assert len(json.loads((tmp_path / "cache" / SCORES).read_text())) == 2


def test_where_the_teacher_is_not_they_are_read_or_marked(tmp_path, capsys):
    options = dict(teacher_variables=None)
    config = without_hint(trained("auto"))
    config.teacher.cache.k = 1
    run(config, tmp_path / "a", **options)
    (folder,) = (tmp_path / "a" / "teacher" / "cache").iterdir()
    shutil.copytree(folder, tmp_path / "cache")
    config.teacher.cache.directory = str(tmp_path / "cache")
    read = teacher_of(run(config, tmp_path / "b", **options))["last"]
    assert "of" not in read
    (tmp_path / "cache" / SCORES).unlink()
    capsys.readouterr()
    marked = teacher_of(run(config, tmp_path / "c", **options))["last"]
    assert marked["of"] == "cached answers" and marked["test"]["accuracy"] == read["test"]["accuracy"]
    assert not np.isclose(marked["test"]["nll"], read["test"]["nll"])
    assert "on the validation split, of its cached answers: it is not on this machine" in capsys.readouterr().out


def test_the_cost_of_a_teacher_that_is_here_is_measured_with_the_others(tmp_path):
    config = without_hint(trained("auto"))
    config.update(dict(report=True, baseline=True, examples=2))
    models = run(config, tmp_path / "a", teacher_variables=None)["models"]
    for name in ("latency_ms", "latency_spread_ms", "flops", "parameters"):
        assert models["teacher"][name] is not None and models["baseline"][name] == models["student"][name]
    assert "latency_apart" not in models["teacher"]
    (folder,) = (tmp_path / "a" / "teacher" / "cache").iterdir()
    config.teacher.cache.directory = str(shutil.copytree(folder, tmp_path / "cache"))
    teacher = teacher_of(run(config, tmp_path / "b", teacher_variables=None))
    stored = json.loads((tmp_path / "cache" / "cost.json").read_text())
    assert teacher["latency_apart"] and teacher["latency_ms"] == stored["latency_ms"]
