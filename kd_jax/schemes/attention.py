"""Offline distillation into a student of several heads (DeiT's distillation token), each scored beside the whole."""

from __future__ import annotations

import dataclasses

from kd_jax.ranges import BelowOne
from kd_jax.schemes import offline
from kd_jax.schemes.average_teacher import AVERAGE, averaging
from kd_jax.types import Parts, Scheme


def build(
    parts: Parts, heads: tuple[str, ...] = ("head", "head_distillation"), average: BelowOne[float] = 0.0
) -> Scheme:
    """Builds offline distillation that also evaluates each of the student's taps `heads`, after their mean.

    With `average`, a decay, the running average of the student's weights is evaluated as "average": a plain mean at
    first, then average = decay average + (1 - decay) student. Touvron et al., "Training data-efficient image
    transformers & distillation through attention" (DeiT), 2020, arXiv 2012.12877, compare the class token, the
    distillation token and both; their code keeps such an average, of decay 0.99996, beside the network.
    """
    entries = tuple(f"student.features:{tap}" for tap in heads)
    scheme = dataclasses.replace(offline.build(parts), evaluate=("student", *entries))
    if not average:
        return scheme
    if AVERAGE in parts.roles:
        raise ValueError(f"The role {AVERAGE!r} is made by the scheme: config.roles needs another name.")
    roles = {**scheme.roles, AVERAGE: dataclasses.replace(parts.roles["student"], group=AVERAGE, initial="student")}
    stages = tuple(dataclasses.replace(stage, post_update=averaging(average)) for stage in scheme.stages)
    return dataclasses.replace(scheme, roles=roles, stages=stages, evaluate=(*scheme.evaluate, AVERAGE))
