"""Dataset distillation: images are learned from real ones, the student from the images alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scheme_checks import config_module

from kd_jax.train import run as train

CONFIG = config_module("dataset_distillation")


def tiny(variant, **changes):
    config = CONFIG.get_config(f"{variant},tiny")
    config.baseline, config.report = False, False
    config.mesh.axes.data = 1
    for path, value in changes.items():
        config.update_from_flattened_dict({path.replace("__", "."): value})
    return config


@pytest.mark.parametrize("variant", ["distribution", "gradient", "kernel"])
def test_images_move_and_the_student_learns_on_them_alone(variant, tmp_path):
    config = tiny(variant, train__steps=120, scheme__kwargs__synthesis=0.75, log_every=5)
    results = train.run(config, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "student" / "metrics.jsonl").read_text().splitlines()]
    match = [line["match"] for line in lines if "match" in line]
    learned = [line["ce"] for line in lines if "ce" in line]
    assert len(match) == 18 and len(learned) == 6
    # Another network in each step: the values jump, their means fall.
    assert np.mean(match[-6:]) < np.mean(match[:6]) and learned[-1] < learned[0]
    (section,) = [s for s in results["sections"] if s["title"] == "Distilled images"]
    images = np.array(section["images"])
    assert images.shape == (10, 8, 8) and 0 <= images.min() and images.max() <= 255
    assert section["labels"] == list("0123456789")


def test_trajectories_are_stored_and_met(tmp_path):
    """The images take the network nearer to where the experts went; its rate is learned beside them."""
    trajectory = dict(experts=2, moments=3, span=2, updates=4, share=0.5)
    config = tiny("trajectory", train__steps=160, scheme__kwargs__synthesis=0.75, log_every=5)
    config.scheme.kwargs.trajectory.update(trajectory)
    results = train.run(config, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "student" / "metrics.jsonl").read_text().splitlines()]
    expert, match, learned = ([line[name] for line in lines if name in line] for name in ("expert", "match", "ce"))
    assert len(expert) == 12 and len(learned) == 8  # 2 * (1 + 3 * 9) of the 120 steps, and a line that has both
    assert np.mean(match[-4:]) < np.mean(match[:4]) and learned[-1] < learned[0]
    assert [s["title"] for s in results["sections"]].count("Distilled images") == 1


def test_the_images_start_as_real_ones(tmp_path):
    """With a rate of almost 0 the section shows the first image of each class."""
    config = tiny("distribution")
    config.optimizers.bank.learning_rate = 1e-9
    section = train.run(config, tmp_path)["sections"][0]
    from kd_jax.data.load import load

    real = load({"name": "digits", "validation": 0.125}).train
    firsts = [real.images[np.flatnonzero(real.labels == c)[0], :, :, 0] for c in range(10)]
    np.testing.assert_allclose(section["images"], firsts, atol=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scheme__kwargs__method": "distributions"}, "method='distributions'.*distribution"),
        ({"scheme__kwargs__method": "gradient", "scheme__kwargs__tap": "stage1"}, "tap='stage1' is of method='distrib"),
        ({"scheme__kwargs__trajectory": {"span": 2}}, "trajectory={'span': 2} is of method='trajectory'"),
        ({"scheme__kwargs__start": "zeros"}, "start='zeros'.*noise"),
        ({"scheme__kwargs__real": "rael"}, "real='rael' is no split.*real"),
        ({"roles__bank__model__kwargs__size": 12}, "12 images, which must be a multiple of the 10 classes"),
        ({"splits__kwargs__data": "fashion_mnist"}, "fashion_mnist|not on this machine"),
    ],
)
def test_what_does_not_fit_is_said(changes, message, tmp_path):
    config = tiny("distribution")
    for path, value in changes.items():
        *parents, last = path.split("__")
        owner = config
        for name in parents:
            owner = owner[name]
        with owner.unlocked():
            owner[last] = value
    with pytest.raises((ValueError, OSError), match=message):
        train.run(config, tmp_path)
    assert not list(tmp_path.rglob("metrics.jsonl"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"experts": 3}, r"trajectory.share=0.5 of 4 steps are 2; experts=3 trajectories of moments=1 need at least 6"),
        ({"span": 2}, "trajectory.span=2 is more than the moments=1"),
        ({"updates": 0}, "scheme.kwargs.trajectory.updates is 0"),
        ({"expert": 3}, "takes no argument 'expert'.*experts"),
    ],
)
def test_trajectories_that_do_not_fit_are_refused(changes, message, tmp_path):
    config = tiny("trajectory")
    with config.unlocked():
        config.scheme.kwargs.trajectory.update(changes)
    with pytest.raises(ValueError, match=message):
        train.run(config, tmp_path)
    assert not list(tmp_path.rglob("metrics.jsonl"))


def test_a_network_for_the_kernel_is_refused(tmp_path):
    config = tiny("kernel")
    with config.unlocked():
        config.roles.embedder = tiny("distribution").roles.embedder
    with pytest.raises(ValueError, match="method='kernel' asks no network"):
        train.run(config, tmp_path)
