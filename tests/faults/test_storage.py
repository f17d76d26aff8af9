"""What a broken disk does to a run: full, read-only, with damaged files. Each test ends within two minutes.

Nothing saved is lost: with the fault mended, the same command ends in the same bytes as a run that had none.
"""

import json
import os
import subprocess

import chex
import pytest
import toy
from interrupted import assert_same_end, command, wait_for
from interrupted import start as begin
from killable import SETTINGS, SOURCES, scheme

from kd_jax.system import workdir
from kd_jax.system.checkpoint import Checkpoints
from kd_jax.train import loop, teachers

pytestmark = pytest.mark.slow


def mount(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True).returncode == 0


@pytest.fixture
def disk(tmp_path):
    """A file system of its own in memory, of 64 MB."""
    path = tmp_path / "disk"
    path.mkdir()
    if os.geteuid() or not mount("-t", "tmpfs", "-o", "size=64m", "tmpfs", str(path)):
        pytest.skip("needs the right to mount a file system")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def fit(directory):
    return loop.fit(scheme(), SOURCES, SETTINGS, directory, toy.mesh(2), "toy")


def test_a_full_disk_ends_the_run_with_a_message_and_loses_nothing_saved(disk, unbroken):
    run = disk / "run"
    process = begin(run, 0.05)
    wait_for(process, "SAVE", 2)
    wait_for(process, "STEP", 3)
    filler = disk / "filler"
    with open(filler, "wb", buffering=0) as f, pytest.raises(OSError):
        while True:
            f.write(b"0" * 4096)
    output = process.communicate(timeout=120)[0]
    assert process.returncode != 0
    assert "kd_jax.files.DiskFull: No space left on device. Nothing saved is lost: make room" in output
    filler.unlink()
    assert Checkpoints(run / "checkpoints", 2).steps()[-1] >= 10
    fit(run)
    assert_same_end(run, unbroken)


def test_a_command_says_last_that_the_disk_is_full(disk):
    process = command(":long", f"--workdir={disk / 'run'}")
    wait_for(process, "teacher", 3)
    with open(disk / "filler", "wb", buffering=0) as f, pytest.raises(OSError):
        while True:
            f.write(b"0" * 4096)
    *_, message, hint = process.communicate(timeout=120)[0].strip().splitlines()
    assert process.returncode == 1 and hint == "(KD_JAX_TRACEBACK=1 shows where.)"
    assert message == (
        "DiskFull: No space left on device. Nothing saved is lost: make room, and the same command goes on from the "
        "last checkpoint."
    )


def test_a_read_only_folder_is_refused_at_once(disk):
    assert mount("-o", "remount,ro", str(disk))
    with pytest.raises(OSError, match="A run cannot write into .*run .Read-only file system.: choose another"):
        fit(disk / "run")
    mount("-o", "remount,rw", str(disk))


def stopped(directory):
    """A run that was stopped after step 24 at the earliest."""
    process = begin(directory, 0.01)
    wait_for(process, "STEP", 24)
    process.kill()
    process.communicate()


@pytest.mark.parametrize("half", [b'{"step": 28, "kind": "tr', b"\x00" * 512])
def test_half_a_line_in_the_metrics_is_cut(half, unbroken, tmp_path):
    stopped(tmp_path)
    with open(tmp_path / "metrics.jsonl", "ab") as f:
        f.write(half)
    fit(tmp_path)
    assert_same_end(tmp_path, unbroken)


def test_a_damaged_line_in_the_middle_of_the_metrics_is_named(tmp_path):
    stopped(tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_bytes(b"".join([lines[0][: len(lines[0]) // 2] + b"\n", *lines[1:]]))
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 1: expected a JSON object"):
        fit(tmp_path)


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: bytes([b[0] ^ 1]) + b[1:]])
def test_a_damaged_done_json_is_made_again_from_the_checkpoints(damage, tmp_path, capsys):
    from kd_jax.train.jobs import Job

    first = fit(tmp_path)
    done = tmp_path / "done.json"
    done.write_bytes(damage(done.read_bytes()))
    job = Job("toy", scheme(), SOURCES, SETTINGS, tmp_path, {})
    again = teachers.finish_or_resume(job, toy.mesh(2))
    chex.assert_trees_all_equal(first["last"], again["last"])
    assert json.loads(done.read_text())["best"] == first["best"]
    assert "done.json cannot be read" in capsys.readouterr().out


def test_a_damaged_config_json_is_refused_with_its_name(tmp_path):
    workdir.claim(tmp_path, {"a": 1})
    path = tmp_path / "config.json"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match="config.json is not the config of a run"):
        workdir.check_configs({tmp_path: {"a": 1}})
