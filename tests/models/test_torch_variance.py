"""BatchNorm's running averages beside PyTorch's."""

from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_config import get_config

import kd_jax
from kd_jax.models.adapters import LinenModel
from kd_jax.models.remat import Remat
from kd_jax.train.jobs import make_model
from kd_jax.train.run import jobs_of

KEY = jax.random.key(0)


class Net(nn.Module):
    """Two norms, one in a block of its own; the first of maps, the second of vectors."""

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name="first")(x).mean((1, 2))
        return nn.BatchNorm(momentum=0.7, epsilon=1e-5, name="second")(x, use_running_average=not train)


def three_batches():
    return np.random.default_rng(0).normal(1.0, 3.0, size=(3, 5, 4, 2, 6)).astype(np.float32)


def averages(model):
    params, stats = model.init(KEY, three_batches()[0])
    for batch in three_batches():
        out, stats = model.apply(params, stats, batch, train=True, key=KEY)
    return out.logits, stats["batch_stats"]


def test_running_averages_are_those_of_torch():
    torch = pytest.importorskip("torch")
    first, second = torch.nn.BatchNorm2d(6, momentum=0.1), torch.nn.BatchNorm1d(6, momentum=0.3)
    for batch in three_batches():
        reference = second(first(torch.tensor(batch.transpose(0, 3, 1, 2))).mean((2, 3)))
    logits, stats = averages(LinenModel(Net(), torch_variance=True))
    np.testing.assert_allclose(logits, reference.detach().numpy(), rtol=1e-4, atol=1e-5)
    for name, norm in (("first", first), ("second", second)):
        np.testing.assert_allclose(stats[name]["mean"], norm.running_mean.numpy(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(stats[name]["var"], norm.running_var.numpy(), rtol=1e-5)
    biased = averages(LinenModel(Net()))[1]
    assert np.all(stats["first"]["var"] > 1.01 * biased["first"]["var"])  # of 40 values a channel
    assert np.all(stats["second"]["var"] > 1.03 * biased["second"]["var"])  # of 5


def test_nothing_else_changes():
    """Outputs and gradients of training, and all of evaluation."""
    plain, unbiased = LinenModel(Net()), LinenModel(Net(), torch_variance=True)
    params, stats = plain.init(KEY, three_batches()[0])
    for train in (True, False):
        a, b = (m.apply(params, stats, three_batches()[1], train=train, key=KEY) for m in (plain, unbiased))
        np.testing.assert_array_equal(a[0].logits, b[0].logits)
        jax.tree.map(np.testing.assert_array_equal, *(x[1]["batch_stats"]["first"]["mean"] for x in (a, b)))
    jax.tree.map(np.testing.assert_array_equal, a[1], b[1])

    def loss(params, model):
        return (model.apply(params, stats, three_batches()[2], train=True, key=KEY)[0].logits ** 3).sum()

    jax.tree.map(np.testing.assert_array_equal, *(jax.grad(loss)(params, m) for m in (plain, unbiased)))


def test_rows_that_a_mask_leaves_out_do_not_count():
    class Masked(nn.Module):
        @nn.compact
        def __call__(self, x, train: bool):
            return nn.BatchNorm(use_running_average=not train, momentum=0.5)(x, mask=jnp.arange(6)[:, None] < 4)

    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    model = LinenModel(Masked(), torch_variance=True)
    params, stats = model.init(KEY, x)
    _, stats = model.apply(params, stats, x, train=True, key=KEY)
    np.testing.assert_allclose(stats["batch_stats"]["BatchNorm_0"]["var"], 0.5 + 0.5 * x[:4].var(0, ddof=1), rtol=1e-5)


def test_inside_of_gradient_checkpointing():
    expected = averages(LinenModel(Net(), torch_variance=True))[1]
    within = averages(Remat(LinenModel(Net(), torch_variance=True), "", "nothing_saveable"))[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), within, expected)


def test_a_config_asks_for_it_among_the_arguments_of_the_network(tmp_path):
    config = get_config()
    config.student.model = dict(
        name="models.vision.cifar_resnet.resnet8", kwargs=dict(widths=(4, 4, 4), stem_width=4, torch_variance=True)
    )
    jobs, _ = jobs_of(config, tmp_path)
    assert jobs["student"].scheme.roles["student"].model.torch_variance
    config.teacher.train.steps = config.train.steps = 2
    assert kd_jax.run(config, tmp_path)["models"]["student"]["steps"] == 2


def test_only_linen_networks_have_it():
    fields = {"name": "first_weights:plain_network", "kwargs": {"torch_variance": True}}
    with pytest.raises(ValueError, match="torch_variance is of Linen's BatchNorm, and .* makes no Linen network"):
        make_model(fields, SimpleNamespace(num_classes=3))
