"""Schemes at the size of their papers: every method passes the checks of a run's start, and takes a few small steps."""

import functools

import numpy as np
import pytest
from scheme_checks import config_module as module

from kd_jax.config.files import words_of
from kd_jax.data.images import synthetic
from kd_jax.data.source import Splits
from kd_jax.losses.self_distillation import virtual_teacher_loss
from kd_jax.system.parallel import make_mesh
from kd_jax.train import run as train
from kd_jax.train.effect import check_run
from kd_jax.train.run import checked_jobs

FILES = (
    "cifar100_online",
    "cifar100_self",
    "cifar100_sskd",
    "cifar100_quantised",
    "split_cifar100",
    "cifar10_data_free",
    "imagenet_function_matching",
    "imagenet_deit",
    "cifar100_search",
)
METHODS = [(name, word) for name in FILES for word in words_of(module(name)).variants or ("response",)]
# Their networks or lengths differ, the road is that of a word which is checked in every run of the tests.
ALIKE = {"9600", "300", "deit_small", "deit_base", "w8", "kdcl_linear", "label_smoothing"}
ALIKE |= {*words_of(module("cifar100_sskd")).variants} - {"resnet56-resnet20", "vgg13-MobileNetV2"}
SIZES = {"cifar10": (10, 32), "cifar100": (100, 32), "imagenet": (1000, 64)}


@functools.cache
def made(name: str) -> Splits:
    """A few images in the shape of a data set."""
    classes, side = SIZES[name]
    return synthetic.made(name, classes, side, max(2 * classes, 2500), classes, *synthetic.CIFAR100)


@pytest.mark.parametrize(
    ("name", "method"), [pytest.param(*pair, marks=pytest.mark.slow if pair[1] in ALIKE else ()) for pair in METHODS]
)
def test_every_method_passes_the_checks_at_its_full_size(tmp_path, name, method):
    """Names, fields and shapes of all networks and terms; nothing is trained."""
    config = module(name).get_config(f"{method},synthetic")
    assert config.title.startswith("SYNTHETIC IMAGES, not ")
    images = made(config.data.name.rpartition(":")[2])
    config.data.name, config.mesh.axes.data = "", 1
    jobs, _ = checked_jobs(config, tmp_path, make_mesh(config.mesh.axes), data=images)
    check_run(config, jobs)
    assert jobs["student"].scheme.stages


def test_the_virtual_teacher_of_tf_kd_is_that_of_the_authors_code():
    """Softmax(d / 20) of the probabilities d themselves, written with this library's loss."""
    term = module("cifar100_self").get_config("tf_kd_reg").terms.virtual
    logits, d = np.random.default_rng(0).normal(size=(1, 100)), np.full(100, 0.01 / 99)
    d[7] = 0.99
    q = np.exp(d / 20) / np.exp(d / 20).sum()
    log_p = logits[0] - np.log(np.exp(logits[0]).sum())
    value = virtual_teacher_loss(logits.astype(np.float32), np.array([7]), **term.kwargs)
    np.testing.assert_allclose(value, [(q * (np.log(q) - log_p)).sum()], rtol=1e-5)


def narrow(model) -> None:
    """Makes a network of a config small: the same road, quickly."""
    if "network" in model.kwargs:
        narrow(model.kwargs.network)
    elif "wide_resnet" in model.name:
        model.name = "models.vision.wide_resnet.WideResNet"
        model.kwargs.update(depth=10, widen=1)
    elif "mixed_cnn" in model.name:
        model.kwargs.widths = tuple(max(w // 16, 2) for w in model.kwargs.widths)
    elif "regnet" in model.name:
        model.kwargs.update(widths=(8, 8, 8, 8), depths=(1, 1, 1, 1), group=4, stem_width=4)
    elif "resnet" in model.name:
        stages = 3 if "cifar_resnet" in model.name else 4
        model.kwargs.update(widths=(4, 8, 8, 8)[:stages], stem_width=4, blocks=(1,) * stages)
    elif "vit" in model.name:
        model.kwargs.update(width=12, depth=2, heads=3)
    elif "image_bank" in model.name:
        model.kwargs.size = 64
    elif "generator" in model.name:
        model.kwargs.update(width=2, noise=4)


STEPS = [
    ("cifar100_online", "dml"),
    ("cifar100_online", "kdcl_min_logit"),
    ("cifar100_online", "okddip"),
    ("cifar100_online", "one"),
    ("cifar100_self", "byot"),
    ("cifar100_self", "born_again"),
    ("cifar100_self", "ps_kd"),
    ("cifar100_self", "tf_kd_reg"),
    ("cifar100_self", "tf_kd_self"),
    ("cifar100_sskd", "resnet56-resnet20"),
    ("cifar100_quantised", "w2"),
    ("split_cifar100", "exemplars"),
    ("cifar10_data_free", "dafl"),
    ("cifar10_data_free", "zskt"),
    ("cifar10_data_free", "inversion"),
    ("imagenet_function_matching", "300"),
    ("imagenet_deit", "deit_tiny"),
    ("cifar100_search", "response"),
]
QUICK = {"dml", "okddip", "deit_tiny"}


@pytest.mark.parametrize(
    ("name", "method"), [pytest.param(*pair, marks=() if pair[1] in QUICK else pytest.mark.slow) for pair in STEPS]
)
def test_a_method_takes_steps(tmp_path, name, method):
    config = module(name).get_config(f"{method},synthetic,tiny")
    for fields in (config.student, config.teacher, *config.roles.values()):
        narrow(fields.model)
    if "model" in config.scheme.kwargs:
        config.scheme.kwargs.model.kwargs.update(depth=8, widths=(4, 8, 8))
    images = made(config.data.name.rpartition(":")[2])
    config.update(dict(baseline=False, report=False, examples=0))
    config.data.name, config.data.image_size, config.mesh.axes.data = "", 0, 1
    results = train.run(config, tmp_path, data=images)
    assert results["models"]["student"]["steps"] >= 6
    assert 0 <= results["models"]["student"]["last"]["test"]["accuracy"] <= 1
