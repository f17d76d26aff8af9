"""kd_jax: knowledge distillation in JAX. The names that a user types; each is loaded when it is first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from kd_jax import requirements

if TYPE_CHECKING:
    from kd_jax import config, data, losses, models, report
    from kd_jax.cache.stored import from_answers
    from kd_jax.config.fields import base
    from kd_jax.config.knowledge import compose
    from kd_jax.data.arrays import from_arrays
    from kd_jax.data.images.folder import from_folder
    from kd_jax.models.adapters import FunctionModel, LinenModel, NNXModel, print_taps
    from kd_jax.train.run import run
    from kd_jax.types import Call, Outputs, Phase, Role, Scheme, Stage, Task, Term

__version__ = "0.1.0"

# Name -> the module that has it. Loaded late, so that kd_jax.losses works without flax, orbax and ml_collections.
_HOME = {
    **dict.fromkeys(("Term", "Role", "Call", "Phase", "Stage", "Scheme", "Task", "Outputs"), "kd_jax.types"),
    **dict.fromkeys(("LinenModel", "NNXModel", "FunctionModel", "print_taps"), "kd_jax.models.adapters"),
    "base": "kd_jax.config.fields",
    "compose": "kd_jax.config.knowledge",
    "from_answers": "kd_jax.cache.stored",
    "from_arrays": "kd_jax.data.arrays",
    "from_folder": "kd_jax.data.images.folder",
    "run": "kd_jax.train.run",
}
_ROOMS = ("config", "data", "losses", "models", "report")

__all__ = [
    "Call",
    "FunctionModel",
    "LinenModel",
    "NNXModel",
    "Outputs",
    "Phase",
    "Role",
    "Scheme",
    "Stage",
    "Task",
    "Term",
    "__version__",
    "base",
    "compose",
    "config",
    "data",
    "from_answers",
    "from_arrays",
    "from_folder",
    "losses",
    "models",
    "print_taps",
    "report",
    "run",
]


def __getattr__(name: str) -> Any:
    if name != "losses":
        requirements.check()
    if name in _ROOMS:
        return importlib.import_module(f"kd_jax.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'kd_jax' has no attribute {name!r}. It has: {', '.join(__all__)}.")
    value = globals()[name] = getattr(importlib.import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
