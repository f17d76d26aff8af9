"""Benchmarks are run by hand, so that they may rot: at least what they import must exist."""

import importlib
from pathlib import Path

import pytest

from benchmarks import readme
from kd_jax.config import PRESETS

NAMES = sorted(path.stem for path in (Path(__file__).parent.parent / "benchmarks").glob("*.py") if path.stem[0] != "_")


@pytest.mark.parametrize("name", NAMES)
def test_imports(name):
    try:
        importlib.import_module(f"benchmarks.{name}")
    except ModuleNotFoundError as e:
        if e.name.partition(".")[0] in ("kd_jax", "benchmarks", "configs"):
            raise
        pytest.skip(f"{e.name} comes with an extra")


def test_every_preset_has_a_trajectory_or_a_reason():
    record = readme.record("trajectories")
    compared = {row["preset"] for row in record["rows"]}
    assert compared | {*record["without"]} == {*PRESETS}
    assert not compared & {*record["without"]}
