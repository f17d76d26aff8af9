"""Trackers: what a run calls in packages that stand in for them, and in the real ones where they are there."""

import sys
import types

import numpy as np
import pytest
from mistakes import config, run

from kd_jax.system.trackers import Tracker, check

VALUES = {
    "kind": "train",
    "loss": 1.5,
    "kd": np.float32(2),
    "bins": [1, 2],
    "bad": float("nan"),
    "none": None,
    "ok": True,
}
NUMBERS = {"loss": 1.5, "kd": 2.0}


@pytest.fixture
def calls(monkeypatch):
    """What the three packages are asked for; they remember the run that there is."""
    asked = []

    class Run:
        def __init__(self, name):
            self.info = types.SimpleNamespace(run_id=name)

        def log(self, values, step):
            asked.append((step, values))

        def finish(self):
            asked.append("finish")

    def init(**options):
        asked.append(options)
        return Run(options["name"])

    class Client:
        def log_metric(self, number, name, value, step):
            asked.append((number, step, name, value))

        def set_terminated(self, number):
            asked.append(f"end {number}")

    def module(name, **functions):
        made = types.ModuleType(name)
        vars(made).update(functions)
        monkeypatch.setitem(sys.modules, name, made)

    module("wandb", init=init)
    module("trackio", init=init)
    module(
        "mlflow",
        set_experiment=lambda name: asked.append(name),
        search_runs=lambda **options: [Run("7")],
        start_run=lambda run_id=None, run_name=None: Run(run_id or run_name),
        end_run=lambda: None,
        MlflowClient=Client,
    )
    return asked


@pytest.mark.parametrize("kind", ["wandb", "trackio"])
@pytest.mark.parametrize("resume", [None, 3])
def test_numbers_go_to_a_run_that_a_resumed_training_finds_again(kind, resume, calls, tmp_path):
    tracker = Tracker(kind, tmp_path / "digits" / "student", resume)
    tracker.write(4, VALUES)
    tracker.close()
    tracker.write(5, VALUES)
    assert calls[1:] == [(4, NUMBERS), "finish"]
    assert (calls[0]["project"], calls[0]["name"]) == ("digits", "student")
    assert calls[0]["resume"] == ("allow" if resume else None if kind == "wandb" else "never")


@pytest.mark.parametrize(("resume", "number"), [(None, "student"), (3, "7")])
def test_mlflow_gets_names_that_it_takes(calls, tmp_path, resume, number):
    tracker = Tracker("mlflow", tmp_path / "digits" / "student", resume)
    tracker.write(4, {"peers@0/loss": 1.0})
    tracker.close()
    assert calls == ["digits", (number, 4, "peers-0/loss", 1.0), f"end {number}"]


def test_off_by_default_and_in_other_processes(calls, tmp_path):
    for tracker in (Tracker("", tmp_path), Tracker("wandb", tmp_path, None, enabled=False)):
        tracker.write(1, VALUES)
        tracker.close()
    assert calls == []
    assert not config().tracker


def test_a_run_writes_what_metrics_jsonl_has(calls, tmp_path):
    run(tmp_path, config(tracker="trackio", log_every=1, eval_every=1))
    names = [options["name"] for options in calls if isinstance(options, dict)]
    assert "student" in names
    steps = [call for call in calls if isinstance(call, tuple)]
    assert any("loss" in values for _, values in steps) and calls[-1] == "finish"


def test_what_is_no_tracker_or_not_there_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="config.tracker='wandbb'. Did you mean 'wandb'"):
        run(tmp_path, config(tracker="wandbb"))
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(
        ImportError, match="config.tracker='wandb' needs a package that is not there: pip install wandb"
    ):
        check("wandb")


@pytest.mark.parametrize("kind", ["trackio", "wandb", "mlflow"])
def test_the_real_packages_take_it(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # which it reads as it is imported
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    package = pytest.importorskip(kind)
    if kind == "mlflow":
        package.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    place = tmp_path / "digits" / "student"
    place.mkdir(parents=True)
    for resume in (None, 1):
        tracker = Tracker(kind, place, resume)
        tracker.write(1 + (resume or 0), VALUES)
        tracker.close()
    if kind == "wandb":
        assert list(place.rglob("*.wandb"))
    if kind == "trackio":
        assert list((tmp_path / "trackio").rglob("*digits*"))
    if kind == "mlflow":
        runs = package.search_runs(experiment_names=["digits"], output_format="list")
        assert len(runs) == 1 and runs[0].data.metrics == NUMBERS
