"""kd_jax from Python: a config and a folder, and networks and data that the package has never seen."""

from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import nbformat
import numpy as np
import pytest
from flax import nnx

import kd_jax
from kd_jax.config import base, compose, term, training

NOTEBOOK = Path(__file__).parents[2] / "colabs" / "quickstart.ipynb"


def own_network_and_arrays() -> str:
    """The cell of the notebook that the README shows too."""
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    return next(cell.source for cell in cells if cell.cell_type == "code" and "from_arrays(" in cell.source)


class Net(nn.Module):
    width: int = 4

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.relu(
            nn.BatchNorm(use_running_average=not train, name="norm")(nn.Dense(self.width)(x.reshape(len(x), -1)))
        )
        return nn.Dense(10)(x)


class NNXNet(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(64, 16, rngs=rngs)
        self.norm = nnx.BatchNorm(16, rngs=rngs)
        self.drop = nnx.Dropout(0.1, rngs=rngs)
        self.head = nnx.Linear(16, 10, rngs=rngs)

    def __call__(self, x):
        return self.head(self.drop(nnx.relu(self.norm(self.hidden(x.reshape(len(x), -1))))))


def digits(method: str = "kd", steps: int = 60):
    config = base()
    config.data.validation = 0.125
    config.train = training(batch_size=64, steps=steps, optimizer=dict(learning_rate=0.1))
    config.teacher.train = training(batch_size=64, steps=steps, optimizer=dict(learning_rate=0.1))
    config.terms = compose(method)
    config.log_every, config.eval_every = 20, steps
    config.report, config.examples, config.baseline = False, 0, False
    config.mesh.axes.data = 1
    return config


def test_own_network_and_arrays_take_less_than_25_lines(tmp_path, monkeypatch):
    source = own_network_and_arrays()
    assert len([line for line in source.splitlines() if line.strip()]) < 25
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(source.replace("steps = 300", "steps = 30"), "cell", "exec"), names)
    models = names["results"]["models"]
    assert [models[role]["name"] for role in ("teacher", "baseline", "student")] == ["MLP"] * 3
    assert names["results"]["config"]["data"]["name"] == "arrays" and (tmp_path / "runs/mine/report.html").exists()
    (shown,) = [section for section in names["results"]["sections"] if section["kind"] == "examples"]
    assert all(example["image"] is None for example in shown["examples"])  # features are no picture


def test_nnx_teacher_teaches_a_linen_student(tmp_path):
    config = digits("kd+feature")
    paths = dict(inputs=("student.features:norm",), targets=("teacher.features:norm",))
    config.terms.hint.update(dict(weight=1.0, **paths))
    networks = dict(teacher=kd_jax.NNXModel(lambda rngs: NNXNet(rngs)), student=Net(8))
    results = kd_jax.run(config, tmp_path, **networks)
    models = results["models"]
    assert (models["teacher"]["name"], models["student"]["name"]) == ("NNXNet", "Net")
    assert models["teacher"]["last"]["test"]["accuracy"] > 0.8 and models["student"]["last"]["test"]["accuracy"] > 0.7
    assert kd_jax.run(config, tmp_path, **networks) == results
    with pytest.raises(ValueError, match="(?s)student.model.kwargs.network.*width = 8.*width = 12"):
        kd_jax.run(config, tmp_path, teacher=networks["teacher"], student=Net(12))


def test_plain_functions_learn_from_a_teacher_that_was_trained_elsewhere(tmp_path):
    teacher = kd_jax.LinenModel(Net(32))
    params, stats = teacher.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))

    def linear(params, x):
        return x.reshape(len(x), -1) @ params["w"] + params["b"]

    student = kd_jax.FunctionModel(lambda key, x: {"w": jnp.zeros((x[0].size, 10)), "b": jnp.zeros((1, 10))}, linear)
    config = digits()
    inputs = dict(teacher=teacher, student=student, teacher_variables=(params, stats))
    config.teacher.min_accuracy = 0.5
    with pytest.raises(ValueError, match="min_accuracy asks for 50.00%"):
        kd_jax.run(config, tmp_path, **inputs)
    config.teacher.min_accuracy = 0.0
    results = kd_jax.run(config, tmp_path, **inputs)
    assert results["models"]["student"]["name"] == "linear" and set(results["models"]) == {"teacher", "student"}
    # An untrained teacher is imitated all the same: the student agrees with it more often than one in ten.
    assert results["models"]["student"]["last"]["test"]["agreement"] > 0.3


def test_own_loss_from_the_users_module(tmp_path, monkeypatch):
    (tmp_path / "their_losses.py").write_text(
        "import jax.numpy as jnp\n\n\ndef distance_loss(student, teacher, *, scale):\n"
        "    return scale * jnp.abs(student - teacher).mean(-1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(96, 5)).astype(np.float32), np.arange(96) % 10
    splits = kd_jax.from_arrays(train=(x, y), test=(x, y))
    config = digits(steps=4)
    config.terms = {
        "distance": term("their_losses:distance_loss", ("student.logits",), ("teacher.logits",), kwargs={"scale": 2.0})
    }
    results = kd_jax.run(config, tmp_path / "run", data=splits, student=Net(), teacher=Net(8))
    assert results["models"]["student"]["steps"] == 4
    config.terms.distance.kwargs = {"scal": 2.0}
    with pytest.raises(ValueError, match="'their_losses:distance_loss' takes no argument 'scal'.*'scale'"):
        kd_jax.run(config, tmp_path / "other", data=splits, student=Net(), teacher=Net(8))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Net, r"call it, as in Net\(...\)"),
        (lambda x: x, "FunctionModel"),
        (3, "expected a Linen or NNX module"),
    ],
)
def test_what_is_no_network_says_how_to_wrap_it(network, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        kd_jax.run(digits(), tmp_path, student=network)
