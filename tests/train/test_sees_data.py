"""Whether a student is trained on the data, which its report says."""

import pytest
from scheme_checks import config_module

from kd_jax.train.run import jobs_of
from kd_jax.train.scheme import sees_data


@pytest.mark.parametrize(
    ("config", "variant", "sees"),
    [
        ("dataset_distillation", "distribution", False),
        ("dataset_distillation", "soft", False),
        ("data_free", "dafl", False),
        ("attention", "", True),
        ("online", "", True),
        ("transfer_sets", "function_matching", True),
        ("self_distillation", "", True),
        ("architecture_search", "supernet", True),
        ("graph", "", True),
    ],
)
def test_who_is_trained_on_the_data(config, variant, sees, tmp_path):
    made = config_module(config).get_config(f"{variant},tiny" if variant else "tiny")
    jobs, _ = jobs_of(made, tmp_path)
    assert sees_data(jobs["student"].scheme) is sees
