"""The choice between vmap, map and unroll: measured on the program itself, of terms with connectors too."""

import json

from tiny_sweep import tiny

import kd_jax
from kd_jax.sweep import fastest
from kd_jax.sweep import run as sweep
from kd_jax.sweep.spec import parse


def test_a_connector_is_in_the_program_that_is_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fastest, "SHORT", 2)
    config = tiny()
    config.terms = kd_jax.compose("feature", feature={"tap": "embedding"})  # widths that differ
    config.train.steps = 3
    results = sweep.run(config, parse("seed=0,1"), tmp_path)
    (program,) = {json.dumps(run["program"]["ms"]) for run in results["runs"]}
    measured = json.loads(program)
    assert set(measured) == {"vmap", "map", "unroll"} and min(measured.values()) > 0
    assert f"{min(measured, key=measured.get)} is chosen" in capsys.readouterr().out
