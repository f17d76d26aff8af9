"""How a published vision network wants its images, from the files of its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def preparation(path: str) -> dict[str, Any]:
    raise NotImplementedError


def written(prepared: Mapping[str, Any]) -> dict[str, Any]:
    raise NotImplementedError
