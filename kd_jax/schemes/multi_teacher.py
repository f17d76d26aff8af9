"""Several frozen teachers at once: offline distillation that also scores the ensemble which the student replaces."""

from __future__ import annotations

import dataclasses

from kd_jax.resolve import near
from kd_jax.schemes import offline
from kd_jax.types import Parts, Scheme


def build(parts: Parts, ensemble: tuple[str, ...] = ()) -> Scheme:
    """offline.build; the student is compared with the averaged probabilities of `ensemble`.

    How the teachers are combined is said by the terms (losses.ensemble, losses.specialists, or a term a teacher).
    `ensemble` names frozen roles; by default those that the terms read. Hinton, Vinyals, Dean, "Distilling the
    Knowledge in a Neural Network", 2015, arXiv 1503.02531.
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
