"""The curves of the report: terms of the loss, and the validation metric of all models, over steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from kd_jax.report import verdict
from kd_jax.report.style import LIGHT, TERMS
from kd_jax.report.table import quantity
from kd_jax.report.verdict import number

MAX_POINTS = 300  # of a curve
NOT_TERMS = {"step", "loss", "accuracy", "top5", "learning_rate", "lr", "examples_per_second", "gradient_norm"}
DASHES = {"teacher": (0, (6, 2)), "baseline": (0, (2, 1.5)), "student": "solid"}
MARKERS = {"teacher": "s", "baseline": "^", "student": "o"}


def curve(model: Mapping[str, Any], name: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) of one column, thinned to MAX_POINTS by averaging neighbours."""
    pairs = [(number(record, "step"), number(record, name)) for record in model.get("curve") or []]
    pairs = [pair for pair in pairs if None not in pair]
    steps, values = np.array(pairs, np.float64).reshape(-1, 2).T
    group = math.ceil(len(steps) / MAX_POINTS)
    if group > 1:
        starts = np.arange(0, len(steps), group)
        sizes = np.diff(np.append(starts, len(steps)))
        steps, values = (np.add.reduceat(column, starts) / sizes for column in (steps, values))
    return steps, values


def _loss_names(model: Mapping[str, Any]) -> list[str]:
    names = {name: None for record in model.get("curve") or [] for name in record}
    terms = [name for name in names if name not in NOT_TERMS and not name.startswith("validation")]
    return [name for name in ("loss", *sorted(terms)) if len(curve(model, name)[0])]


def has_loss(results: Mapping[str, Any]) -> bool:
    return bool(_loss_names(verdict.models(results).get("student") or {}))


def draw_loss(axes: Axes, results: Mapping[str, Any]) -> None:
    model = verdict.models(results)["student"]
    names = _loss_names(model)
    lows, highs = [], []
    for index, name in enumerate(names):
        steps, values = curve(model, name)
        colour = LIGHT["ink"] if name == "loss" else LIGHT[TERMS[(index - 1) % len(TERMS)]]
        axes.plot(steps, values, color=colour, label=name, lw=2.2 if name == "loss" else 1.5)
        lows.append(values.min())
        highs.append(values.max())
    if min(lows) > 0 and max(highs) / min(lows) > 20:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_title("Loss of the student")
    axes.legend(loc="upper right", ncols=2)
    _steps(axes)


def has_validation(results: Mapping[str, Any]) -> bool:
    column = _validation(results)[0]
    return any(len(curve(model, column)[0]) for model in verdict.models(results).values())


def _validation(results: Mapping[str, Any]) -> tuple[str, str, Callable[[Any], Any]]:
    """(column of the curve, metric of the best step, how its value is shown)."""
    if verdict.of_tokens(results):
        return "validation_nll", "nll", np.exp
    return "validation_accuracy", "accuracy", lambda value: 100 * value


def draw_validation(axes: Axes, results: Mapping[str, Any]) -> None:
    (column, metric, show), text = _validation(results), verdict.of_tokens(results)
    settled = []
    for role, model in verdict.models(results).items():
        steps, values = curve(model, column)
        if not len(steps):
            continue
        axes.plot(steps, show(values), color=LIGHT[role], ls=DASHES[role], label=role)
        settled += show(values[len(values) // 4 :]).tolist()
        best = number(model, "best", "step"), number(model, "best", "validation", metric)
        if None not in best:
            axes.plot(best[0], show(best[1]), MARKERS[role], color=LIGHT[role], ms=7, mec=LIGHT["card"], clip_on=False)
            settled.append(show(best[1]))
    low, high = min(settled), max(settled)
    margin = max(0.06 * (high - low), 0.01 * low if text else 0.5)
    top = high + margin if text else min(100.5, high + margin)
    axes.set_ylim(max(0, low - margin), top)  # the first steps would flatten all that matters
    axes.set_title("Validation perplexity" if text else "Validation accuracy (%)")
    axes.legend(loc="upper right" if text else "lower right")
    _steps(axes)


def _steps(axes: Axes) -> None:
    axes.set_xlabel("step")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: quantity(value) if value >= 1000 else f"{value:g}"))
