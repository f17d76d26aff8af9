"""What a loss says of itself, for those who choose what it is given."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

Loss = TypeVar("Loss", bound=Callable)


def reads_every_logit(loss: Loss) -> Loss:
    """Marks a loss that reads every logit; the teacher's k largest and the sum of the others are not enough for it."""
    loss.reads_every_logit = True  # type: ignore[attr-defined]
    return loss


def by_token(loss: Loss) -> Loss:
    """Marks a loss or metric of logits whose value at a token depends on that token's logits and targets alone.

    A step then builds the logits of a large vocabulary for a chunk of tokens at a time (kd_jax/core/chunked.py).
    """
    loss.by_token = True  # type: ignore[attr-defined]
    return loss


def is_by_token(loss: Callable) -> bool:
    """Returns whether `by_token` marks the loss, also with arguments bound by functools.partial."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    return getattr(loss, "by_token", False)


def static_options(*names: str) -> Callable[[Loss], Loss]:
    """Marks a loss with options, numbers among them, that shape its computation: a step takes them as they are.

    All other numbers of a term are traced, so that changing them never recompiles.
    """

    def mark(loss: Loss) -> Loss:
        loss.static_options = frozenset(names)  # type: ignore[attr-defined]
        return loss

    return mark


def static_options_of(loss: Callable) -> frozenset[str]:
    """Returns the options that `static_options` marks, also of a loss with arguments bound by functools.partial."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    return getattr(loss, "static_options", frozenset())


def needs_every_logit(loss: Callable) -> bool:
    """Returns whether `reads_every_logit` marks the loss, also with arguments bound by functools.partial."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    return getattr(loss, "reads_every_logit", False)
