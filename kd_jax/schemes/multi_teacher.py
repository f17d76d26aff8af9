"""Several frozen teachers at once: offline distillation that also scores the ensemble which the student replaces."""

from __future__ import annotations

import dataclasses

from kd_jax.resolve import near
from kd_jax.schemes import offline
from kd_jax.types import Parts, Scheme


def build(parts: Parts, ensemble: tuple[str, ...] = ()) -> Scheme:
    """Builds offline distillation whose reference is the mean of the probabilities of the frozen roles `ensemble`.

    `ensemble`=() stands for the frozen roles that the terms read. The terms combine the teachers (losses.ensemble,
    losses.specialists, or one term for each teacher). Raises ValueError for fewer than two teachers.
    Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv 1503.02531.
    """
    scheme = offline.build(parts)
    frozen = [name for name, role in parts.roles.items() if role.group is None]
    for name in ensemble:
        if name not in frozen:
            raise ValueError(f"ensemble: {name!r} is not a teacher. {near(name, frozen)}")
    called = [call.role for call in scheme.stages[0].phases[0].forward if call.role in frozen]
    teachers = tuple(ensemble) or tuple(called)
    if len(teachers) < 2:
        raise ValueError(f"Of several teachers the terms read {list(teachers)}; the teachers are {frozen}.")
    whole = "+".join(teachers)
    return dataclasses.replace(scheme, evaluate=("student", whole), reference=whole)
