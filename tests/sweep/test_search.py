"""Searches with Optuna over the fields that a sweep varies."""

import sys

import pytest
from tiny_sweep import RATE, TEMPERATURE, tiny

from kd_jax.sweep import search
from kd_jax.sweep.spec import parse


def quadratic(point, report):
    """Best at x = 3, y = "b"; after every evaluation a little nearer to its end."""
    value = -abs(point["x"] - 3.0) - (point["y"] == "a")
    for number in range(1, 4):
        report(number, value - 1 / number)
    return value


def test_search_finds_prunes_and_goes_on_where_it_was_killed(tmp_path):
    pytest.importorskip("optuna")
    spec = parse("y=a,b;x=uniform:0..10")

    class Killed(Exception):
        pass

    calls = []

    def dying(point, report):
        calls.append(point)
        if len(calls) == 4:
            raise Killed
        return quadratic(point, report)

    with pytest.raises(Killed):
        search.search(dying, spec, tmp_path, 25, "asha", seed=1)
    study = search.search(lambda p, r: calls.append(p) or quadratic(p, r), spec, tmp_path, 25, "asha", seed=1)
    assert calls[4] == calls[3]  # the trial that was cut off is taken up first
    states = [t.state.name for t in study.get_trials()]
    assert states.count("COMPLETE") + states.count("PRUNED") == 25 and states.count("PRUNED") > 3
    assert study.best_params["y"] == "b" and abs(study.best_params["x"] - 3) < 1.5
    before = len(calls)
    search.search(quadratic, spec, tmp_path, 25, "asha", seed=1)
    assert len(calls) == before


def test_search_errors(tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    for arguments, message in (((0, "none"), "--trials=0"), ((1, "ahsa"), "--pruner=ahsa: Did you mean 'asha'")):
        with pytest.raises(ValueError, match=message):
            search.search(quadratic, parse("x=1.0,2.0"), tmp_path, *arguments)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ValueError, match="pip install"):
        search.search(quadratic, parse("x=1.0,2.0"), tmp_path, 1)


def test_search_trains_and_reads_back(tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    config = tiny()
    config.members = "map"
    spec = parse(f"seed=0,1;{TEMPERATURE}=1,4;{RATE}=log:0.01..0.3")
    results = search.run(config, spec, tmp_path, 2)
    assert len(results["tried"]) == 2 and len(results["runs"]) == 2 * len(results["rows"])
    assert {run["point"]["seed"] for run in results["runs"]} == {0, 1}
    monkeypatch.setattr(search, "train_program", None)
    assert search.run(config, spec, tmp_path, 2)["rows"] == results["rows"]
    monkeypatch.undo()
    (tmp_path / "sweep.json").unlink()  # killed before the end: finished trials are read, not tried anew
    again = search.run(config, spec, tmp_path, 2)
    assert again["rows"] == results["rows"] and again["tried"] == results["tried"]
    assert len(search.run(config, spec, tmp_path, 3)["tried"]) == 3  # more trials continue it


def test_evaluations_are_counted_where_they_are_a_tenth_of_the_trial(tmp_path):
    optuna = pytest.importorskip("optuna")
    config = tiny()
    config.eval_every = None
    search.run(config, parse(f"{RATE}=log:0.01..0.3"), tmp_path, 1)
    journal = optuna.storages.journal.JournalFileBackend(str(tmp_path / search.STORY))
    study = optuna.load_study(study_name="search", storage=optuna.storages.JournalStorage(journal))
    assert sorted(study.trials[0].intermediate_values) == [1, 2, 3, 4, 5, 6]  # of 12 steps, after every second


def test_a_search_of_trials_that_all_diverge_says_so(tmp_path):
    pytest.importorskip("optuna")
    spec = parse("train.optimizer.learning_rate=1e20,1e21")
    with pytest.raises(ValueError, match="All 2 trials diverged or were cut short before they had a score"):
        search.run(tiny(), spec, tmp_path, 2)


def test_evaluations_are_counted_by_the_trials_own_interval(tmp_path, monkeypatch):
    optuna = pytest.importorskip("optuna")
    numbers = []
    monkeypatch.setattr(optuna.trial.Trial, "report", lambda trial, value, step: numbers.append(step))
    search.run(tiny(), parse("eval_every=6"), tmp_path, 1)
    assert numbers == [1, 2]  # of 12 steps; by the base config's interval of 4 they were 2 and 3
