"""What the reports of several tasks on pictures show alike: a picture as it is seen, a score by class."""

from __future__ import annotations

from typing import Any

import numpy as np

from kd_jax.types import Shown


def displayed(picture: np.ndarray) -> np.ndarray:
    """Returns a stored picture [H, W, C] as uint8 [H, W, 3]: its first channels, floats stretched to 0..255."""
    if picture.dtype != np.uint8:
        low, high = picture.min(), picture.max()
        picture = np.round(255 * (picture - low) / max(high - low, 1e-6)).astype(np.uint8)
    return np.repeat(picture[..., :1], 3, -1) if picture.shape[-1] < 3 else picture[..., :3]


def score_by_class(shown: Shown, metric: str, title: str, lead: str) -> list[dict[str, Any]]:
    """Returns the table of the test `metric`, a share for each class or None, by each network that has it."""
    measured = {role: (splits.get("test") or {}).get(metric) for role, splits in shown.scores.items()}
    tables = {role: values for role, values in measured.items() if values}
    if not tables:
        return []
    rows = [
        [str(name), *("-" if values[i] is None else f"{100 * values[i]:.1f}" for values in tables.values())]
        for i, name in enumerate(shown.source.class_names)
    ]
    return [{"kind": "table", "title": title, "lead": lead, "columns": ["class", *tables], "rows": rows}]
