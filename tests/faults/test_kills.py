"""Runs that are killed: alone, one of several, again and again under a supervisor; clocks that jump; slow data.

Each test has a time limit of its own; a run that hangs fails it.
"""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import toy
from interrupted import assert_close, assert_same_end, wait_for
from interrupted import start as begin
from killable import SETTINGS, SOURCES, scheme
from several import ENVIRONMENT, HELPERS
from several import start as start_processes

from kd_jax.train import fit, loop

pytestmark = pytest.mark.slow
RANDOM = random.Random(int.from_bytes(os.urandom(4), "big"))  # other moments in every run


def test_the_only_process_is_killed_at_random_times(unbroken, tmp_path):
    """Five times, at any moment after its start: while it imports, compiles, steps, saves, scores. Limit: 5 minutes."""
    kills = []
    for _ in range(5):
        process = begin(tmp_path, 0.02)
        kills.append(RANDOM.uniform(0, 20))
        try:
            process.communicate(timeout=kills[-1])
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
    process = begin(tmp_path)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, (kills, output)
    assert_same_end(tmp_path, unbroken)


@pytest.mark.parametrize("victim", [0, 1])
def test_one_of_two_processes_is_killed(victim, unbroken, tmp_path):
    """The other ends within the heartbeat timeout (here 10 s; 30 s are given) and says why. Limit: 3 minutes."""
    processes = start_processes("worker.py", 2, tmp_path, 0.1, 10)
    wait_for(processes[0], "STEP", RANDOM.randint(12, 30))
    processes[victim].kill()
    began = time.monotonic()
    output = processes[1 - victim].communicate(timeout=30)[0]
    assert time.monotonic() - began < 30 and processes[1 - victim].returncode not in (0, None)
    assert ("Process 1 gave no sign of life for 10 s" if victim else "another task died") in output
    processes[victim].communicate()
    for process in start_processes("worker.py", 2, tmp_path):
        output = process.communicate(timeout=120)[0]
        assert process.returncode == 0, output
    assert_close(tmp_path, unbroken)


def test_the_supervisor_of_the_readme_brings_a_run_home(unbroken, tmp_path):
    """`until COMMAND; do ...; done`, killed with SIGKILL twice: the same bytes as a run without. Limit: 4 minutes."""
    command = f"{sys.executable} {HELPERS / 'killable.py'} {tmp_path / 'run'} 0.05"
    loop_ = f"until {command}; do echo RESTART; sleep 1; done"
    shell = subprocess.Popen(
        ["bash", "-c", loop_],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=ENVIRONMENT,
    )
    for count in (RANDOM.randint(11, 20), RANDOM.randint(5, 15)):
        wait_for(shell, "STEP", count)
        children = Path(f"/proc/{shell.pid}/task/{shell.pid}/children").read_text().split()
        os.kill(int(children[0]), 9)
    output = shell.communicate(timeout=180)[0]
    assert shell.returncode == 0 and output.count("RESTART") >= 1 and "resumed at step" in output, output
    assert_same_end(tmp_path / "run", unbroken)


def test_clocks_that_jump_change_nothing(unbroken, tmp_path, monkeypatch):
    """Wall time leaps by minutes between any two calls, is a year ahead in the first run and a year behind in the next;
    files have times from the future. Limit: 1 minute."""
    real, year = time.time, [365 * 86400.0]

    def jumping() -> float:
        return real() + year[0] + RANDOM.uniform(-120, 120)

    monkeypatch.setattr(time, "time", jumping)
    monkeypatch.setattr(time, "time_ns", lambda: int(1e9 * jumping()))
    batches = fit.train_batches

    def until_30(*args, **kwargs):
        for number, batch in enumerate(batches(*args, **kwargs)):
            if number == 30:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(fit, "train_batches", until_30)
    with pytest.raises(KeyboardInterrupt):
        loop.fit(scheme(), SOURCES, SETTINGS, tmp_path, toy.mesh(2), "toy")
    monkeypatch.setattr(fit, "train_batches", batches)
    year[0] *= -1
    for number, path in enumerate(sorted(tmp_path.rglob("*"))):
        os.utime(path, (real() + (-1) ** number * 1e7 * number,) * 2)
    loop.fit(scheme(), SOURCES, SETTINGS, tmp_path, toy.mesh(2), "toy")
    assert_same_end(tmp_path, unbroken)


def test_slow_data_change_nothing(unbroken, tmp_path, monkeypatch, capsys):
    """Every tenth batch comes a second late. Limit: 1 minute."""
    batches = fit.train_batches

    def slow(*args, **kwargs):
        for number, batch in enumerate(batches(*args, **kwargs)):
            time.sleep(1.0 if number % 10 == 5 else 0)
            yield batch

    monkeypatch.setattr(fit, "train_batches", slow)
    loop.fit(scheme(), SOURCES, SETTINGS, tmp_path, toy.mesh(2), "toy")
    assert_same_end(tmp_path, unbroken)
