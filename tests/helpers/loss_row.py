"""What a row of the table of losses says of its loss, and the inputs that rows share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

B, C = 4, 5


@dataclasses.dataclass(frozen=True)
class Row:
    """`fn(student, teacher, **extras, **options)`; extras have one entry an example, options are traced floats."""

    fn: Callable[..., jax.Array]
    student: Any  # a shape, or a tuple of shapes
    teacher: Any = None  # as the student where None
    extras: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    options: dict[str, float] = dataclasses.field(default_factory=dict)
    equal: str = "zero"  # at student == teacher: "zero" (value and gradient), "minimum" (gradient), "anything"
    positive: bool = True
    where: bool = False
    logits: bool = False  # one value for each position, and huge entries are tried
    impossible: bool | None = None  # classes of logit -inf may be added; None: as `logits` (not where arrays name each)
    axes: int = 1  # the trailing axes of logits that one value is about: 2 where it is about all peers or views
    invariant: tuple[str, ...] = ()
    mismatch: bool = True  # a teacher with another batch size raises ValueError that names both shapes

    @property
    def twins(self) -> bool:
        return self.teacher is None


def logits_row(fn, *invariant, options=None, shape=(B, C), **kwargs) -> Row:
    options = {"temperature": 2.0} if options is None else options
    return Row(fn, shape, options=options, logits=True, invariant=("shift_rows", *invariant), **kwargs)


LABELS = {"labels": np.array([0, 2, -1, 4], np.int32)}
MAP, SMALL = (B, 4, 4, 3), (B, 3, 2, 5)


def two_teachers(fn):
    return lambda s, t, **kwargs: fn(s, t, 0.5 * t + 0.1, **kwargs)
