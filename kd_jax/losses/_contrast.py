"""What the banks and the queues of CRD have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from kd_jax.losses.representation import contrastive_constant

Array = jax.Array


def contrastive_constants(
    student: Array,
    teacher: Array,
    banks: Mapping[str, Array],
    stored: Mapping[str, Any],
    index: Array,
    negatives: Array,
    temperature: float,
    where: Array | None = None,
) -> dict[str, Array]:
    """Returns {"student_constant", "teacher_constant"}, Z of CRD: as `stored`, or of this batch where that is 0.

    `banks` {"student", "teacher"} are [rows, width]; each side is compared with the other's.
    """
    constants = {}
    for side, anchor, bank in (("student", student, banks["teacher"]), ("teacher", teacher, banks["student"])):
        fresh = contrastive_constant(anchor, bank, index, negatives, temperature=temperature, where=where)
        before = stored[f"{side}_constant"]
        constants[f"{side}_constant"] = jnp.where(before > 0, before, fresh)
    return constants
