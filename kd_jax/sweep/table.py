"""The settings of a sweep over their seeds: mean, spread and error, and which is best by validation."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from kd_jax.types import Headline

Row = dict[str, Any]


def summarise(runs: Sequence[Mapping[str, Any]], headline: Headline) -> list[Row]:
    """Returns one row a setting, best first: {"setting", "seeds", "diverged", "validation", "test", "error"}.

    `runs` have "point", "diverged", the headline's "validation" and "test" scores at the last step, and "noise", the
    standard error of the validation score over its examples (None where the task measures none). Runs that differ in
    `seed` alone are one setting. "validation" and "test" are {"mean", "std"} (std of one run is None) over the runs
    that did not diverge; "error" is the standard error of the mean on validation, sqrt(std^2 / seeds + mean noise^2):
    other seeds, and other examples; without noise that over seeds, and None for one seed.
    A setting in which a run diverged comes last.
    """
    settings: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        settings.setdefault(json.dumps(setting_of(run["point"]), sort_keys=True, default=str), []).append(run)
    rows = []
    for group in settings.values():
        fine = [run for run in group if not run["diverged"]]
        row: dict[str, Any] = {
            "setting": setting_of(group[0]["point"]),
            "seeds": len(group),
            "diverged": len(group) - len(fine),
            "validation": _spread([r["validation"] for r in fine]),
            "test": _spread([r["test"] for r in fine]),
        }
        if fine:
            row["error"] = _error(row["validation"]["std"], [r["noise"] for r in fine])
        rows.append(row)
    return sorted(rows, key=lambda r: (r["diverged"] > 0, -headline.sign * (r["validation"]["mean"] or 0.0)))


def setting_of(point: Mapping[str, Any]) -> Row:
    """Returns what runs that differ in their seed alone have in common."""
    return {field: value for field, value in point.items() if field != "seed"}


def _spread(values: list[float]) -> dict[str, float | None]:
    if not values:
        return {"mean": None, "std": None}
    return {"mean": statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else None}


def _error(std: float | None, noises: list[float | None]) -> float | None:
    errors = [noise for noise in noises if noise is not None]
    if std is None and not errors:
        return None
    return math.sqrt((std or 0.0) ** 2 / len(noises) + (statistics.fmean(n**2 for n in errors) if errors else 0.0))


def rivals(rows: Sequence[Row]) -> list[Row]:
    """Returns the settings that the best one does not beat by more than two standard errors of the difference.

    Where an error is not known nothing is beaten.
    """
    best, *others = [row for row in rows if not row["diverged"]]
    return [row for row in others if not _beats(best, row)]


def _beats(best: Row, row: Row) -> bool:
    if best["error"] is None or row["error"] is None:
        return False
    gap = abs(best["validation"]["mean"] - row["validation"]["mean"])
    return gap > 2 * math.hypot(best["error"], row["error"])


def short_names(fields: Sequence[str]) -> dict[str, str]:
    """Returns the shortest ends of the paths that still differ: terms.kd.kwargs.temperature -> temperature."""
    result = {}
    for field in fields:
        parts = field.split(".")
        ends = [".".join(parts[-n:]) for n in range(1, len(parts) + 1)]
        result[field] = next(e for e in ends if sum(f == e or f.endswith("." + e) for f in fields) == 1)
    return result


def score(value: float, headline: Headline) -> str:
    """Writes a score as people read it: four decimals, or two of a share in %."""
    return f"{100 * value:.2f}" if headline.unit == "%" else f"{value:.4f}"


def cell(spread: Mapping[str, float | None], headline: Headline) -> str:
    """Writes mean ± standard deviation; the mean alone for one seed, "-" where there is no score."""
    if spread["mean"] is None:
        return "-"
    return score(spread["mean"], headline) + ("" if spread["std"] is None else f" ± {score(spread['std'], headline)}")


def table(
    rows: Sequence[Row], headline: Headline, models: Mapping[str, Row] | None = None
) -> tuple[list[str], list[list[str]]]:
    """Returns (columns, lines) for people: mean ± standard deviation over seeds; after the settings the `models`."""
    fields = list(rows[0]["setting"])
    columns = ["model", *short_names(fields).values(), "validation", "± error", "test", "seeds"]
    lines = []
    for row in rows:
        values = [f"{v:.4g}" if isinstance(v, float) else str(v) for v in row["setting"].values()]
        lines.append(["student", *values, *_scores(row, headline)])
    for name, model in (models or {}).items():
        if "validation" in model:
            lines.append([name, *("" for _ in fields), *_scores(model, headline)])
    return columns, lines


def _scores(row: Row, headline: Headline) -> list[str]:
    seeds = f"{row['seeds']}" + (f" ({row['diverged']} diverged)" if row["diverged"] else "")
    error = "-" if row.get("error") is None else score(row["error"], headline)
    return [cell(row["validation"], headline), error, cell(row["test"], headline), seeds]


def text(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Lays the columns and lines out as text, every column as wide as its longest cell."""
    widths = [max(map(len, column)) for column in zip(columns, *lines, strict=True)]
    return "\n".join(
        "   ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in (columns, *lines)
    )


def conclusion(rows: Sequence[Row], headline: Headline, models: Mapping[str, Row] | None = None) -> list[str]:
    """Writes sentences: the best setting by validation, how sure that is, and what the test set says of it."""
    sound = [row for row in rows if not row["diverged"]]
    if not sound:
        return ["Every setting diverged in at least one run: there is no best one. Try smaller learning rates."]
    best, unit, metric = sound[0], "%" if headline.unit == "%" else "", headline.metric.replace("_", " ")
    names = short_names(list(best["setting"]))
    what = ", ".join(f"{names[k]}={v}" for k, v in best["setting"].items()) or "the only setting"
    value = score(best["validation"]["mean"], headline)
    lines = [f"Best by validation: {what}.", f"Its {metric} on validation is {value}{_sureness(best, headline, unit)}."]
    if len(sound) > 1:
        lines.append(_against_others(sound, headline))
        lines.append(
            f"As the best of {len(sound)} it looks better on validation than it is; the test set chose nothing."
        )
    return [*lines, *_on_the_test_set(best, headline, unit, models or {})]


def _sureness(best: Row, headline: Headline, unit: str) -> str:
    count = f"{best['seeds']} seed{'s' * (best['seeds'] > 1)}"
    if best["error"] is None:
        return f"{unit}, of {count}; how far another seed or other examples would move it was not measured"
    return f" ± {score(best['error'], headline)}{unit} (standard error over {count} and the validation examples)"


def _against_others(sound: Sequence[Row], headline: Headline) -> str:
    """How the best setting stands to the others."""
    best, close = sound[0], rivals(sound)
    if any(row["error"] is None for row in sound):
        return "Nothing tells it from the other settings: more seeds would."
    if not close:
        return "It is ahead of every other setting by more than two standard errors of the difference."
    gap = abs(best["validation"]["mean"] - close[0]["validation"]["mean"])
    noise = 2 * math.hypot(best["error"], close[0]["error"])
    near = f"by {score(gap, headline)}; two standard errors of the difference are {score(noise, headline)}"
    who = "The runner-up is" if len(close) == 1 else f"{len(close)} settings are"
    near = near if len(close) == 1 else f"the runner-up {near}"
    return f"{who} within noise of it ({near}): more seeds or examples would tell them apart."


def _on_the_test_set(best: Row, headline: Headline, unit: str, models: Mapping[str, Row]) -> list[str]:
    metric = headline.metric.replace("_", " ")
    others = [
        f"the {name}'s {cell(model['test'], headline)}{unit}"
        for name, model in models.items()
        if "test" in model and model["test"]["mean"] is not None
    ]
    against = f"; {' and '.join(others)}" if others else ""
    lines = [f"On the test set its {metric} is {cell(best['test'], headline)}{unit} at the last step{against}."]
    if "baseline" in models:
        lines.append(
            "The baseline is the same network with the same seeds and learning rate, trained without a teacher."
        )
    return lines
