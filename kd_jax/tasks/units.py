"""How people read a score: by the unit of a task's headline."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from kd_jax.types import Headline, Task

MISSING = "–"


class Unit(NamedTuple):
    """`plot(value)` is the number that axes show; `text` and `difference` are what people read of values and gaps.

    A difference is that of two values, `relative` of an error beside it; `word` follows a difference in a sentence.
    """

    plot: Callable[[float], float]
    text: Callable[[float], str]
    difference: Callable[[float], str]
    noise: Callable[[float], str]
    word: str
    axis: str


def unit_of(headline: Headline) -> Unit:
    """Returns the unit of a headline: "%" of a share, "nats" as perplexity, anything else as it is."""
    if headline.unit == "%":
        return Unit(lambda v: 100 * v, percent, points, lambda v: f"{100 * v:.1f}", " points", "%")
    if headline.unit == "nats":
        return Unit(
            lambda v: math.exp(min(v, 700.0)),
            lambda v: f"{math.exp(min(v, 700.0)):.4g}",
            lambda v: signed(f"{100 * math.expm1(min(v, 700.0)):+.1f}%"),
            lambda v: f"{100 * v:.1f}%",
            "",
            "",
        )
    suffix = f" {headline.unit}" if headline.unit else ""
    return Unit(
        lambda v: v,
        lambda v: f"{v:.4g}{suffix}",
        lambda v: signed(f"{v:+.3g}"),
        lambda v: f"{v:.3g}",
        suffix,
        headline.unit,
    )


def name_of(headline: Headline) -> str:
    """Returns what the headline's number is called as `unit_of` shows it."""
    return "perplexity" if headline.unit == "nats" else headline.metric.replace("_", " ")


def score_text(headline: Headline, scores: Mapping[str, Any]) -> str:
    """Returns the headline of some scores for a table, shares with two digits; MISSING if it was not measured."""
    value = scores.get(headline.metric)
    if value is None:
        return MISSING
    return f"{100 * value:.2f}%" if headline.unit == "%" else unit_of(headline).text(value)


def share_of(headline: Headline, who: str) -> str:
    """Returns the metric of a headline that is a share; ValueError that names `who` for another headline."""
    if headline.unit != "%" or headline.sign < 0:
        raise ValueError(f"{who} weighs a share of right answers, and the task's headline is {headline.metric!r}.")
    return headline.metric


def percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def points(value: float) -> str:
    """Writes a difference of shares in percentage points, with its sign."""
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else signed(text)


def signed(text: str) -> str:
    """Returns the text of a number with a proper minus sign."""
    return text.replace("-", "−")


def shares(task: Task) -> tuple[str, ...]:
    """Returns the names of the metrics of a task that are shares, which people read in percent."""
    rows = tuple(name for name, (_, unit) in task.rows.items() if unit == "%")
    return (*rows, task.headline.metric) if task.headline.unit == "%" else rows
