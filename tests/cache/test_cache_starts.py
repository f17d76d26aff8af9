"""Cached teachers that are loaded and not trained, students that start from them, examples without labels."""

import dataclasses

import numpy as np
import pytest
from cached_run import assert_equal, configure, run, splits, trained

from kd_jax.data.answers import CacheError


def test_a_pretrained_teacher_and_a_student_that_starts_from_it(tmp_path, capsys):
    options, runs = dict(teacher_variables=None), []
    for folder in ("", str(tmp_path / "cache")):
        config = configure(folder)
        config.teacher.train.steps = 0
        config.teacher.initial = dict(name="cached_run:pretrained", kwargs={})
        config.student.initial = dict(name="cached_run:halfway", kwargs={})
        directory = tmp_path / f"run{bool(folder)}"
        runs.append((directory, run(config, directory, **options)))
    assert_equal(*runs[1], runs[0])
    alike = configure(str(tmp_path / "cache"))
    alike.teacher.preparation = {"like": "data"}
    plain = run(alike, tmp_path / "plain")  # the same teacher, handed over: the cache is its own
    assert plain["models"]["student"]["last"]["test"] != runs[1][1]["models"]["student"]["last"]["test"]
    config.teacher.initial.kwargs.scale = 2.0
    with pytest.raises(CacheError, match="teacher.parameters: expected"):
        run(config, tmp_path / "other", **options)


def test_a_student_cannot_start_from_a_teacher_of_which_there_are_answers_alone(tmp_path):
    config = trained(str(tmp_path / "cache"))
    run(config, tmp_path / "built", until="cache", teacher_variables=None)
    config.student.initial = dict(name="cached_run:halfway", kwargs={})
    with pytest.raises(ValueError, match="starts from the teacher, which is not on this machine.*answers alone"):
        run(config, tmp_path / "elsewhere", teacher_variables=None)
    run(config, tmp_path / "built", teacher_variables=None)


def test_a_cached_teacher_of_examples_without_any_label(tmp_path):
    unlabelled, runs = splits(), []
    train = dataclasses.replace(unlabelled.train, labels=np.full(40, -1, np.int32))
    for folder in ("", str(tmp_path / "cache")):
        config = configure(folder)
        config.train.labelled_share = 0.0
        del config.terms["ce"]
        directory = tmp_path / f"run{bool(folder)}"
        runs.append((directory, run(config, directory, data=unlabelled._replace(train=train))))
    assert_equal(*runs[1], runs[0])
