"""The response surface of a sweep: the validation score over temperature and weight, or over what else was varied."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from kd_jax.report import fidelity
from kd_jax.report.figures import WIDTH, ShownFigure, figure_of, styled
from kd_jax.report.labels import DASHES, draw_to_the_edge, leave_out_overlapping, legend_above, limits
from kd_jax.report.page import svg
from kd_jax.report.sections import draw_lines, table
from kd_jax.report.style import CSS, LIGHT
from kd_jax.types import Headline

SCALE = LinearSegmentedColormap.from_list("score", [LIGHT["band"], LIGHT["term4"], LIGHT["teacher"]])
FIRST = ("temperature", "weight")  # what goes on the axes, if it was varied


def write_sweep(results: Mapping[str, Any], directory: str | os.PathLike[str]) -> list[Path]:
    """Writes sweep.html, and surface.png where a number was varied; returns their paths."""
    root, figure = Path(directory), plot_surface(results)
    paths = []
    if figure is not None:
        with styled():
            figure.savefig(root / "surface.png", dpi=110)
        paths.append(root / "surface.png")
    (root / "sweep.html").write_text(_page(results, figure), encoding="utf-8")
    return [*paths, root / "sweep.html"]


def varied_numbers(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the fields that had several values, all of them numbers; temperature and weight first."""
    fields = []
    for field in rows[0]["setting"]:
        values = [row["setting"][field] for row in rows]
        if len({*map(str, values)}) > 1 and all(type(v) in (int, float) for v in values):
            fields.append(field)
    return sorted(fields, key=lambda f: next((i for i, end in enumerate(FIRST) if f.endswith("." + end)), len(FIRST)))


def plot_surface(results: Mapping[str, Any]) -> Figure | None:
    """Draws a map of colours over two numbers, a line over one; returns None where no number was varied.

    Of settings that differ in more, those that agree with the best one elsewhere are shown; a search has none, and
    shows all it tried.
    """
    rows = [row for row in results["rows"] if not row["diverged"]]
    fields = varied_numbers(rows) if rows else []
    if not fields:
        return None
    shown = fields[:2]
    same, fixed = (rows, {}) if results.get("trials") else _like_best(rows, shown)
    headline = Headline(**results["headline"])
    with styled():
        figure = ShownFigure(figsize=(1.25 * WIDTH, 0.95 * WIDTH), layout="constrained")
        axes = figure.subplots()
        if len(shown) == 1:
            draw_line(axes, same, shown[0], headline, results.get("models") or {})
        else:
            draw_map(figure, axes, same, shown[0], shown[1], headline)
        at = ", ".join(f"{_end(k)} {v}" for k, v in fixed.items())
        unit = f" ({headline.unit})" if headline.unit else ""
        legend_above(axes, f"Validation {headline.metric.replace('_', ' ')}{unit}" + (f" at {at}" if at else ""))
        leave_out_overlapping(axes)
    return figure


def _like_best(rows: list[Mapping[str, Any]], shown: Sequence[str]) -> tuple[list[Mapping[str, Any]], dict[str, Any]]:
    """Returns the rows that differ from the best in `shown` alone, and its values of the other fields that vary."""
    best = rows[0]["setting"]
    rest = [field for field in best if field not in shown]
    same = [row for row in rows if all(row["setting"][field] == best[field] for field in rest)]
    return same, {field: best[field] for field in rest if len({str(row["setting"][field]) for row in rows}) > 1}


def _end(field: str) -> str:
    return field.rpartition(".")[2].replace("_", " ")


def _values(rows: Sequence[Mapping[str, Any]], field: str) -> np.ndarray:
    return np.array([row["setting"][field] for row in rows], np.float64)


def _measured(rows: Sequence[Mapping[str, Any]], headline: Headline) -> np.ndarray:
    return (100 if headline.unit == "%" else 1) * np.array([row["validation"]["mean"] for row in rows])


def _scale(axis: Any, set_scale: Any, values: np.ndarray) -> None:
    ticks = sorted(set(values))
    if min(ticks) > 0 and max(ticks) / min(ticks) >= 4:
        set_scale("log")
    if len(ticks) <= 8:
        axis.set_ticks(ticks, [f"{t:g}" for t in ticks], minor=False)
        axis.set_ticks([], minor=True)


def draw_line(
    axes: Axes,
    rows: Sequence[Mapping[str, Any]],
    field: str,
    headline: Headline,
    models: Mapping[str, Mapping[str, Any]],
) -> None:
    """Draws the validation score over one number, with bars of two standard errors; level lines for the `models`."""
    rows = sorted(rows, key=lambda row: row["setting"][field])
    values, heights = _values(rows, field), _measured(rows, headline)
    share = headline.unit == "%"
    errors = np.array([(200 if share else 2) * (row["error"] or 0.0) for row in rows])
    ends = [*(heights - errors), *(heights + errors)]
    if share and max(heights) <= 100:
        ends = [min(max(end, 0.0), 100.0) for end in ends]
    bars = np.abs(np.reshape(ends, (2, -1)) - heights)
    style = {"marker": "o", "capsize": 3, "clip_on": False, "zorder": 3}
    axes.errorbar(values, heights, bars, color=LIGHT["student"], label="student", **style)
    for name, model in models.items():
        if "validation" in model and model["validation"]["mean"] is not None:
            level = (100 if share else 1) * model["validation"]["mean"]
            colour = LIGHT[name if name in DASHES else "term1"]
            draw_to_the_edge(axes, [axes.axhline(level, color=colour, ls=DASHES.get(name, ":"), label=name)])
            ends.append(level)
    margin = 0.08 * (max(ends) - min(ends)) + 1e-3 * abs(max(ends))
    axes.set_ylim(*limits(min(ends), max(ends), margin, share))
    _scale(axes.xaxis, axes.set_xscale, values)
    axes.set_xlabel(f"{_end(field)} (bars: two standard errors)")


def draw_map(figure: Figure, axes: Axes, rows: Sequence[Mapping[str, Any]], x: str, y: str, headline: Headline) -> None:
    """Draws contours between the points of a full grid, points alone elsewhere. A ring marks the first row."""
    xs, ys, z = _values(rows, x), _values(rows, y), _measured(rows, headline)
    grid = {(a, b): c for a, b, c in zip(xs, ys, z, strict=True)}
    columns, lines = sorted(set(xs)), sorted(set(ys))
    if len(grid) == len(rows) == len(columns) * len(lines) and min(len(columns), len(lines)) > 1 and np.ptp(z):
        surface = np.array([[grid[a, b] for a in columns] for b in lines])
        axes.contourf(columns, lines, surface, levels=12, cmap=SCALE)
    points = axes.scatter(xs, ys, 90, z, cmap=SCALE, edgecolors=LIGHT["ink"], lw=0.8, zorder=3)
    axes.plot(xs[0], ys[0], "o", ms=16, mfc="none", mec=LIGHT["student"], mew=2.2, zorder=4)
    for a, b, c in zip(xs, ys, z, strict=True):  # the best first: numbers that would lie on a better one go
        axes.annotate(
            f"{c:.3g}",
            (a, b),
            (0, 10),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            zorder=5,
            bbox={"boxstyle": "round,pad=0.15", "fc": LIGHT["card"], "ec": "none", "alpha": 0.75},
        )
    _scale(axes.xaxis, axes.set_xscale, xs)
    _scale(axes.yaxis, axes.set_yscale, ys)
    axes.set_xlabel(_end(x))
    axes.set_ylabel(_end(y))
    axes.use_sticky_edges = False  # or the contours would cut the points at the border
    axes.margins(0.13)
    figure.colorbar(points, ax=axes, pad=0.02)


def _fidelity(results: Mapping[str, Any]) -> str:
    """The figure of agreement against the headline, where the settings have an agreement."""
    if (section := fidelity.section_of(results)) is None:
        return ""
    figure = figure_of([lambda axes, _: draw_lines(axes, section)], {}, 3.6)
    title, lead = escape(section["title"]), escape(section["lead"])
    picture = f'<figure class="card">{svg(figure, section["title"], "f")}</figure>'
    return f'<section><h2>{title}</h2><p class="lead">{lead}</p>{picture}</section>\n'


def _page(results: Mapping[str, Any], figure: Figure | None) -> str:
    title = escape(str(results["title"]))
    answer, *more = results["conclusion"]
    why = "\n".join(f'<p class="why">{escape(line)}</p>' for line in more)
    picture = f'<figure class="card">{svg(figure, "response surface", "s")}</figure>' if figure is not None else ""
    headline = Headline(**results["headline"])
    unit = f" in {headline.unit}" if headline.unit else ""
    lead = (
        f"{headline.metric.replace('_', ' ').capitalize()}{unit}, at the last step: mean ± standard deviation over "
        "seeds; ± error: standard error on validation. Best first."
    )
    surface = f"<section><h2>Response surface</h2>{picture}</section>\n" if picture else ""
    surface += _fidelity(results)
    note = (
        "Each run is one of its own with the options under “alone” in sweep.json added to the command, without "
        "--sweep: all share the order of the data and what augmentation draws, so the spread over seeds is that of "
        "initial weights and dropout."
    )
    rows = table({"columns": results["columns"], "rows": results["lines"]})
    more_tables = "".join(
        f'<section><h2>{escape(s["title"])}</h2><p class="lead">{escape(s["lead"])}</p>{table(s)}</section>\n'
        for s in results.get("sections") or []
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{CSS}</style>\n</head>\n<body>\n'
        f"<main><header><h1>{title}</h1><p>{escape(str(results['device']))}</p></header>\n"
        f'<section class="card verdict"><p class="answer">{escape(answer)}</p>\n{why}</section>\n'
        f'{surface}<section><h2>Settings</h2><p class="lead">{escape(lead)}</p>'
        f"{rows}</section>\n{more_tables}<section><h2>Reproduce</h2><pre>{escape(results['command'])}</pre></section>\n"
        f'<div class="caveat"><p>{note}</p></div></main>\n</body>\n</html>\n'
    )
