"""What a user sets acts: words that switch dropout, labels and splits of arrays in memory."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mistakes import CLASSES, config, data, points, run

import kd_jax


@pytest.mark.parametrize("flag", ["inference", "deterministic", "is_train", "eval_mode"])
def test_flags_of_the_field_reach_the_dropout(flag, tmp_path):
    on = flag == "is_train"
    body = f"    def __call__(self, x, {flag}={not on}):\n        off = {'not ' * on}{flag}\n"
    body += "        return nn.Dense(CLASSES)(nn.Dropout(0.5, deterministic=off)(x))"
    names = {"nn": nn, "CLASSES": CLASSES}
    exec(f"class Net(nn.Module):\n    @nn.compact\n{body}", names)
    model, x = kd_jax.LinenModel(names["Net"]()), jnp.asarray(points(8)[0])
    params, stats = model.init(jax.random.key(0), x)
    outputs = [model.apply(params, stats, x, train=train, key=jax.random.key(1))[0].logits for train in (True, False)]
    assert not np.allclose(*outputs)


def test_labels_and_noise_act_on_given_arrays(tmp_path):
    made = config(data__labels=20, data__label_noise=0.5, data__limit=80)
    results = run(tmp_path, made)
    assert results["config"]["data"]["labels"] == 20 and results["config"]["teacher"]["data"]["labels"] == 0
    clean = run(tmp_path / "clean", config())
    assert clean["models"]["student"]["last"]["test"] != results["models"]["student"]["last"]["test"]


def test_validation_is_held_out_of_given_arrays(tmp_path):
    results = run(tmp_path, config(data__validation=0.25), data=data(validation=0.0))
    assert "validation" in results["models"]["student"]["last"]


def test_truth_values_are_two_classes():
    (x, y), (test_x, test_y) = points(), points(40, 1)
    splits = kd_jax.from_arrays(train=(x, y > 1), test=(test_x, test_y > 1))
    assert splits.train.num_classes == 2 and splits.train.labels.dtype == np.int32
    np.testing.assert_array_equal(splits.test.labels, test_y > 1)


def test_a_network_starts_from_the_folder_of_a_run_or_of_a_training(tmp_path):
    first = run(tmp_path)["models"]
    folder = tmp_path / "run"
    loaded = run(tmp_path / "loaded", config(teacher__checkpoint=str(folder / "teacher")))
    assert loaded["models"]["teacher"]["last"]["test"] == first["teacher"]["best"]["test"]
    assert loaded["config"]["teacher"]["checkpoint"] == str(folder / "teacher/export/best/student")
    started = run(
        tmp_path / "started", config(student__initial__name=str(folder), train__optimizer__learning_rate=1e-9)
    )
    assert started["models"]["student"]["last"]["test"]["nll"] == pytest.approx(first["student"]["best"]["test"]["nll"])
    with pytest.raises(ValueError, match="no exported model at .*checkpoints. Near it lie: .*export/best/student"):
        run(tmp_path / "none", config(teacher__checkpoint=str(folder / "teacher/checkpoints")))
