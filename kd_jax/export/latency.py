"""How long exported files take beside JAX's own program, in rounds that all share, and the memory of a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kd_jax.export.network import Run
from kd_jax.system.cost import rounds

BATCHES = (1, 64)


def latencies(
    programs: Mapping[str, tuple[Run, Sequence[np.ndarray]]], steps: bool = False
) -> dict[str, dict[str, Any]]:
    """Measures {name: {"latency_ms": {"1", "64"}, "latency_spread_ms": quartiles in its place}} of (run, examples).

    A round calls every file once (kd_jax/system/cost.py). What takes one example at a time is called 64 times for 64;
    so is, with `steps`, the step of a decoder, whose inputs are those of one.
    """
    made: dict[str, dict[str, Any]] = {name: {"latency_ms": {}, "latency_spread_ms": {}} for name in programs}
    for batch in BATCHES:
        calls = []
        for run, examples in programs.values():
            inputs = tuple(x if steps else np.resize(x, (batch, *x.shape[1:])) for x in examples)
            calls.append((_repeated(run, batch if steps else 1), inputs))
        for name, milliseconds in zip(programs, rounds(calls), strict=True):
            made[name]["latency_ms"][str(batch)] = float(np.median(milliseconds))
            made[name]["latency_spread_ms"][str(batch)] = [float(q) for q in np.quantile(milliseconds, (0.25, 0.75))]
    return made


def _repeated(run: Run, times: int) -> Run:
    def repeated(*inputs: np.ndarray) -> list[np.ndarray]:
        answers: list[np.ndarray] = []
        for _ in range(times):
            answers = run(*inputs)
        return answers

    return repeated


_MEASURE = """
import importlib, pathlib, sys
import numpy as np
module, file, inputs = sys.argv[1:]
run = importlib.import_module(module).read(pathlib.Path(file))
with np.load(inputs) as arrays:
    run(*(arrays[name] for name in arrays.files))
status = pathlib.Path("/proc/self/status").read_text()
print(*(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")))
"""


def peak_memory(module: str, file: Path, inputs: Sequence[np.ndarray], scratch: Path) -> int | None:
    """Returns the most bytes that a process held which loads the file in its runtime and answers once.

    Its own Python and libraries are part of it. None where the system does not say (no /proc), or the process fails.
    """
    np.savez(scratch, **{f"input{i}": x for i, x in enumerate(inputs)})
    command = [sys.executable, "-c", _MEASURE, module, str(file), str(scratch)]
    paths = {"PYTHONPATH": os.pathsep.join(sys.path)}  # a notebook may have found this package by sys.path alone
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=os.environ | paths)
    finally:
        scratch.unlink(missing_ok=True)
    words = done.stdout.split()
    return int(words[-1]) if done.returncode == 0 and words else None
