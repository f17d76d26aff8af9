"""The loss library: one file a family, each loaded when it is first used. `kd_jax.losses.response.kd_loss(s, t)`."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType


def __getattr__(name: str) -> ModuleType:
    if name not in _families():
        raise AttributeError(f"module 'kd_jax.losses' has no family {name!r}. It has: {', '.join(_families())}.")
    return importlib.import_module(f"kd_jax.losses.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_families()})


def _families() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]
