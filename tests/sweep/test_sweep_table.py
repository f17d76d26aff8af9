"""The table of a sweep: what is best, how sure that is, and how it is drawn."""

import math

import numpy as np
import pytest
from tiny_sweep import TEMPERATURE

from kd_jax.report.surface import plot_surface, varied_numbers, write_sweep
from kd_jax.sweep import run as sweep
from kd_jax.sweep import table
from kd_jax.tasks.classify import HEADLINES


def made(accuracies, noise=0.0):
    """Hand-made runs: {temperature: [validation accuracy of each seed]}; the test accuracy is 0.1 less."""
    return [
        {
            "point": {"seed": seed, TEMPERATURE: t, "terms.kd.weight": 0.5},
            "diverged": value is None,
            "validation": value,
            "test": None if value is None else value - 0.1,
            "noise": noise,
        }
        for t, values in accuracies.items()
        for seed, value in enumerate(values)
    ]


HEADLINE = HEADLINES["accuracy"]


def summarise(runs):
    return table.summarise(runs, HEADLINE)


def test_table_best_and_uncertainty():
    rows = summarise(made({1.0: [0.80, 0.82], 2.0: [0.90, 0.92], 4.0: [0.89, 0.93], 8.0: [None, 0.99]}))
    assert [row["setting"][TEMPERATURE] for row in rows] == [2.0, 4.0, 1.0, 8.0]  # one that diverged is never the best
    np.testing.assert_allclose(rows[0]["validation"]["mean"], 0.91)
    np.testing.assert_allclose(rows[0]["validation"]["std"], math.sqrt(2) * 0.01)
    np.testing.assert_allclose(rows[0]["error"], 0.01)
    np.testing.assert_allclose(rows[1]["error"], 0.02)
    assert [row["setting"][TEMPERATURE] for row in table.rivals(rows)] == [4.0]
    said = " ".join(table.conclusion(rows, HEADLINE))
    assert "Best by validation: temperature=2.0, weight=0.5. Its accuracy on validation is 91.00 ± 1.00%" in said
    assert "The runner-up is within noise of it (by 0.00" in said
    assert "81.00 ± 1.41%" in said  # on the test set, which chose nothing
    columns, lines = table.table(rows, HEADLINE)
    assert columns[:3] == ["model", "temperature", "weight"] and lines[3][-1] == "2 (1 diverged)"
    assert lines[0] == ["student", "2", "0.5", "91.00 ± 1.41", "1.00", "81.00 ± 1.41", "2"]


def test_noise_of_the_examples_counts_and_one_seed_is_allowed():
    rows = summarise(made({1.0: [0.9], 2.0: [0.8]}, noise=0.03))
    assert rows[0]["error"] == pytest.approx(0.03) and rows[0]["validation"]["std"] is None
    assert not table.rivals(rows)
    assert "ahead of every other" in " ".join(table.conclusion(rows, HEADLINE))
    assert len(table.rivals(summarise(made({1.0: [0.9], 2.0: [0.85]}, noise=0.03)))) == 1
    everything = summarise(made({1.0: [None]}))
    assert "Every setting diverged" in table.conclusion(everything, HEADLINE)[0] and table.table(everything, HEADLINE)


def test_nll_is_minimised():
    runs = [r | {"validation": 1 - r["validation"]} for r in made({1.0: [0.3], 2.0: [0.6]})]
    rows = table.summarise(runs, HEADLINES["nll"])
    assert (
        rows[0]["setting"][TEMPERATURE] == 2.0
        and "nll on validation is 0.4000" in table.conclusion(rows, HEADLINES["nll"])[1]
    )


def test_an_error_that_nobody_measured_is_none():
    """A task may measure no standard error: one seed says nothing of the noise then, several say something."""
    rows = table.summarise(made({1.0: [0.8], 2.0: [0.9]}, noise=None), HEADLINE)
    assert [row["error"] for row in rows] == [None, None] and len(table.rivals(rows)) == 1
    said = " ".join(table.conclusion(rows, HEADLINE))
    assert "90.00%, of 1 seed; how far another seed" in said and "Nothing tells it from the other settings" in said
    assert "±" not in said and "ahead" not in said
    assert [line[-3] for line in table.table(rows, HEADLINE)[1]] == ["-", "-"]
    rows = table.summarise(made({1.0: [0.8, 0.82], 2.0: [0.9, 0.92]}, noise=None), HEADLINE)
    np.testing.assert_allclose(rows[0]["error"], 0.01)  # 0.02 / sqrt(2) / sqrt(2)
    assert "ahead of every other setting" in " ".join(table.conclusion(rows, HEADLINE))


def test_surface(tmp_path):
    runs = made({1.0: [0.8], 2.0: [0.9], 4.0: [0.85]})
    more = [r | {"point": {**r["point"], "terms.kd.weight": 0.9}, "validation": r["validation"] - 0.01} for r in runs]
    one, two = sweep.collect(runs, HEADLINE), sweep.collect(runs + more, HEADLINE)
    assert varied_numbers(one["rows"]) == [TEMPERATURE]
    assert varied_numbers(two["rows"]) == [TEMPERATURE, "terms.kd.weight"]
    assert plot_surface(one).axes[0].get_xlabel().startswith("temperature")
    assert plot_surface(two).axes[0].get_ylabel() == "weight"
    paths = write_sweep(two | {"title": "<a sweep>"}, tmp_path)
    assert [p.name for p in paths] == ["surface.png", "sweep.html"] and "&lt;a sweep&gt;" in paths[1].read_text()
