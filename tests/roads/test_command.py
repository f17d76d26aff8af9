"""The command from any folder: lists, help, and a run with what the config file does not have."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def command(folder: Path, *arguments: str) -> str:
    """What launch.py prints, called in `folder`."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    line = [sys.executable, str(ROOT / "launch.py"), *arguments]
    ran = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_list_shows_every_config_and_its_words(tmp_path):
    shown = command(tmp_path, "--list").splitlines()
    for path in (ROOT / "configs").glob("*.py"):
        (line,) = (number for number, text in enumerate(shown) if text.startswith(f"{path}  "))
        assert len(shown[line]) > len(str(path)) + 20 and "tiny" in "".join(shown[line + 1 : line + 4])
    mine = tmp_path / "configs"
    mine.mkdir()
    (mine / "plain.py").write_text('"""Mine."""\nimport kd_jax\n\n\ndef get_config():\n    return kd_jax.base()\n')
    assert command(tmp_path, "--list").splitlines()[0] == "configs/plain.py  Mine."


def test_help_shows_the_flags(tmp_path):
    shown = command(tmp_path, "--help")
    for text in ("--list", "--config: configs/<file>.py", "--workdir:", "--sweep:", ":help"):
        assert text in shown


def test_help_shows_words_and_changed_fields(tmp_path):
    shown = command(tmp_path, "--config=cifar_resnet.py:digits,help")
    for text in (
        "DATA       cifar10 (default)",
        "data: cifar10 | cifar100 | fashion_mnist | digits",
        "KNOWLEDGE: supervised, kd,",
        "    train.steps = 800",
        "    terms.kd.kwargs = {'temperature': 4.0}",
        "    teacher.train.augment = ({'name': 'pad_crop', 'padding': 1},)",
    ):
        assert text in shown
    assert "train.batch_size" not in shown and not list(tmp_path.iterdir())


def test_a_run_from_another_folder_with_a_new_term_and_another_optimizer(tmp_path):
    net = "models.vision.cnn.cnn"
    command(
        tmp_path,
        "--config=cifar_resnet.py:digits,tiny",
        "--workdir=run",
        *(f"--config.{role}.model.name={net}" for role in ("student", "teacher")),
        *("--noconfig.report", "--noconfig.baseline", "--config.examples=0"),
        "--config.train.optimizer.name=adam",
        "--config.teacher.train.optimizer.kwargs.nesterov=true",
        "--config.terms.mine={'fn': 'losses.response.jsd_loss', 'inputs': ('student.logits',), "
        "'targets': ('teacher.logits',)}",
    )
    student, teacher = (
        json.loads((tmp_path / "run" / role / "config.json").read_text())["config"] for role in ("student", "teacher")
    )
    assert student["train"]["optimizer"]["name"] == "adam" and student["train"]["optimizer"]["kwargs"] == {}
    assert teacher["teacher"]["train"]["optimizer"]["kwargs"] == {"momentum": 0.9, "nesterov": True}
    assert student["terms"]["mine"]["weight"] == 1.0
    lines = (tmp_path / "run" / "student" / "metrics.jsonl").read_text().splitlines()
    assert any("mine" in line for line in lines)
