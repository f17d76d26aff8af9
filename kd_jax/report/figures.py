"""The figures of the report, as matplotlib Figures. Drawn without pyplot: nothing to close, no backend chosen."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from kd_jax.report import verdict
from kd_jax.report.curves import MARKERS, draw_loss, draw_validation, has_loss, has_validation
from kd_jax.report.examples import draw_example, shown_examples
from kd_jax.report.style import LIGHT, TERMS
from kd_jax.report.table import quantity
from kd_jax.report.verdict import number

WIDTH = 4.6  # inches of a panel: text keeps a readable size on a phone
MAX_CLASSES = 24  # with more, only both ends are shown
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
    "axes.prop_cycle": matplotlib.cycler(color=[LIGHT[name] for name in TERMS]),
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
def styled() -> Iterator[None]:
    """Everything that makes, draws or saves a figure of the report happens inside."""
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
    """One figure with a panel for each function."""
    with styled():
        figure = ShownFigure(figsize=(WIDTH * max(1, len(draws)), height), layout="constrained")
        for axes, draw in zip(np.ravel(figure.subplots(1, max(1, len(draws)))), draws, strict=False):
            draw(axes, results)
        return figure


def plot_curves(results: Mapping[str, Any]) -> Figure:
    """The terms of the loss, and the validation accuracy of all models, over steps. ValueError without any curve."""
    draws = [draw for draw, has in ((draw_loss, has_loss), (draw_validation, has_validation)) if has(results)]
    if not draws:
        raise ValueError("no model of these results has a curve")
    return figure_of(draws, results)


def plot_tradeoff(results: Mapping[str, Any]) -> Figure:
    """Test accuracy against latency and against parameters. ValueError if neither was measured."""
    draws = [lambda axes, r, cost=cost: draw_tradeoff(axes, r, cost) for cost in COSTS if has_tradeoff(results, cost)]
    if not draws:
        raise ValueError("no model of these results has a test accuracy and a latency or a number of parameters")
    return figure_of(draws, results, 3.6)


def plot_per_class(results: Mapping[str, Any]) -> Figure:
    """Student minus teacher and student minus baseline, class by class. ValueError without such numbers."""
    shown = len(class_gaps(results)[0])
    if not shown:
        raise ValueError("these results have no per-class accuracy of the student and another model")
    return figure_of([draw_per_class], results, 1.3 + 0.27 * shown)


def plot_dark_knowledge(results: Mapping[str, Any], count: int = 4) -> Figure:
    """A few test images with the softened probabilities of teacher and student. ValueError without examples."""
    examples = shown_examples(results)[:count]
    if not examples:
        raise ValueError("these results have no examples")
    with styled():
        figure = ShownFigure(figsize=(2 * WIDTH, 2.1 * len(examples)), layout="constrained")
        panels = figure.subplots(len(examples), 2, squeeze=False, width_ratios=(1, 3))
        for (left, right), example in zip(panels, examples, strict=True):
            draw_example(left, right, example, results)
        return figure


COSTS = {
    "latency": (("latency_ms", "1"), "latency of one {} (ms)", "{} against latency"),
    "parameters": (("parameters",), "parameters", "{} against size"),
}


def _costs(results: Mapping[str, Any], cost: str) -> dict[str, tuple[float, float, float | None]]:
    """{role: (cost, accuracy in % or perplexity, two standard errors of it)}."""
    found, examples, text = {}, number(results, "data", "test"), verdict.of_tokens(results)
    for role, model in verdict.models(results).items():
        x, y = number(model, *COSTS[cost][0]), number(model, "last", "test", "perplexity" if text else "accuracy")
        if not x or y is None:
            continue
        if text:
            found[role] = x, y, 2 * y * (number(model, "last", "test", "nll_error") or 0.0)
        else:
            found[role] = x, 100 * y, 200 * verdict.standard_error(y, examples) if examples else None
    return found


def has_tradeoff(results: Mapping[str, Any], cost: str) -> bool:
    return bool(_costs(results, cost))


def tradeoff_title(results: Mapping[str, Any], cost: str) -> str:
    return COSTS[cost][2].format("Perplexity" if verdict.of_tokens(results) else "Accuracy (%)")


def draw_tradeoff(axes: Axes, results: Mapping[str, Any], cost: str) -> None:
    pairs, text = _costs(results, cost), verdict.of_tokens(results)
    largest = max((number(model, "parameters") or 1) for model in verdict.models(results).values())
    for role, (x, y, error) in pairs.items():
        model = verdict.models(results)[role]
        area = 90 + 1100 * (number(model, "parameters") or 0) / largest
        axes.errorbar(x, y, error, color=LIGHT[role], lw=1.3, zorder=2)
        axes.scatter(x, y, area, color=LIGHT[role], alpha=0.28, lw=0, zorder=3)
        axes.scatter(x, y, 34, color=LIGHT[role], marker=MARKERS[role], zorder=4)
        # Baseline and student sit at the same cost: one label goes to either side.
        side = -1 if role == "baseline" else 1
        axes.annotate(
            f"{role}\n{y:.2f}" if text else f"{role}\n{y:.1f}",
            (x, y),
            (side * (6 + math.sqrt(area) / 2), 0),
            textcoords="offset points",
            ha="left" if side > 0 else "right",
            va="center",
            color=LIGHT[role],
            weight="bold",
        )
    places = [x for x, *_ in pairs.values()]
    axes.set_xscale("log")
    spread = max(2.2, (max(places) / min(places)) ** 0.55)
    axes.set_xlim(min(places) / spread, max(places) * spread)
    low, high = axes.get_ylim()
    axes.set_ylim(low - 0.25 * (high - low) - 0.3, high + 0.25 * (high - low) + 0.3)
    # The models' own costs are the ticks; those that would be written over each other are thinned.
    ticks: list[float] = []
    for x in sorted(places):
        if not ticks or x / ticks[-1] > spread**0.35:
            ticks.append(x)
    axes.set_xticks(ticks, [quantity(x) for x in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(COSTS[cost][1].format("sequence" if text else "image"))
    axes.set_title(tradeoff_title(results, cost))


def class_gaps(results: Mapping[str, Any]) -> tuple[list[str], dict[str, np.ndarray]]:
    """Class names and {other model: 100 * (student - other)}, best class first; both ends if there are many."""
    scores = {}
    for role, model in verdict.models(results).items():
        values = ((model.get("last") or {}).get("test") or {}).get("per_class_accuracy")
        if values is not None and len(values):
            scores[role] = np.array([math.nan if value is None else value for value in values], np.float64)
    if "student" not in scores or len(scores) < 2:
        return [], {}
    gaps = {role: 100 * (scores["student"] - scores[role]) for role in ("teacher", "baseline") if role in scores}
    order = np.argsort(-gaps.get("baseline", next(iter(gaps.values()))))
    if len(order) > MAX_CLASSES:
        order = np.concatenate([order[: MAX_CLASSES // 2], order[-MAX_CLASSES // 2 :]])
    names = (results.get("data") or {}).get("class_names") or []
    names = [str(names[i]) if i < len(names) else f"class {i}" for i in order]
    return names, {role: gap[order] for role, gap in gaps.items()}


def class_noise(results: Mapping[str, Any]) -> float | None:
    """Two standard errors, in points, of a difference of two accuracies on the images of one class."""
    examples, classes = number(results, "data", "test"), number(results, "data", "num_classes")
    accuracy = number(verdict.models(results).get("student"), "last", "test", "accuracy")
    if not examples or not classes or accuracy is None:
        return None
    return 200 * math.sqrt(2) * verdict.standard_error(accuracy, examples / classes)


def draw_per_class(axes: Axes, results: Mapping[str, Any]) -> None:
    names, gaps = class_gaps(results)
    places, noise = np.arange(len(names)), class_noise(results)
    if noise:
        axes.axvspan(-noise, noise, color=LIGHT["band"], lw=0, zorder=0)
    axes.axvline(0, color=LIGHT["muted"], lw=1)
    for role, gap in gaps.items():
        axes.plot(gap, places, MARKERS[role], color=LIGHT[role], ms=6, label=f"vs {role}")
    axes.set_yticks(places, names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", lw=0.5)
    axes.set_xlabel("points; to the right the student is better")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
