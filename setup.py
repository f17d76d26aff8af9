"""What pyproject.toml cannot say: in a wheel the configs lie inside the package, and what only tests need stays out."""

from pathlib import Path

from setuptools import find_packages, setup

running, _, _ = Path(__file__).with_name("requirements.txt").read_text(encoding="utf-8").partition("\n# Tests")
setup(
    packages=[*find_packages(include=["kd_jax*"]), "kd_jax._configs"],
    package_dir={"kd_jax._configs": "configs"},
    install_requires=[line for line in running.splitlines() if line and not line.startswith("#")],
)
