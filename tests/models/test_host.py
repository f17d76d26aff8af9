"""Teachers that run on the host: scikit-learn, PyTorch, functions; cached or asked in every step, on 1 device or 8."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mistakes import CLASSES, FEATURES, config, points, run

from kd_jax.models import host_model
from kd_jax.models.host import failing
from kd_jax.system.code import Code

W = np.random.default_rng(0).normal(size=(FEATURES, CLASSES)).astype(np.float32)


def answer(model, x, taps=()):
    return jax.jit(lambda x: model.apply({}, {}, x, train=False, key=jax.random.key(0), taps=taps)[0])(x)


def test_logits_features_and_probabilities():
    x = jnp.asarray(points(8)[0])
    model = host_model(lambda x: (x @ W, {"twice": 2 * x}))
    out = answer(model, x, ("twice",))
    np.testing.assert_allclose(out.logits, x @ W, rtol=1e-5)
    np.testing.assert_allclose(out.features["twice"], 2 * x, rtol=1e-6)
    certain = host_model(lambda x: np.eye(CLASSES)[np.zeros(len(x), int)], outputs="probabilities", floor=1e-3)
    np.testing.assert_allclose(answer(certain, x).logits[0], np.log([1, 1e-3, 1e-3, 1e-3]), rtol=1e-5)
    with pytest.raises(ValueError, match="no tap 'head'. The taps are: twice"):
        answer(model, x, ("head",))


def test_on_a_mesh_it_gets_the_whole_batch():
    sizes = []

    def fn(x):
        sizes.append(len(x))
        return x @ W

    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    places = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    x = points(16)[0]
    with jax.set_mesh(mesh):
        out = answer(host_model(fn), jax.device_put(x, places)).logits
    np.testing.assert_allclose(out, x @ W, rtol=1e-5, atol=1e-5)
    assert sizes == [2, 16]  # zeros, whose answers have the shapes, and the batch


LONG = """
import jax, numpy as np
from kd_jax.models import host_model

mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
x = np.random.default_rng(0).normal(size=(16, 40000)).astype(np.float32)
model = host_model(lambda x, y: (x[:, :3] + y, {"twice": 2 * x}))
with jax.set_mesh(mesh):
    place = lambda x: jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
    ask = jax.jit(lambda *x: model.apply({}, {}, *x, train=False, key=jax.random.key(0), taps=("twice",))[0])
    out = ask(place(x), place(x[:, 5:8]))
np.testing.assert_array_equal(out.logits, x[:, :3] + x[:, 5:8])
np.testing.assert_array_equal(out.features["twice"], 2 * x)
"""


def test_on_a_mesh_it_gets_a_batch_of_megabytes():
    # In a process of its own: what waits for threads that wait for it never ends.
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    ran = subprocess.run([sys.executable, "-c", LONG], env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr


def test_cached_and_asked_in_every_step_teach_the_same(tmp_path, capsys):
    losses = []
    for cached in (True, False):
        model = host_model(lambda x: x @ W, cached=cached)
        made = config(report=True, mesh__axes__data=8)
        results = run(tmp_path / str(cached), made, teacher=model)
        teacher = results["models"]["teacher"]
        assert teacher["flops"] is None and teacher["parameters"] is None and teacher["preparation"]["scale"] is None
        losses.append([results["models"][n]["last"]["test"]["nll"] for n in ("teacher", "student")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert "teacher: it runs on the host and is asked once" in capsys.readouterr().out


def test_a_forest_is_told_from_another(tmp_path):
    ensemble = pytest.importorskip("sklearn.ensemble")
    x, y = points()

    def forest(seed):
        return ensemble.RandomForestClassifier(5, random_state=seed).fit(x, y).predict_proba

    digests = [Code().value("teacher", host_model(forest(seed))) for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]
    run(tmp_path, teacher=host_model(forest(0), outputs="probabilities"))
    with pytest.raises(ValueError, match="the network that was given as teacher is another"):
        run(tmp_path, teacher=host_model(forest(1), outputs="probabilities"))


def test_a_module_of_pytorch(tmp_path):
    torch = pytest.importorskip("torch")

    def net(seed):
        torch.manual_seed(seed)
        module = torch.nn.Sequential(torch.nn.Linear(FEATURES, CLASSES)).eval()
        return host_model(lambda x: module(torch.from_numpy(x.copy())))

    digests = [Code().value("teacher", net(seed)) for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]
    results = run(tmp_path, teacher=net(0))
    assert results["models"]["student"]["last"]["test"]["kl"] > 0


def test_what_fails_later_is_one_line():
    def fn(x):
        if x.any():
            raise RuntimeError("no memory\nin a second line")
        return x @ W

    model = host_model(fn)
    with pytest.raises(ValueError, match="the function failed in training: RuntimeError: no memory in a second line$"):
        with failing([model]):
            assert np.isnan(answer(model, jnp.ones((3, FEATURES))).logits).all()
