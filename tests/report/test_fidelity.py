"""The picture of agreement against accuracy of a sweep."""

import pytest

from kd_jax.report import fidelity
from kd_jax.report.surface import write_sweep


def a_run(temperature, labels, seed, agreement, accuracy):
    point = {"terms.kd.kwargs.temperature": temperature, "data.labels": labels, "seed": seed}
    last = {"test": {"student": {"agreement": agreement, "accuracy": accuracy}}}
    return {"point": point, "diverged": False, "test": accuracy, "validation": accuracy, "noise": 0.01, "last": last}


RUNS = [
    a_run(t, n, seed, 0.5 + 0.02 * t + 0.001 * n + 0.01 * seed, 0.4 + 0.02 * t + 0.001 * n)
    for n in (50, 100)
    for t in (4, 1)
    for seed in (0, 1)
]
RESULTS = {"runs": RUNS, "headline": {"metric": "accuracy", "sign": 1, "unit": "%", "error": "accuracy_error"}}


def test_a_line_for_each_data_size_over_the_temperature_by_hand():
    section = fidelity.section_of(RESULTS)
    assert {name: len(points) for name, points in section["lines"].items()} == {"labels 50": 2, "labels 100": 2}
    # temperature 1 first; the mean of two seeds: 0.5 + 0.02 + 0.05 + 0.005
    assert section["lines"]["labels 50"][0] == pytest.approx([57.5, 47.0])
    assert "over temperature 1, 4" in section["lead"] and "correlation is 1.00" in section["lead"]


def test_the_baseline_is_beside_them_and_nothing_without_an_agreement():
    runs = [a_run(1, 50, seed, 0.3, 0.2) for seed in (0, 1)]
    section = fidelity.section_of(RESULTS | {"models": {"baseline": {"runs": runs}}})
    assert section["lines"]["baseline"] == [pytest.approx([30.0, 20.0])]
    none = [{**run, "last": {"test": {"student": {"accuracy": 0.5}}}} for run in RUNS]
    assert fidelity.section_of({**RESULTS, "runs": none}) is None


def test_the_page_of_a_sweep_has_it(tmp_path):
    from kd_jax.sweep.run import collect
    from kd_jax.types import Headline

    results = collect(RUNS, Headline("accuracy", 1, "%", "accuracy_error")) | {"title": "a sweep"}
    write_sweep(results, tmp_path)
    page = (tmp_path / "sweep.html").read_text()
    assert "Does agreeing with the teacher go with a better accuracy?" in page and page.count("<svg") == 2
