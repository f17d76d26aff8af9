"""What a NaN is put down to: only what the terms and networks of the step read, and count."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mistakes import MLP, config, points, run

from kd_jax import from_arrays
from kd_jax.config.terms import kd_term
from kd_jax.system.log import NonFiniteLoss

FAR = 1e6


class BlindFarAway(nn.Module):
    """NaN for examples whose first feature is FAR."""

    @nn.compact
    def __call__(self, x):
        return jnp.where(x[:, :1] > 100, jnp.nan, nn.Dense(4, name="head")(jnp.clip(x, -9, 9)))


def trained(folder, where, learning_rate):
    (x, y), test = points(96), points(40, 1)
    x, y = x.copy(), y.copy()
    x[::3, 0], y[::3] = FAR, -1
    teacher = BlindFarAway().init(jax.random.key(0), jnp.ones((1, 6)))["params"], {}
    made = config({"kd": kd_term(1.0, 2.0, where=where)}, steps=3)
    made.train.optimizer.learning_rate = learning_rate
    made.train.labelled_share = 0.5
    data = from_arrays(train=(x, y), test=test, mean=(0.0,) * 6, std=(1.0,) * 6)
    return run(folder, made, student=MLP(), teacher=BlindFarAway(), teacher_variables=teacher, data=data)


def test_rows_that_a_mask_leaves_out_may_be_nan(tmp_path):
    trained(tmp_path, "batch.labelled", 0.01)
    done = json.loads((tmp_path / "run" / "student" / "done.json").read_text())
    assert np.isfinite(done["last"]["test"]["student"]["nll"])


@pytest.mark.parametrize(("where", "says"), [("", "The teacher.* in 8 of 16 examples"), ("batch.labelled", "learning")])
def test_only_answers_that_count_are_blamed(tmp_path, where, says):
    with pytest.raises(NonFiniteLoss, match=says):
        trained(tmp_path, where, 1e30)
