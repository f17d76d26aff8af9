"""The curves of the report: terms of the loss, and the validation metric of all models, over steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from kd_jax.report import verdict
from kd_jax.report.labels import (
    ASIDE,
    DASHES,
    MARKERS,
    SIZES,
    draw_to_the_edge,
    legend_above,
    limits,
    moved,
    side_by_side,
)
from kd_jax.report.style import LIGHT, TERMS
from kd_jax.report.table import quantity
from kd_jax.report.verdict import number
from kd_jax.tasks.units import name_of, unit_of

MAX_POINTS = 300  # of a curve
AGAIN = ("-", "--", ":", "-.")  # the lines of terms that share a colour
NOT_TERMS = {"step", "loss", "learning_rate", "lr", "examples_per_second", "gradient_norm"}


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
        mark, again = "o" if len(steps) == 1 else "none", max(0, index - 1) // len(TERMS)  # a colour used before
        dashes = AGAIN[again % len(AGAIN)]
        axes.plot(steps, values, marker=mark, ls=dashes, color=colour, label=name, lw=2.2 if name == "loss" else 1.5)
        lows.append(values.min())
        highs.append(values.max())
    if min(lows) > 0 and max(highs) / min(lows) > 20:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    legend_above(axes, "Loss of the student" + _count([len(curve(model, name)[0]) for name in names], "record"))
    _steps(axes)


def _count(lengths: list[int], what: str) -> str:
    """What a title says of curves that are single points."""
    return f", one {what}" if max(lengths) == 1 else ""


def evaluations(results: Mapping[str, Any]) -> dict[str, int]:
    """Returns how often each model that was evaluated on validation was, {} if none was."""
    column = f"validation_{verdict.headline_of(results).metric}"
    lengths = {role: len(curve(model, column)[0]) for role, model in verdict.models(results).items()}
    return {role: length for role, length in lengths.items() if length}


def draw_validation(axes: Axes, results: Mapping[str, Any]) -> None:
    headline = verdict.headline_of(results)
    unit, name, counts = unit_of(headline), name_of(headline), evaluations(results)
    settled, ends = [], []
    single = {role: 1.0 for role, count in counts.items() if count == 1}
    points = side_by_side(axes, single)
    for role in counts:
        model, above = verdict.models(results)[role], 3 - SIZES[role] / 100
        steps, values = curve(model, f"validation_{headline.metric}")
        heights = [unit.plot(value) for value in values]
        place = points.get(role) or moved(axes, up=ASIDE.get(role, 0.0))
        mark = {"marker": MARKERS[role], "ls": "none", "mec": LIGHT["card"], "mew": 0.7}
        style = mark | {"ms": 7.5} if role in single else {"ls": DASHES[role], "lw": 1.7}
        drawn = axes.plot(steps, heights, label=role, color=LIGHT[role], zorder=2, transform=place, **style)
        draw_to_the_edge(axes, drawn)
        ends.append(steps[-1])
        settled += heights[len(heights) // 4 :]  # the first steps would flatten the rest
        step, best = number(model, "best", "step"), number(model, "best", "validation", headline.metric)
        if None not in (step, best):
            settled.append(unit.plot(best))
            if role not in single:
                mark |= {"ms": SIZES[role], "color": LIGHT[role], "clip_on": False, "zorder": above}
                axes.plot(step, settled[-1], transform=place, **mark)
    low, high = min(settled), max(settled)
    margin = max(0.06 * (high - low), 0.5 if headline.unit == "%" else 0.01 * abs(low))
    axes.set_ylim(*limits(low, high, margin, headline.unit == "%"))
    title = f"Validation {name}" + (f" ({unit.axis})" if unit.axis else "")
    legend_above(axes, title + _count([*counts.values()], "evaluation"))
    axes.set_xlim(right=1.05 * max(ends))
    _steps(axes)


def _steps(axes: Axes) -> None:
    axes.set_xlabel("step")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: quantity(value) if value >= 1000 else f"{value:g}"))
