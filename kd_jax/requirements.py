"""The versions without which nothing works, told in one line before an import or an attribute fails far inside."""

from __future__ import annotations

import re
from importlib import metadata

LEAST = {"jax": "0.10.2", "flax": "0.12.8", "optax": "0.2.8", "orbax-checkpoint": "0.12.8"}  # as in requirements.txt


def check() -> None:
    """Raises ImportError where a package is missing or older than the code needs."""
    for package, least in LEAST.items():
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            raise ImportError(f"kd_jax needs {package}>={least}, which is not installed: {_command()}") from None
        if _numbers(version) < _numbers(least):
            raise ImportError(f"kd_jax needs {package}>={least}; {version} is installed: {_command()}")


def _command() -> str:
    return "pip install -U " + " ".join(f"'{package}>={least}'" for package, least in LEAST.items())


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version.partition("+")[0])[:3]]
