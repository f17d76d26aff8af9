"""Losses of sequences whose logits are built for a few tokens at a time, twice: first what each token alone says.

A loss marked by `in_two_passes` is computed so by kd_jax/core/chunked.py, where networks tap how their logits are
built: `first` gives values by token, `between` makes of them what a token needs of the others, and `last` is a loss by
token that reads this. Called with logits it is the plain loss.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax

from kd_jax.losses._numerics import log_probs, squared, to_float
from kd_jax.losses._sequences import both_sampled, of_counted, position_weights, weighted, weights_and_rewards
from kd_jax.losses.needs import by_token
from kd_jax.losses.task import pick_label

Array = jax.Array
Loss = TypeVar("Loss", bound=Callable)


class Passes(NamedTuple):
    """The parts of a loss(*arguments, **options), which all take its arguments and options; first and last by token.

    first: {name: fn -> [n]}; between: (their values {name: [batch, length]}, *arguments, **options) -> {option:
    [batch, length]}, without gradients; last: fn(*arguments, **options, and these) -> [n].
    """

    first: Mapping[str, Callable[..., Array]]
    between: Callable[..., dict[str, Array]]
    last: Callable[..., Array]


def in_two_passes(passes: Passes) -> Callable[[Loss], Loss]:
    """Marks a loss that `passes` compute too."""

    def mark(loss: Loss) -> Loss:
        loss.passes = passes  # type: ignore[attr-defined]
        return loss

    return mark


def passes_of(loss: Callable) -> Passes | None:
    """Returns the passes of a loss that has some, also with arguments bound by functools.partial."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    return getattr(loss, "passes", None)


@by_token
def _student(student_logits: Array, teacher_logits: Array, labels: Array, **_: Any) -> Array:
    return pick_label(log_probs(*to_float(student_logits)), labels)


@by_token
def _teacher(student_logits: Array, teacher_logits: Array, labels: Array, **_: Any) -> Array:
    return pick_label(log_probs(*to_float(teacher_logits)), labels)


def _weights_and_rewards(
    values: Mapping[str, Array], student: Any, teacher: Any, labels: Array, *, mix: Array | float = 0.2, **_: Any
) -> dict[str, Array]:
    importance, later = weights_and_rewards(values["student"], values["teacher"], labels >= 0, mix)
    return {"importance": importance, "later": later}


@by_token
def _weighted(
    student_logits: Array,
    teacher_logits: Array,
    labels: Array,
    *,
    importance: Array,
    later: Array,
    long: Array | float = 1.0,
    **_: Any,
) -> Array:
    log_s, log_t = (log_probs(x) for x in to_float(student_logits, teacher_logits))
    return weighted(log_s, log_t, labels, importance, later, long)


# MiniLLM's, on_policy.sequence_reverse_kl_loss: a token's weight is of its own, and its reward of those after it.
BY_SEQUENCE = Passes({"student": _student, "teacher": _teacher}, _weights_and_rewards, _weighted)

OF_POSITIONS = "position_weighted_loss"


@by_token
def _log_q(student_logits: Array, teacher_logits: Array, labels: Array, *, temperature: Any = 1.0, **_: Any) -> Array:
    return both_sampled(OF_POSITIONS, student_logits, teacher_logits, labels, temperature)[0]


@by_token
def _log_p(student_logits: Array, teacher_logits: Array, labels: Array, *, temperature: Any = 1.0, **_: Any) -> Array:
    return both_sampled(OF_POSITIONS, student_logits, teacher_logits, labels, temperature)[1]


def _position_weights(
    values: Mapping[str, Array],
    student: Any,
    teacher: Any,
    labels: Array,
    *,
    rollout_log_probs: Array | None = None,
    gamma: Array | float = 0.5,
    where: Array | None = None,
    **_: Any,
) -> dict[str, Array]:
    counted = of_counted(labels, where) >= 0
    weights = position_weights(OF_POSITIONS, values["log_q"], values["log_p"], counted, rollout_log_probs, gamma)
    return {"weights": weights}


@by_token
def _by_position(
    student_logits: Array,
    teacher_logits: Array,
    labels: Array,
    *,
    weights: Array,
    temperature: Array | float = 1.0,
    **_: Any,
) -> Array:
    log_q = both_sampled(OF_POSITIONS, student_logits, teacher_logits, labels, temperature)[0]
    return -squared(temperature, log_q) * weights * log_q


# on_policy.position_weighted_loss: a token's weight is how far the networks had parted before it.
BY_POSITION = Passes({"log_q": _log_q, "log_p": _log_p}, _position_weights, _by_position)
