"""An installed wheel runs the main job from another folder, and asks for no more than running needs."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_extra_for_tests_is_what_requirements_txt_has_below():
    below = ROOT.joinpath("requirements.txt").read_text().partition("\n# Tests")[2].splitlines()[1:]
    assert (
        tomllib.loads(ROOT.joinpath("pyproject.toml").read_text())["project"]["optional-dependencies"]["test"] == below
    )


@pytest.mark.slow  # builds a wheel, which fetches setuptools
def test_an_installed_wheel_runs_the_main_job_from_another_folder(tmp_path):
    source, installed, folder = tmp_path / "source", tmp_path / "venv", tmp_path / "elsewhere"
    source.mkdir()
    for name in ("kd_jax", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", str(source), "-w", str(tmp_path)], check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(installed, with_pip=False)
    subprocess.run([*pip, "--python", str(installed), "install", "--no-deps", str(wheel)], check=True, timeout=300)
    (packages,) = installed.glob("lib/python*/site-packages")
    (packages / "shared.pth").write_text(sysconfig.get_path("purelib"))  # JAX and all else, without the checkout
    folder.mkdir()
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": ""}

    def run(*line: str) -> str:
        ran = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    python, command = installed / "bin" / "python", str(installed / "bin" / "kd-jax")
    where = run(str(python), "-c", "import kd_jax; print(kd_jax.__file__)")
    assert Path(where.strip()).is_relative_to(packages) and (packages / "kd_jax" / "py.typed").exists()
    assert "cifar_resnet.py  ResNet56" in run(command, "--list")
    run(command, "--config=cifar_resnet.py:digits,tiny", "--workdir=run")
    results = json.loads((folder / "run" / "results.json").read_text())
    assert set(results["models"]) == {"teacher", "baseline", "student"} and "kd-jax" in results["command"]
    needs = run(str(python), "-c", "from importlib.metadata import requires; print(*requires('kd_jax'), sep='\\n')")
    hard = [line for line in needs.splitlines() if "extra ==" not in line]
    assert any(line.startswith("jax") for line in hard) and not any("pytest" in line or "chex" in line for line in hard)
