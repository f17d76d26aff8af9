"""From config.measure to results.json and the report."""

import json

import pytest
from mistakes import config, run

import kd_jax
from kd_jax import measure
from kd_jax.measure.choose import defaults, measure_of, names_of, options_of


def test_names_as_the_command_line_and_python_give_them():
    assert names_of(("a,b", "c", "a")) == ("a", "b", "c")
    assert names_of(("",)) == names_of(()) == ()


@pytest.mark.parametrize("name", measure.NAMES)
def test_the_config_has_the_options_of_every_measure(name):
    made = measure_of(name)
    assert dict(kd_jax.base().measure_kwargs[name]) == options_of(made) == defaults()[name]


def test_cheap_ones_are_measured_with_the_report_and_none_leaves_them_out(tmp_path):
    results = run(tmp_path, config(report=True, examples=0, baseline=True))
    cheap = {name for name in measure.NAMES if measure_of(name).cheap}
    for role in ("teacher", "baseline", "student"):
        assert "selective" in results["models"][role]["measures"]
        assert {*results["models"][role]["measures"]} <= cheap
    assert sum(results["measured_seconds"].values()) < results["wall_seconds"]
    assert results == json.loads((tmp_path / "run" / "results.json").read_text())
    page = (tmp_path / "run" / "report.html").read_text()
    assert "What else was measured" in page and "surest 80%" in page
    # the same networks again, without the measures: nothing is trained
    results = run(tmp_path, config(report=True, examples=0, baseline=True, measure=("none",)))
    assert not any("measures" in model for model in results["models"].values())


def test_without_a_report_what_is_named_is_measured(tmp_path):
    results = run(tmp_path, config(measure=("selective",), measure_kwargs__selective__coverage=0.5))
    student = results["models"]["student"]
    assert {*student["measures"]} == {"selective"}
    assert results["sections"][0]["rows"][1][0] == "accuracy on the surest 50%"
