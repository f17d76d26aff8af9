"""Fidelity and generalisation in a sweep: does a student that agrees more with its teacher score better?"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kd_jax.tasks.units import name_of, unit_of
from kd_jax.types import Headline


def place_of(results: Mapping[str, Any], noun: str) -> str:
    """Returns what has an answer of its own in the results of a run: a token, a pixel, or an example, called `noun`."""
    data = results.get("data") or {}
    return "token" if data.get("per_token") else "pixel" if data.get("per_pixel") else noun


def section_of(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the agreement with the teacher against the headline, on the test set, as a section of kind "lines".

    `results` are those of a sweep. A point is a setting, the mean of its seeds; a line joins the settings that differ
    in the temperature alone, or else in the first number that was varied. None where fewer than two settings have an
    agreement. Stanton, Izmailov, Kirichenko, Alemi, Wilson, "Does Knowledge Distillation Really Work?", 2021, arXiv
    2106.05945.
    """
    points = points_of(results.get("runs") or [])
    if len(points) < 2:
        return None
    headline, along = Headline(**results["headline"]), _along(points)
    unit, lines = unit_of(headline), {}
    for setting, agreement, score in sorted(points, key=lambda p: _order(p[0].get(along))):
        others = ", ".join(f"{k.rpartition('.')[2]} {v}" for k, v in setting.items() if k != along)
        lines.setdefault(others or "student", []).append([100 * agreement, unit.plot(score)])
    for name, point in references(results).items():
        lines[name] = [[100 * point[0], unit.plot(point[1])]]
    values = sorted({str(setting[along]): setting[along] for setting, *_ in points if along}.values(), key=_order)
    joined = f"A line goes over {along.rpartition('.')[2]} {', '.join(map(str, values))}. " if along else ""
    axis = f" ({unit.axis})" if unit.axis else ""
    return {
        "kind": "lines",
        "title": f"Does agreeing with the teacher go with a better {name_of(headline)}?",
        "lead": f"On the test set, the mean over seeds. {joined}{correlation(points)}",
        "x_label": "agrees with the teacher (%)",
        "y_label": f"{name_of(headline)}{axis}",
        "lines": lines,
    }


def points_of(runs: Sequence[Mapping[str, Any]]) -> list[tuple[dict[str, Any], float, float]]:
    """Returns (setting without its seed, mean agreement, mean test score) of the settings that have both."""
    settings: dict[str, list[tuple[dict[str, Any], float, float]]] = {}
    for run in (run for run in runs if not run["diverged"]):
        setting = {field: value for field, value in run["point"].items() if field != "seed"}
        agreement = next(iter(_test_scores(run).values()), {}).get("agreement")
        if agreement is not None and run["test"] is not None:
            settings.setdefault(json.dumps(setting, default=str), []).append((setting, agreement, run["test"]))
    return [
        (group[0][0], statistics.fmean(g[1] for g in group), statistics.fmean(g[2] for g in group))
        for group in settings.values()
    ]


def _test_scores(run: Mapping[str, Any]) -> Mapping[str, Any]:
    """{entry: scores} of the last step; {} of a run that says its headline alone."""
    return (run.get("last") or {}).get("test") or {}


def references(results: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Returns (agreement, score) of the baseline, which never saw the teacher, where the sweep trained one."""
    points = points_of((results.get("models") or {}).get("baseline", {}).get("runs") or [])
    if not points:
        return {}
    return {"baseline": (statistics.fmean(p[1] for p in points), statistics.fmean(p[2] for p in points))}


def correlation(points: Sequence[tuple[Any, float, float]]) -> str:
    """Returns the sentence with Pearson's correlation over the settings; "" where one of both does not vary."""
    x, y = np.array([p[1:] for p in points]).T
    if len(points) < 3 or not (np.ptp(x) and np.ptp(y)):
        return ""
    return f"Over the {len(points)} settings the correlation is {np.corrcoef(x, y)[0, 1]:.2f}."


def _along(points: Sequence[tuple[dict[str, Any], float, float]]) -> str:
    """The field that lines go over: the temperature, or the first number that has several values; "" without any."""
    fields = [
        field
        for field in points[0][0]
        if len({str(p[0][field]) for p in points}) > 1 and all(type(p[0][field]) in (int, float) for p in points)
    ]
    return next((f for f in fields if f.endswith(".temperature")), fields[0] if fields else "")


def _order(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0
