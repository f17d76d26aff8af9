"""Runs of killable.py and worker.py that are stopped or damaged, and how their ends are compared."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import chex
import jax
import numpy as np
import several
import toy
from killable import scheme

from kd_jax.system.checkpoint import load_tree
from kd_jax.train import finish


def start(directory: Path, pause: float = 0.0) -> subprocess.Popen:
    return several.start_script("killable.py", directory, pause)


def command(*arguments: str) -> subprocess.Popen:
    """launch.py with the config of small_config.py; the first argument is its word."""
    word, *rest = arguments
    line = [
        sys.executable,
        str(several.ROOT / "launch.py"),
        f"--config={several.HELPERS / 'small_config.py'}{word}",
        *rest,
    ]
    pipe = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return subprocess.Popen(line, cwd=several.ROOT, env={**several.ENVIRONMENT, "PYTHONUNBUFFERED": "1"}, **pipe)


def wait_for(process: subprocess.Popen, word: str, count: int) -> None:
    lines = []
    for line in process.stdout:
        lines.append(line)
        count -= word in line
        if count == 0:
            return
    raise AssertionError(f"the run ended with {process.wait()} before {word}: {''.join(lines)}")


def exports(directory: Path, member: str = "") -> dict:
    """Returns parameters and stats of the last step and the best; `member` is a student of several, by number."""
    role = scheme().roles["student"]
    params, stats = jax.eval_shape(
        role.model.init, jax.random.key(0), jax.ShapeDtypeStruct((8, toy.FEATURES), np.float32)
    )
    folder = directory / "export" / member
    return {w: load_tree(folder / w / "student", finish.exported(params, stats)) for w in ("last", "best")}


def assert_same_end(directory: Path, unbroken: Path) -> None:
    assert (directory / "metrics.jsonl").read_bytes() == (unbroken / "metrics.jsonl").read_bytes()
    chex.assert_trees_all_equal(exports(directory), exports(unbroken))
    ours, theirs = (json.loads((d / "done.json").read_text()) for d in (directory, unbroken))
    assert ours["last"] == theirs["last"] and ours["best"] == theirs["best"]


def cut(path: Path) -> None:
    largest = max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def flip(path: Path) -> None:
    largest = max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(bytes(data))


def lines(directory: Path) -> list[dict]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def assert_close(one: Path, other: Path, members: Sequence[str] = ("",)) -> None:
    for a, b in zip(lines(one), lines(other), strict=True):
        assert a.keys() == b.keys() and a["step"] == b["step"]
        for name, value in a.items():
            if not isinstance(value, str):
                np.testing.assert_allclose(value, b[name], rtol=1e-3, atol=1e-4, err_msg=name)
    for member in members:
        chex.assert_trees_all_close(exports(one, member), exports(other, member), rtol=1e-3, atol=1e-4)
