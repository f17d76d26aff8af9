"""What a loss says of itself, for those who choose what it is given."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

Loss = TypeVar("Loss", bound=Callable)


def reads_every_logit(loss: Loss) -> Loss:
    """Marks a loss that reads every logit alike: a teacher's k largest ones, and the sum of the others, do not do."""
    loss.reads_every_logit = True  # type: ignore[attr-defined]
    return loss


def needs_every_logit(loss: Callable) -> bool:
    """Whether `reads_every_logit` marks the loss, also with arguments bound by functools.partial."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    return getattr(loss, "reads_every_logit", False)
