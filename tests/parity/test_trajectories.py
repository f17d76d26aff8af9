"""A part of benchmarks/trajectories.py: training equals PyTorch's, and a preset that is wrong is told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

# In a process of its own, since JAX has float64 there. The last case trains `at` and expects `sp`.
SCRIPT = """
import sys
from benchmarks import trajectories as t
t.CASES["wrong"] = t.Case(t.losses.sp, "", "at")
sys.argv = ["trajectories", "vid", "review_kd", "wrong", "--steps=5"]
t.main()
"""


def test_training_equals_that_of_pytorch():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "XLA_FLAGS": ""},  # conftest's make steps in float64 thirty times slower
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == "Further from PyTorch than their limit: wrong."
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["vid", "review_kd", "wrong"]
