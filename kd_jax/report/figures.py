"""The figures of the report, as matplotlib Figures. Drawn without pyplot: nothing to close, no backend chosen."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Generator, Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler
from matplotlib.ticker import NullLocator

from kd_jax.report import verdict
from kd_jax.report.curves import draw_loss, draw_validation, evaluations, has_loss
from kd_jax.report.examples import draw_example
from kd_jax.report.labels import MARKERS, legend_above, limits, side_by_side
from kd_jax.report.style import LIGHT, TERMS
from kd_jax.report.table import quantity
from kd_jax.report.verdict import number
from kd_jax.tasks.units import name_of, unit_of

WIDTH = 4.6  # inches of a panel: text keeps a readable size on a phone
STYLE = {
    "font.size": 11,
    "font.family": "sans-serif",
    "text.color": LIGHT["ink"],
    "axes.edgecolor": LIGHT["muted"],
    "axes.labelcolor": LIGHT["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.prop_cycle": cycler(color=[LIGHT[name] for name in TERMS]),
    "grid.color": LIGHT["rule"],
    "grid.linewidth": 0.7,
    "xtick.color": LIGHT["muted"],
    "ytick.color": LIGHT["muted"],
    "legend.frameon": False,
    "legend.fontsize": 10,
    "lines.linewidth": 1.7,
    "figure.facecolor": LIGHT["card"],
    "axes.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "kd_jax",
}

Draw = Callable[[Axes, Mapping[str, Any]], None]


@contextlib.contextmanager
def styled() -> Generator[None]:
    """Sets the report's style; everything that makes, draws or saves a figure of the report happens inside."""
    with matplotlib.rc_context(STYLE):
        yield


class ShownFigure(Figure):
    """A Figure that a notebook shows although pyplot, which usually arranges this, was not imported."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        with styled():
            self.savefig(buffer, format="png", dpi=96)
        return buffer.getvalue()


def figure_of(draws: list[Draw], results: Mapping[str, Any], height: float = 3.4) -> Figure:
    """Draws one figure with a panel for each function."""
    with styled():
        figure = ShownFigure(figsize=(WIDTH * max(1, len(draws)), height), layout="constrained")
        for axes, draw in zip(np.ravel(figure.subplots(1, max(1, len(draws)))), draws, strict=False):
            draw(axes, results)
        return figure


def plot_curves(results: Mapping[str, Any]) -> Figure:
    """Draws the terms of the loss, and the headline of all models on validation, over steps.

    Raises ValueError where no model has a curve.
    """
    draws = [draw for draw, has in ((draw_loss, has_loss), (draw_validation, evaluations)) if has(results)]
    if not draws:
        raise ValueError("no model of these results has a curve")
    return figure_of(draws, results)


def plot_tradeoff(results: Mapping[str, Any]) -> Figure:
    """Draws the headline on the test set against latency and against parameters. ValueError if neither was measured."""
    draws = [lambda axes, r, cost=cost: draw_tradeoff(axes, r, cost) for cost in COSTS if has_tradeoff(results, cost)]
    if not draws:
        raise ValueError("no model of these results has a test score and a latency or a number of parameters")
    return figure_of(draws, results, 3.6)


def section_of(results: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """Returns the first section of a kind; ValueError where the run has none."""
    for section in results.get("sections") or []:
        if section["kind"] == kind:
            return section
    raise ValueError(f"these results have no section of kind {kind!r}")


def plot_per_class(results: Mapping[str, Any]) -> Figure:
    """Draws student minus teacher and student minus baseline, class by class. ValueError without such numbers."""
    return plot_dots(section_of(results, "dots"))


def plot_dots(section: Mapping[str, Any]) -> Figure:
    """Draws a row of dots for every name of a section of kind "dots"."""
    return figure_of([lambda axes, _: draw_dots(axes, section)], {}, 1.3 + 0.27 * len(section["names"]))


def plot_dark_knowledge(results: Mapping[str, Any], count: int = 4) -> Figure:
    """Draws a few test images with the softened probabilities of teacher and student. ValueError without examples."""
    section = section_of(results, "examples")
    examples = section["examples"][:count]
    with styled():
        figure = ShownFigure(figsize=(2 * WIDTH, 2.1 * len(examples)), layout="constrained")
        panels = figure.subplots(len(examples), 2, squeeze=False, width_ratios=(1, 3))
        for (left, right), example in zip(panels, examples, strict=True):
            draw_example(left, right, example, section["names"])
        return figure


COSTS = {
    "latency": (("latency_ms", "1"), "latency of one {} (ms)", "{} against latency"),
    "parameters": (("parameters",), "parameters", "{} against size"),
}


def _costs(results: Mapping[str, Any], cost: str) -> dict[str, tuple[float, float, float | None]]:
    """{role: (cost, headline as axes show it, two standard errors of it)}."""
    headline, points = verdict.headline_of(results), {}
    unit = unit_of(headline)
    for role, model in verdict.models(results).items():
        x, value = number(model, *COSTS[cost][0]), verdict.score(model, headline)
        if not x or value is None:
            continue
        error = number(model, "last", "test", headline.error)
        height = unit.plot(value)
        spread = None if error is None else abs(unit.plot(value + 2 * error) - height)
        points[role] = x, height, spread
    return points


def has_tradeoff(results: Mapping[str, Any], cost: str) -> bool:
    return bool(_costs(results, cost))


def tradeoff_title(results: Mapping[str, Any], cost: str) -> str:
    headline = verdict.headline_of(results)
    axis = unit_of(headline).axis
    return COSTS[cost][2].format(name_of(headline).capitalize() + (f" ({axis})" if axis else ""))


def draw_tradeoff(axes: Axes, results: Mapping[str, Any], cost: str) -> None:
    pairs, headline, trained = _costs(results, cost), verdict.headline_of(results), verdict.models(results)
    largest = max((number(model, "parameters") or 1) for model in trained.values())
    places = {role: x for role, (x, *_) in pairs.items()}
    axes.set_xscale("log")
    spread = max(2.2, (max(places.values()) / min(places.values())) ** 0.55)
    axes.set_xlim(min(places.values()) / spread, max(places.values()) * spread)
    transforms, ends = side_by_side(axes, places), []
    for role, (x, y, error) in pairs.items():
        area = 90 + 1100 * (number(trained[role], "parameters") or 0) / largest
        style = {"color": LIGHT[role], "transform": transforms[role], "clip_on": False}
        low, high = y - (error or 0), y + (error or 0)
        if headline.unit == "%" and y <= 100:
            low, high = max(0.0, low), min(100.0, high)
        axes.plot([x, x], [low, high], lw=1.3, zorder=2, **style)
        axes.scatter([x], [y], area, alpha=0.28, lw=0, zorder=3, **style | {"clip_on": True})
        shown = f"{role} {y:.1f}" if headline.unit == "%" else f"{role} {y:.4g}"
        axes.plot([x], [y], MARKERS[role], ms=6, label=shown, zorder=4, **style)
        ends += [low, high]
    margin = 0.2 * (max(ends) - min(ends)) + 0.3
    axes.set_ylim(*limits(min(ends), max(ends), margin, headline.unit == "%"))
    # The models' own costs are the ticks; those that would be written over each other are thinned.
    ticks: list[float] = []
    for x in sorted(places.values()):
        if not ticks or x / ticks[-1] > spread**0.35:
            ticks.append(x)
    axes.set_xticks(ticks, [quantity(x) for x in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(COSTS[cost][1].format(verdict.noun_of(results)))
    legend_above(axes, tradeoff_title(results, cost), handle=1.0)


def draw_dots(axes: Axes, section: Mapping[str, Any]) -> None:
    places = np.arange(len(section["names"]))
    if section["band"]:
        axes.axvspan(-section["band"], section["band"], color=LIGHT["band"], lw=0, zorder=0)
    axes.axvline(0, color=LIGHT["muted"], lw=1)
    count = len(section["series"])
    for i, (role, values) in enumerate(section["series"].items()):
        heights = np.array([math.nan if v is None else v for v in values])
        row = places + 0.28 * (i - (count - 1) / 2)  # one below the other, or equal ones would hide each other
        axes.plot(heights, row, MARKERS[role], color=LIGHT[role], ms=6, label=f"vs {role}")
    axes.set_yticks(places, section["names"])
    axes.set_ylim(len(places) - 0.4, -0.6)
    axes.grid(axis="y", lw=0.5)
    axes.set_xlabel(section["x_label"])
    legend_above(axes, handle=1.0)
