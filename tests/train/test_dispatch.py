"""Several steps in one dispatch end in the bytes of one step a dispatch: logs, evaluations, stages, resume, nan."""

import dataclasses

import chex
import jax.numpy as jnp
import pytest
import toy
from interrupted import exports
from two_stages import SOURCES, Killed
from two_stages import scheme as two_stages

from kd_jax.data.source import Source
from kd_jax.schemes import offline
from kd_jax.system.checkpoint import Checkpoints
from kd_jax.system.log import NonFiniteLoss
from kd_jax.system.signals import Stopped
from kd_jax.train import dispatch, jobs, loop
from kd_jax.train.check import check_job

# Stages of 6 and 7 steps, evaluated at 4, 6, 8, 12, 13, logged at 3, 6, 9, 12: dispatches of 2 and single steps.
SETTINGS = loop.Settings(batch_size=8, seed=1, log_every=3, eval_every=4, eval_batch_size=16, steps_per_dispatch=2)
ONE = dataclasses.replace(SETTINGS, steps_per_dispatch=1)


def same_end(directory, other) -> None:
    assert (directory / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    chex.assert_trees_all_equal(exports(directory), exports(other))


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    directory = tmp_path_factory.mktemp("single")
    loop.fit(two_stages(), SOURCES, ONE, directory, toy.mesh(), "one")
    return directory


def test_bitwise_equal_and_the_same_saves(single, tmp_path, monkeypatch):
    called = []
    original = dispatch.dispatches

    def counted(*args):
        for count, data in original(*args):
            called.append(count)
            yield count, data

    monkeypatch.setattr(dispatch, "dispatches", counted)
    loop.fit(two_stages(), SOURCES, dataclasses.replace(SETTINGS, keep=9), tmp_path, toy.mesh(), "two")
    assert called == [2, 2, 2, 2, 2, 2, 1]
    assert Checkpoints(tmp_path / "checkpoints", 9).steps() == [4, 6, 8, 12, 13]
    same_end(tmp_path, single)


def test_killed_runs_resume_to_the_same_bytes(single, tmp_path, monkeypatch):
    def dying(*args, original=loop.Log.add):
        if args[1] >= 10:
            raise Killed
        return original(*args)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop.Log, "add", dying)
        loop.fit(two_stages(), SOURCES, SETTINGS, tmp_path, toy.mesh(), "two")
    loop.fit(two_stages(), SOURCES, SETTINGS, tmp_path, toy.mesh(), "two")
    same_end(tmp_path, single)


def test_a_signal_stops_after_the_dispatch_and_any_size_resumes(single, tmp_path, monkeypatch):
    def asked(self, calls, original=loop.Signals.stop_at):
        self.asked = calls == 4
        return original(self, calls)

    three = dataclasses.replace(SETTINGS, steps_per_dispatch=3)  # 3 + 1, 1 + 1, 1 + 1, 3 + 1, 1
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(loop.Signals, "stop_at", asked)
        loop.fit(two_stages(), SOURCES, three, tmp_path, toy.mesh(), "two")
    assert Checkpoints(tmp_path / "checkpoints", 2).steps()[-1] == 6
    loop.fit(two_stages(), SOURCES, SETTINGS, tmp_path, toy.mesh(), "two")
    same_end(tmp_path, single)


def test_several_devices(tmp_path):
    mesh = toy.mesh(4, 2)
    ends = []
    for settings in (ONE, SETTINGS):
        settings = dataclasses.replace(settings, rules={"student": (("hidden/kernel", "fsdp"),)})
        directory = tmp_path / str(settings.steps_per_dispatch)
        loop.fit(two_stages(), SOURCES, settings, directory, mesh, "mesh")
        ends.append(directory)
    same_end(*ends)


def test_a_nan_names_its_own_step(tmp_path):
    kd = dataclasses.replace(toy.kd(), kwargs={"temperature": lambda step: jnp.where(step == 5, jnp.nan, 2.0)})
    scheme = offline.build(toy.parts(toy.roles(), {"ce": toy.ce(), "kd": kd}, 8))
    settings = dataclasses.replace(SETTINGS, steps_per_dispatch=4)
    with pytest.raises(NonFiniteLoss, match="'kd' became nan or infinite at step 6"):
        loop.fit(scheme, SOURCES, settings, tmp_path, toy.mesh(), "nan")
    assert Checkpoints(tmp_path / "checkpoints", 2).steps() == [4]


def job(source: Source, **changes) -> jobs.Job:
    scheme = offline.build(toy.parts(toy.roles(), {"ce": toy.ce()}, 8))
    sources = SOURCES | {"train": source}
    return jobs.Job("student", scheme, sources, dataclasses.replace(SETTINGS, **changes), None, {})


def test_streamed_data_and_sizes_that_never_fit_are_refused(monkeypatch):
    shapes = toy.shapes(toy.batch(8))
    check_job(job(SOURCES["train"]), shapes, toy.mesh())
    with pytest.raises(ValueError, match="steps_per_dispatch = 5.* at most eval_every = 4"):
        check_job(job(SOURCES["train"], steps_per_dispatch=5), shapes, toy.mesh())
    monkeypatch.setattr("kd_jax.data.batches.RESIDENT_BYTES", 0)
    with pytest.raises(ValueError, match="blobs/train is streamed"):
        check_job(job(SOURCES["train"]), shapes, toy.mesh())


def test_a_convolution_network_with_augmentation_is_equal_too(tmp_path):
    from configs import cifar_resnet
    from kd_jax.config import make_tiny, supervised
    from kd_jax.train import run as train

    tables = []
    for size in (1, 3):
        config = make_tiny(cifar_resnet.get_config("digits"))
        config.student.model = dict(name="models.vision.cnn.cnn", kwargs=dict(widths=(4, 8)))
        config.teacher.model.name, config.terms = "", supervised()
        config.baseline, config.report, config.steps_per_dispatch = False, False, size
        train.run(config, tmp_path / str(size))
        tables.append((tmp_path / str(size) / "student" / "metrics.jsonl").read_bytes())
    assert tables[0] == tables[1]
