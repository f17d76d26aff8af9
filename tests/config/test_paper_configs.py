"""Schemes at the size of their papers: every method passes the checks of a run's start, and takes a few small steps."""

import functools

import pytest
from scheme_checks import config_module as module

from kd_jax.config.files import words_of
from kd_jax.data.images import synthetic
from kd_jax.data.source import Splits
from kd_jax.system.parallel import make_mesh
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
)
METHODS = [(name, word) for name in FILES for word in words_of(module(name)).variants]
SIZES = {"cifar10": (10, 32), "cifar100": (100, 32), "imagenet": (1000, 64)}


@functools.cache
def made(name: str) -> Splits:
    """A few images in the shape of a data set."""
    classes, side = SIZES[name]
    return synthetic.made(name, classes, side, max(2 * classes, 2500), classes, *synthetic.CIFAR100)


@pytest.mark.parametrize(("name", "method"), METHODS)
def test_every_method_passes_the_checks_at_its_full_size(tmp_path, name, method):
    """Names, fields and shapes of all networks and terms; nothing is trained."""
    config = module(name).get_config(f"{method},synthetic")
    assert config.title.startswith("SYNTHETIC IMAGES, not ")
    images = made(config.data.name.rpartition(":")[2])
    config.data.name, config.mesh.axes.data = "", 1
    jobs, _ = checked_jobs(config, tmp_path, make_mesh(config.mesh.axes), data=images)
    check_run(config, jobs)
    assert jobs["student"].scheme.stages
