"""Offline distillation into a student of several heads (DeiT's distillation token), each scored beside the whole."""

from __future__ import annotations

import dataclasses

from kd_jax.schemes import offline
from kd_jax.types import Parts, Scheme


def build(parts: Parts, heads: tuple[str, ...] = ("head", "head_distillation")) -> Scheme:
    """Builds offline distillation that also evaluates each of the student's taps `heads`, after their mean.

    Touvron et al., "Training data-efficient image transformers & distillation through attention" (DeiT), 2020,
    arXiv 2012.12877, compare the class token, the distillation token and both.
    """
    entries = tuple(f"student.features:{tap}" for tap in heads)
    return dataclasses.replace(offline.build(parts), evaluate=("student", *entries))
