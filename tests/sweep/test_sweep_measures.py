"""What config.measure names, in a sweep: of every student, of the teacher, of the baseline of the best setting."""

import json

import numpy as np
import pytest
from tiny_sweep import tiny

import kd_jax
from kd_jax.data.load import load
from kd_jax.sweep import run as sweep
from kd_jax.sweep.spec import parse


def test_every_student_is_measured_as_a_run_of_its_own_measures_it(tmp_path, capsys):
    config = tiny()
    config.measure = ("selective", "cka")
    results = sweep.run(config, parse("seed=0,1;terms.kd.weight=0.5,2"), tmp_path)
    images, labels = load(config.data).test.in_memory()
    teacher = kd_jax.load(results["models"]["teacher"]["export"])
    everyone = [*results["runs"], *results["models"]["baseline"]["runs"], results["models"]["teacher"]]
    assert len(everyone) == 4 + 2 + 1
    for run in everyone[:-1]:
        student = kd_jax.load(run["export"])
        expected = student.measure("selective,cka", (images, labels), others={"teacher": teacher})["student"]
        assert run["measures"]["selective"]["aurc"] == pytest.approx(expected["selective"]["aurc"], rel=1e-5)
        assert run["measures"]["cka"]["mean"] == pytest.approx(expected["cka"]["mean"], rel=1e-4)
    (section,) = results["sections"]
    assert section["columns"][:3] == ["model", "weight", "area under risk-coverage (AURC), lower is better"]
    assert [row[0] for row in section["rows"]] == ["student", "student", "teacher", "baseline"]
    best = results["rows"][0]["setting"]["terms.kd.weight"]
    values = [r["measures"]["selective"]["aurc"] for r in results["runs"] if r["point"]["terms.kd.weight"] == best]
    assert section["rows"][0][1:3] == [f"{best:.4g}", f"{np.mean(values):.4g} ± {np.std(values, ddof=1):.4g}"]
    assert section["title"] in (tmp_path / "sweep.html").read_text() and section["title"] in capsys.readouterr().out
    again = sweep.run(config, parse("seed=0,1;terms.kd.weight=0.5,2"), tmp_path)
    assert json.dumps(again["sections"]) == json.dumps(results["sections"])
