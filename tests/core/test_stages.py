"""Schemes of several stages: optimizers that change, on_enter, and resume at and across a boundary."""

import dataclasses

import numpy as np
import optax
import pytest
import toy
from two_stages import SETTINGS, SOURCES, Killed, scheme

from kd_jax.core import many
from kd_jax.system.checkpoint import Checkpoints
from kd_jax.train import loop
from kd_jax.types import Call, Phase, Scheme, Stage


@pytest.mark.parametrize(("sizes", "kills"), [((), (5, 6, 9)), ((4, 2), (6,))])
def test_resume_at_and_across_a_boundary(tmp_path, monkeypatch, sizes, kills):
    mesh = toy.mesh(*sizes)
    rules = {"student": (("hidden/kernel", "fsdp"),)} if sizes else {}
    settings = dataclasses.replace(SETTINGS, rules=rules)
    entered = []
    whole = loop.fit(scheme(entered), SOURCES, settings, tmp_path / "whole", mesh, "stages")
    assert entered == [6]
    for at in kills:  # killed in the first stage, at the boundary, and in the second
        directory = tmp_path / f"killed{at}"

        def dying(*args, at=at, original=loop.Log.add):
            if args[1] >= at:
                raise Killed
            return original(*args)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(loop.Log, "add", dying)
            loop.fit(scheme(), SOURCES, settings, directory, mesh, "stages")
        resumed = loop.fit(scheme(), SOURCES, settings, directory, mesh, "stages")
        assert resumed["last"] == whole["last"] and resumed["best"] == whole["best"]
        assert (directory / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


def test_the_boundary_is_saved(tmp_path):
    loop.fit(scheme(), SOURCES, dataclasses.replace(SETTINGS, keep=9), tmp_path, toy.mesh(), "stages")
    np.testing.assert_array_equal(Checkpoints(tmp_path / "checkpoints", 9).steps(), [4, 6, 8, 12, 13])


def test_one_program_for_stages_of_the_same_phases_scores_after_each_and_a_summary(tmp_path, monkeypatch):
    made = []
    original = many.make_train_step
    monkeypatch.setattr(many, "make_train_step", lambda *args: made.append(args[1].name) or original(*args))
    phases = (Phase("student", (Call("student"),), {"ce": toy.ce()}, optax.sgd(0.1)),)
    stages = (Stage(4, phases, name="one", selects=False), Stage(4, phases, name="two"))
    section = {"kind": "table", "title": "t", "lead": "l", "columns": ["a"], "rows": [[1]]}
    several = Scheme(
        toy.roles(),
        stages,
        evaluate=("student", "student+teacher"),
        reference="teacher",
        stage_splits=("extra",),
        task=toy.TASK,
        summary=lambda state, record: [section | {"rows": [[s["step"]] for s in record["stages"]]}],
    )
    sources = SOURCES | {"extra": toy.source(16, "extra")}
    results = loop.fit(several, sources, SETTINGS, tmp_path, toy.mesh(), "several")
    assert made == ["one"]
    assert [(s["stage"], s["step"]) for s in results["stages"]] == [("one", 4), ("two", 8)]
    assert set(results["stages"][0]["extra"]) == {"student", "student+teacher"}
    assert results["sections"][0]["rows"] == [[4], [8]] and results["best"]["step"] == 8
    assert set(results["last"]["test"]) == {"student", "student+teacher"}
    assert [path.name for path in (tmp_path / "export" / "last").iterdir()] == ["student"]
