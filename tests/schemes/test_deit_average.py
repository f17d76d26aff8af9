"""The average of the weights beside DeiT's student is scored with it."""

import jax
import numpy as np

from kd_jax.config import files
from kd_jax.train.run import run


def test_the_average_is_scored_and_moves(tmp_path):
    config = files.config_of(files.load(files.locate("attention.py")), "distillation_token_hard,tiny")
    config.scheme.kwargs.average, config.baseline, config.report = 0.9, False, False
    student = run(config, tmp_path)["models"]["student"]
    others = student["others"]
    assert [*others] == ["student.features:head", "student.features:head_distillation", "average"]
    scores = others["average"]["last"]["test"]
    assert scores["nll"] != student["last"]["test"]["nll"] and np.isfinite(scores["nll"])
    assert jax.tree.leaves(student["last"])
