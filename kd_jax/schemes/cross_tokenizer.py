"""Offline distillation between tokenizers: teacher and student read the same texts, each its own tokens."""

from __future__ import annotations

import dataclasses

from kd_jax.schemes import offline
from kd_jax.types import Parts, Scheme

READS = ("batch.teacher_tokens", "batch.teacher_segments")
SCORED = {"label": "teacher_label", "label_bytes": "teacher_label_bytes"}


def build(parts: Parts) -> Scheme:
    """Builds one stage in which the student learns from a teacher of another tokenizer, on data.text.cross.load's data.

    The teacher is scored on its own tokens and labels, which bits per byte compare with the student's; no token of one
    is ever compared with a number of the other, so the student has no reference. Raises ValueError without a teacher,
    and for data that have no tokens of a teacher.
    """
    if "teacher" not in parts.roles:
        raise ValueError("Distillation between tokenizers needs a teacher, and there is none.")
    source = parts.sources["train"]
    if "teacher_tokens" not in source.fields:
        raise ValueError(f"{source.name} has no tokens of the teacher's: data.name='data.text.cross.load' has them.")
    teacher = dataclasses.replace(parts.roles["teacher"], inputs=READS, scored=SCORED)
    scheme = offline.build(dataclasses.replace(parts, roles={**parts.roles, "teacher": teacher}))
    return dataclasses.replace(scheme, reference=None)
