"""Processes on localhost get what one process gets, stop together on SIGTERM, and end together when one fails."""

import json
import signal
import subprocess
import sys
import time

import chex
import pytest
from interrupted import assert_close, exports, flip, lines
from several import ENVIRONMENT, ROOT, finish, free_port, start

from kd_jax.system import heartbeat


def test_two_processes_compute_what_one_does(unbroken, tmp_path):
    outputs = finish(start("worker.py", 2, tmp_path))
    assert "accuracy" in outputs[0] and "accuracy" not in outputs[1]  # one of them talks and writes
    assert_close(unbroken, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("students", [4, 3])
def test_students_that_share_a_program_are_spread_over_processes(students, tmp_path):
    """Four on four devices, whole ones on each; three share every batch instead."""
    one, two = tmp_path / "one", tmp_path / "two"
    for directory, count in ((one, 1), (two, 2)):
        finish(start("worker.py", count, directory, 0, 30, "", students))
    assert len(lines(two)[0]["loss"]) == students
    assert_close(one, two, [str(i) for i in range(students)])


def test_sigterm_of_one_stops_both_and_they_resume_beyond_a_damaged_checkpoint(tmp_path):
    """The newest checkpoint, of the step at which both stopped, has a flipped bit: both take the one before."""
    processes = start("worker.py", 2, tmp_path, 0.3)  # slow enough that the signal comes before the end
    while not (tmp_path / "checkpoints/10").exists():
        assert all(p.poll() is None for p in processes), [p.communicate()[0] for p in processes]
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGTERM)
    finish(processes)
    assert not (tmp_path / "done.json").exists()
    *_, before, newest = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    flip(tmp_path / "checkpoints" / str(newest))
    outputs = finish(start("worker.py", 2, tmp_path))
    assert f"Checkpoint {newest}" in outputs[0] and f"resumed at step {before}" in outputs[0]
    assert (tmp_path / "damaged" / str(newest)).exists()
    assert json.loads((tmp_path / "done.json").read_text())["last"]["step"] == 60


def test_an_error_of_one_ends_both_and_says_why(tmp_path):
    began = time.monotonic()
    processes = start("worker.py", 2, tmp_path, 0.05, 60, 5)
    outputs = [p.communicate(timeout=120)[0] for p in processes]
    assert time.monotonic() - began < 100  # start and all: neither the heartbeat nor JAX's barrier was waited for
    assert "OSError: the disk of this host is gone" in outputs[1] and processes[0].returncode == 1
    assert "Process 1 failed with OSError: the disk of this host is gone. Process 0 ends too." in outputs[0]


def test_silence_is_noticed_by_ones_own_clock():
    now = [0.0]
    reports = heartbeat.PeerReports(0, 10.0, lambda: now[0])
    for beat in range(8):
        now[0] = 5.0 * beat
        assert reports.problem({0: "alive 0", 1: f"alive {beat}"}) == ""  # its own line is not read
    now[0] += 9
    assert reports.problem({0: "alive 0", 1: "alive 7"}) == ""
    now[0] += 2
    assert "Process 1 gave no sign of life for 11 s" in reports.problem({0: "alive 0", 1: "alive 7"})
    assert reports.problem({0: "alive 0", 1: heartbeat.LEAVING}) == ""  # it waits for the others, and says no more
    assert reports.problem({1: "failed with ValueError: no"}) == "Process 1 failed with ValueError: no."


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 4), (4, 4)])
def test_a_run_goes_on_with_another_number_of_processes(before, after, tmp_path):
    """And with it another mesh: each process has two devices. On the same one, bit for bit."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(start("worker.py", after if before == after else 1, whole))
    processes = start("worker.py", before, broken, 0.3)  # slow enough that the signal comes before the end
    while len((broken / "metrics.jsonl").read_text().splitlines() if (broken / "metrics.jsonl").exists() else []) < 4:
        assert all(p.poll() is None for p in processes), [p.communicate()[0] for p in processes]
        time.sleep(0.02)
    processes[-1].send_signal(signal.SIGTERM)
    finish(processes)
    assert not (broken / "done.json").exists()
    assert "resumed at step" in finish(start("worker.py", after, broken))[0]
    assert_close(whole, broken)
    if before == after:
        assert (whole / "metrics.jsonl").read_bytes() == (broken / "metrics.jsonl").read_bytes()
        chex.assert_trees_all_equal(exports(whole), exports(broken))


def test_launch_on_two_processes(tmp_path):
    options = {"enabled": True, "coordinator_address": f"127.0.0.1:{free_port()}", "num_processes": 2}
    command = [sys.executable, "launch.py", "--config=configs/cifar_resnet.py:digits,tiny"]
    small = {"student": "(4, 4, 4)", "teacher": "(4, 8, 8)"}
    for role, widths in small.items():
        command.append(f"--config.{role}.model.name=models.vision.cnn.cnn")
        command.append(f"--config.{role}.model.kwargs={{'widths': {widths}}}")
    command += [f"--workdir={tmp_path}", *(f"--config.distributed.{k}={v}" for k, v in options.items())]
    environment = {**ENVIRONMENT, "JAX_NUM_CPU_DEVICES": "2"}
    processes = [
        subprocess.Popen(
            [*command, f"--config.distributed.process_id={i}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env=environment,
        )
        for i in range(2)
    ]
    outputs = finish(processes)
    assert "Report:" in outputs[0] and "Report:" not in outputs[1]
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["device"].startswith("4 x") and results["models"]["student"]["last"]["step"] == 10
