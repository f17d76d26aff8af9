"""SimKD (Chen et al. 2022, arXiv 2203.14001): offline distillation into a student that keeps the teacher's head."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from kd_jax.core.paths import Path
from kd_jax.models.reused_head import ReusedHead
from kd_jax.schemes import offline
from kd_jax.system import precision
from kd_jax.types import Parts, Scheme, TrainState


def build(parts: Parts) -> Scheme:
    """Builds offline distillation that copies the teacher's head into the student when training starts.

    Raises ValueError unless exactly one term goes from "student.features:projected" to a feature map of the teacher.
    """
    roles, terms = parts.roles, parts.terms
    if "teacher" not in roles:
        raise ValueError("SimKD reuses the teacher's head, and there is no teacher.")
    maps = [Path.parse(p).tap for t in terms.values() for p in t.targets if "student.features:projected" in t.inputs]
    if len(maps) != 1:
        raise ValueError(f"SimKD wants one term from 'student.features:projected' to a map of the teacher, got {maps}.")
    model = ReusedHead(roles["student"].model, roles["teacher"].model, maps[0])
    student = dataclasses.replace(roles["student"], model=model)
    scheme = offline.build(dataclasses.replace(parts, roles={**roles, "student": student}))

    def copy_head(state: TrainState) -> TrainState:
        student = state.stats["student"]
        # Copies, laid out as the zeros were: the teacher's own buffers are donated with the state.
        head = jax.tree.map(
            lambda new, old: jax.device_put(jnp.copy(new), old.sharding),
            precision.restored(state.frozen["teacher"][0]["head"]),
            student["head"],
        )
        return state.replace(stats={**state.stats, "student": {**student, "head": head}})

    stage = dataclasses.replace(scheme.stages[0], on_enter=copy_head)
    return dataclasses.replace(scheme, stages=(stage,), copies=("teacher",))
