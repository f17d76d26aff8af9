"""From the command to the first steps of the student: imports, compilation, and what the compilation cache saves.

python -m benchmarks.launch [--rounds=2]

launch.py runs the student of configs/cifar_resnet.py:digits without baseline and report, from a teacher that was
trained before, in processes of their own: without a cache of compiled programs, with an empty one, with a full one.
Seconds from the start of the process until two steps are logged, and CPU seconds of the whole process, which say more
on a machine with other work.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import common

CONFIG = ["--config=configs/cifar_resnet.py:digits,tiny", "--config.baseline=False", "--config.report=False"]
MARK = "student  "  # the first line of progress, after the first log interval of two steps


def started(command: list[str], cache: str) -> tuple[float, float]:
    """Returns (seconds until the student's first line, CPU seconds of the whole process)."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_COMPILATION", "JAX_PERSISTENT"))}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start, first = time.perf_counter(), None
    flags = [f"--config.compilation_cache={cache}"] if cache else []
    process = subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, text=True, env=environment)
    for line in process.stdout:
        if first is None and line.startswith(MARK):
            first = time.perf_counter() - start
    if process.wait() or first is None:
        raise RuntimeError(f"{command} ended with {process.returncode} and no line {MARK!r}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return first, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def timed(command: list[str]) -> tuple[float, float]:
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    seconds: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as directory:
        launch = [sys.executable, "launch.py", *CONFIG, f"--config.teacher.workdir={directory}/teacher"]
        subprocess.run([*launch, f"--workdir={directory}/first"], check=True, stdout=subprocess.DEVNULL)
        for number in range(args.rounds):
            cache = f"{directory}/cache{number}"
            for name, folder in (("no cache", ""), ("empty cache", cache), ("full cache", cache)):
                workdir = Path(directory) / f"{name}{number}".replace(" ", "-")
                seconds.setdefault(name, []).append(started([*launch, f"--workdir={workdir}"], folder))
            for name, code in (("import jax", "import jax"), ("import kd_jax.train.run", "import kd_jax.train.run")):
                seconds.setdefault(name, []).append(timed([sys.executable, "-c", code]))
    wall, cpu = ({n: common.median([f[i] for f in times]) for n, times in seconds.items()} for i in (0, 1))
    rows: list[dict[str, Any]] = []
    for name in seconds:
        row = {"what": name, "seconds": f"{wall[name]:.1f}", "cpu seconds": f"{cpu[name]:.1f}"}
        if "cache" in name:
            row |= {"ratio": f"{wall[name] / wall['no cache']:.2f}", "cpu ratio": f"{cpu[name] / cpu['no cache']:.2f}"}
        rows.append(row)
    common.write("launch", rows, rounds=args.rounds)


if __name__ == "__main__":
    main()
