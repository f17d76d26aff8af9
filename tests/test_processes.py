"""Two processes on localhost get what one process gets, and stop together on SIGTERM."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import chex
import numpy as np
from test_resume import exports

HERE = Path(__file__).parent


def start(count: int, directory: Path) -> list[subprocess.Popen]:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    path = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(HERE / "worker.py"), str(port), str(count)]
    return [
        subprocess.Popen([*command, str(i), str(directory)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         text=True,
                         env={**os.environ, "PYTHONPATH": path})
        for i in range(count)
    ]  # fmt: skip


def finish(processes: list[subprocess.Popen]) -> list[str]:
    outputs = [p.communicate(timeout=300)[0] for p in processes]
    assert all(p.returncode == 0 for p in processes), "\n".join(outputs)
    return outputs


def test_two_processes_compute_what_one_does(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    finish(start(1, one))
    outputs = finish(start(2, two))
    assert "accuracy" in outputs[0] and "accuracy" not in outputs[1]  # one of them talks and writes
    ours, theirs = ([json.loads(line) for line in (d / "metrics.jsonl").read_text().splitlines()] for d in (one, two))
    assert [r["step"] for r in ours] == [r["step"] for r in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        np.testing.assert_allclose(
            [v for v in a.values() if not isinstance(v, str)],
            [v for v in b.values() if not isinstance(v, str)],
            rtol=1e-3,
            atol=1e-4,
        )
    chex.assert_trees_all_close(exports(one), exports(two), rtol=1e-3, atol=1e-4)


def test_sigterm_of_one_stops_both_at_the_same_step_and_they_resume(tmp_path):
    processes = start(2, tmp_path)
    while not (tmp_path / "metrics.jsonl").exists() or not (tmp_path / "metrics.jsonl").read_text():
        assert all(p.poll() is None for p in processes), [p.communicate()[0] for p in processes]
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGTERM)
    finish(processes)
    if not (tmp_path / "done.json").exists():  # else the toy run was quicker than the signal
        assert "resumed at step" in finish(start(2, tmp_path))[0]
    assert json.loads((tmp_path / "done.json").read_text())["last"]["step"] == 60


def test_launch_on_two_processes(tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    options = {"enabled": True, "coordinator_address": f"127.0.0.1:{port}", "num_processes": 2}
    command = [sys.executable, "launch.py", "--config=configs/cifar_resnet.py:digits,tiny"]
    small = {"student": "(4, 4, 4)", "teacher": "(4, 8, 8)"}
    for role, widths in small.items():
        command.append(f"--config.{role}.model.name=models.cnn.cnn")
        command.append(f"--config.{role}.model.kwargs={{'widths': {widths}}}")
    command += [f"--workdir={tmp_path}", *(f"--config.distributed.{k}={v}" for k, v in options.items())]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2"}
    processes = [
        subprocess.Popen([*command, f"--config.distributed.process_id={i}"], stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, text=True, cwd=HERE.parent, env=environment)
        for i in range(2)
    ]  # fmt: skip
    outputs = finish(processes)
    assert "Report:" in outputs[0] and "Report:" not in outputs[1]
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["device"].startswith("4 x") and results["models"]["student"]["last"]["step"] == 10
