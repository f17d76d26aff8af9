"""The curves of the report: terms of the loss, and the validation metric of all models, over steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from kd_jax.report import verdict
from kd_jax.report.style import LIGHT, TERMS
from kd_jax.report.table import quantity
from kd_jax.report.verdict import number
from kd_jax.tasks.units import name_of, unit_of

MAX_POINTS = 300  # of a curve
NOT_TERMS = {"step", "loss", "learning_rate", "lr", "examples_per_second", "gradient_norm"}
DASHES = {"teacher": (0, (6, 2)), "baseline": (0, (2, 1.5)), "student": "solid"}
MARKERS = {"teacher": "s", "baseline": "^", "student": "o"}


def curve(model: Mapping[str, Any], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns (steps, values) of one column, thinned to MAX_POINTS by averaging neighbours."""
    pairs = [(number(record, "step"), number(record, name)) for record in model.get("curve") or []]
    pairs = [pair for pair in pairs if None not in pair]
    steps, values = np.array(pairs, np.float64).reshape(-1, 2).T
    group = math.ceil(len(steps) / MAX_POINTS)
    if group > 1:
        starts = np.arange(0, len(steps), group)
        sizes = np.diff(np.append(starts, len(steps)))
        steps, values = (np.add.reduceat(column, starts) / sizes for column in (steps, values))
    return steps, values


def _loss_names(model: Mapping[str, Any], results: Mapping[str, Any]) -> list[str]:
    metrics = {*(results.get("rows") or {}), verdict.headline_of(results).metric}
    names = {name: None for record in model.get("curve") or [] for name in record}
    terms = [name for name in names if name not in NOT_TERMS | metrics and not name.startswith("validation")]
    return [name for name in ("loss", *sorted(terms)) if len(curve(model, name)[0])]


def has_loss(results: Mapping[str, Any]) -> bool:
    return bool(_loss_names(verdict.models(results).get("student") or {}, results))


def draw_loss(axes: Axes, results: Mapping[str, Any]) -> None:
    model = verdict.models(results)["student"]
    names = _loss_names(model, results)
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
    column = f"validation_{verdict.headline_of(results).metric}"
    return any(len(curve(model, column)[0]) for model in verdict.models(results).values())


def draw_validation(axes: Axes, results: Mapping[str, Any]) -> None:
    headline = verdict.headline_of(results)
    unit, name = unit_of(headline), name_of(headline)
    settled = []
    for role, model in verdict.models(results).items():
        steps, values = curve(model, f"validation_{headline.metric}")
        if not len(steps):
            continue
        heights = [unit.plot(value) for value in values]
        axes.plot(steps, heights, color=LIGHT[role], ls=DASHES[role], label=role)
        settled += heights[len(heights) // 4 :]
        step, best = number(model, "best", "step"), number(model, "best", "validation", headline.metric)
        if None not in (step, best):
            height = unit.plot(best)
            axes.plot(step, height, MARKERS[role], color=LIGHT[role], ms=7, mec=LIGHT["card"], clip_on=False)
            settled.append(height)
    low, high = min(settled), max(settled)
    margin = max(0.06 * (high - low), 0.5 if headline.unit == "%" else 0.01 * abs(low))
    top = min(100.5, high + margin) if headline.unit == "%" else high + margin
    axes.set_ylim(max(0, low - margin) if low >= 0 else low - margin, top)  # the first steps would flatten the rest
    axes.set_title(f"Validation {name}" + (f" ({unit.axis})" if unit.axis else ""))
    axes.legend(loc="lower right" if headline.sign > 0 else "upper right")
    _steps(axes)


def _steps(axes: Axes) -> None:
    axes.set_xlabel("step")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: quantity(value) if value >= 1000 else f"{value:g}"))
