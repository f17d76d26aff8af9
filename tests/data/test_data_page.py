"""The code and the command of docs/data.md run as they stand, with fewer steps."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from digits_on_disk import class_folders

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "data.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.M | re.S)


@pytest.fixture
def here(tmp_path, monkeypatch):
    class_folders(tmp_path / "pictures", {"train": 120, "test": 40}, size=24)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("code", blocks("python"), ids=["pictures", "answers"])
def test_code(here, code):
    names: dict = {}
    exec(code.replace("= 300", "= 4\nconfig.report = config.baseline = False"), names)
    scores = names["results"]["models"]
    assert 0 <= scores["student"]["last"]["test"]["accuracy"] <= 1
    if "forest" in names:
        assert scores["teacher"]["last"]["test"]["accuracy"] == names["forest"].score(
            names["x"][1400:], names["y"][1400:]
        )


def test_command(here):
    (line,) = blocks("sh")
    _, *words = shlex.split(line.replace("\\\n", " "))
    few = ["--config.train.steps=2", "--config.teacher.train.steps=2", "--noconfig.report", "--noconfig.baseline"]
    few += [f"--config.{role}.model.name=models.vision.cnn.cnn" for role in ("student", "teacher")]
    words[0] = str(ROOT / words[0])
    ran = subprocess.run(
        [sys.executable, *words, *few], env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert (here / "runs/mine/results.json").exists()
