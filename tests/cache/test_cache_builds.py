"""Caches built by processes: killed and started again, several at once, from the command line."""

import os
import random
import signal
import subprocess
import sys

import chex
import pytest
from cached_run import contents, student
from several import ROOT, finish, start

from kd_jax.data import answers


def test_a_build_that_is_killed_goes_on_and_ends_in_the_same_bytes(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    output = finish(start("cached_run.py", 1, whole, 0.0, "build"))[0]
    chunks = output.count("CHUNK")
    assert chunks == 2 + 13 + 1
    moments = [random.Random(int.from_bytes(os.urandom(4), "big")).randint(1, 7) for _ in range(2)]
    for count in moments:
        (process,) = start("cached_run.py", 1, killed, 0.05, "build")
        for line in process.stdout:
            count -= "CHUNK" in line
            if count == 0:
                process.send_signal(signal.SIGKILL)
                break
        process.communicate()
        assert process.returncode == -signal.SIGKILL, moments
    output = finish(start("cached_run.py", 1, killed, 0.0, "build"))[0]
    assert output.count("CHUNK") <= chunks - sum(moments), moments
    assert contents(killed / "cache") == contents(whole / "cache"), moments


@pytest.mark.slow  # four processes
def test_two_processes_build_together_and_train_as_one(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    finish(start("cached_run.py", 1, one, 0.0, "train"))
    outputs = finish(start("cached_run.py", 2, two, 0.0, "train"))
    assert all(output.count("CHUNK") >= 8 for output in outputs)  # both wrote
    for split in ("train", "validation", "test"):
        ours, theirs = (answers.open_answers(d / "cache" / split).whole() for d in (one, two))
        chex.assert_trees_all_close(ours, theirs, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(student(one / "run"), student(two / "run"), rtol=1e-3, atol=1e-4)


def test_the_command_line_builds_alone(tmp_path):
    command = [sys.executable, "launch.py", "--config=configs/cifar_resnet.py:digits,tiny", f"--workdir={tmp_path}"]
    for role, widths in (("student", "(4, 4, 4)"), ("teacher", "(4, 8, 8)")):
        command += [
            f"--config.{role}.model.name=models.vision.cnn.cnn",
            f"--config.{role}.model.kwargs={{'widths': {widths}}}",
        ]
    command += ["--config.teacher.cache.directory=auto", "--config.teacher.cache.k=3", "--build_cache"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    assert "ids 6, log_probs 12, tail 4" in process.stdout and not (tmp_path / "student").exists()
    (folder,) = (tmp_path / "teacher" / "cache").iterdir()
    assert {p.name for p in folder.iterdir() if p.is_dir()} >= {"train", "test"}
