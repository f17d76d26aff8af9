"""An output that nobody reads any more, as behind `| head`: the command ends, with no page about it."""

import os
import subprocess
import sys

import pytest
from several import ENVIRONMENT, HELPERS, ROOT

CONFIG = f"--config={HELPERS / 'small_config.py'}"


def cut_off(*arguments: str) -> tuple[int, str]:
    """(status, standard error) of a command whose output is closed after its first line."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "launch.py"), *arguments],
        cwd=ROOT,
        env={**ENVIRONMENT, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    return process.wait(), errors


def test_a_training_ends_and_says_so(tmp_path):
    status, errors = cut_off(f"{CONFIG}:long", f"--workdir={tmp_path}")
    assert status == 141 and errors.strip() == "Nobody reads the output: ended. The same command goes on where it was."


@pytest.mark.parametrize("arguments", [["--list"], [f"{CONFIG}:help"], ["--help"]])
def test_what_is_only_shown_ends_in_silence(arguments):
    """The pipe is closed before anything is printed."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, str(ROOT / "launch.py"), *arguments]
    ended = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert ended.returncode == 141 and not ended.stderr, ended.stderr
