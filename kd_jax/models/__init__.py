"""Networks: adapters of the user's, connectors, wrappers, and architectures. Names that a user types, loaded late."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kd_jax.models.host import host_model

__all__ = ["host_model"]


def __getattr__(name: str) -> Any:
    if name != "host_model":
        raise AttributeError(f"module 'kd_jax.models' has no attribute {name!r}")
    from kd_jax.models import host

    return host.host_model
