"""What kd_jax.load answers to the raw test examples of a run scores as the run said, config by config."""

import numpy as np
import pytest
from scheme_checks import config_module

import kd_jax
from kd_jax.data.load import load

pytestmark = pytest.mark.slow  # about ten seconds a config
CLASSIFIERS = [
    *(
        ("architecture_search", "supernet"),
        ("architecture_search", "differentiable"),
        ("graph", "mlp"),
        ("graph", "gnn"),
    ),
    *(("self_distillation", "born_again"), ("online", "mutual"), ("online", "one"), ("cross_modal", "response")),
    *(("quantised", "w4a8"), ("multi_teacher", "probabilities"), ("dataset_distillation", "distribution")),
]


@pytest.mark.parametrize(("name", "variant"), CLASSIFIERS)
def test_what_is_loaded_scores_as_it_was_scored(name, variant, tmp_path):
    config = config_module(name).get_config(f"{variant},tiny")
    config.baseline, config.report = False, False
    results = kd_jax.run(config, tmp_path)
    student, test = kd_jax.load(tmp_path, which="last"), load(config.data).test
    batch = test.batch(len(test))
    raw = {entry: batch[entry] for entry in (student.info["preparation"]["entry"], *student.info["fields"])}
    hits = np.asarray(student.predict(raw)) == batch["label"]
    expected = results["models"]["student"]["last"]["test"]["accuracy"]
    assert hits[batch["label"] >= 0].mean() == pytest.approx(expected, abs=1e-6)
