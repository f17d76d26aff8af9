"""Policies: environments that there are not, batches and teachers that do not fit."""

import sys

import jax
import numpy as np
import pytest
from mistakes import Mistake, check, each
from scheme_checks import config_module

import kd_jax
from kd_jax.models.policies import policy

TEACHER = policy(2, (4,), value=True)


def run(folder, teacher_variables=None, **changes):
    config = config_module("policy").get_config("tiny")
    config.data.name = "corridor:load"
    config.baseline = config.report = False
    for path, value in changes.items():
        config.update_from_flattened_dict({path.replace("__", "."): value})
    teacher = None if teacher_variables is None else TEACHER
    return kd_jax.run(config, folder, teacher=teacher, teacher_variables=teacher_variables)


def without_gymnax(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "gymnax", None)
        return run(folder, data__name="gymnax:Acrobot-v1")


def unknown(folder):
    pytest.importorskip("gymnax")  # the row stays on the page, the test is skipped
    return run(folder, data__name="gymnax:Acrobat-v1")


ROWS = [
    Mistake(
        "a task of policies on data that are no environment",
        "digits is no environment: data.name is 'gymnax:Acrobot-v1' or the like",
        lambda folder: run(folder, data__name="digits"),
    ),
    Mistake(
        "an actor that there is not",
        "actor='pupil' is none of teacher, student, mixed",
        lambda folder: run(folder, scheme__kwargs__actor="pupil"),
    ),
    Mistake(
        "a store of states that the steps do not fill evenly",
        "capacity=100 is not a multiple of 8 environments * 2 steps",
        lambda folder: run(folder, scheme__kwargs__capacity=100),
    ),
    Mistake(
        "two teachers in one environment",
        "teachers=('teacher', 'teacher'): corridor needs 1, one an environment",
        lambda folder: run(folder, scheme__kwargs__teachers=("teacher", "teacher")),
    ),
    Mistake(
        "a teacher that is not there",
        "schemes.experience.distill learns from ['tutor'], and there is no 'tutor'",
        lambda folder: run(folder, scheme__kwargs__teachers=("tutor",)),
    ),
    Mistake(
        "a batch that does not divide what PPO collects",
        "train.batch_size=24 does not divide 8 environments * 4 steps",
        lambda folder: run(folder, teacher__train__batch_size=24),
    ),
    Mistake(
        "a policy of more actions than there are",
        "its output has shape {'policy': (64, 3), 'value': (64,)}; on this data it is [batch, actions], (64, 2)",
        lambda folder: run(folder, teacher__model__kwargs__num_classes=3),
    ),
    Mistake(
        "a way to train a teacher that is loaded",
        "config.teacher.scheme is how a teacher is trained by this run, and teacher_variables is given",
        lambda folder: run(folder, teacher_variables=TEACHER.init(jax.random.key(0), np.zeros((1, 5)), train=False)),
    ),
    Mistake(
        "a cache of a teacher that acts",
        "This scheme copies parameters of the teacher",
        lambda folder: run(folder, teacher__cache__directory="auto"),
    ),
    Mistake(
        "environments that are not installed",
        "gymnax:Acrobot-v1: gymnax is not installed. pip install gymnax",
        without_gymnax,
    ),
    Mistake("an environment that there is not", "gymnax:Acrobat-v1: there is no such environment…Acrobot-v1", unknown),
]


@each(ROWS)
def test_policies(mistake, tmp_path, capsys):
    check(mistake, tmp_path, capsys)
