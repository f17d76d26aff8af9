"""The summary table: what is in it, and how it looks on a terminal."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from kd_jax.report import cost, sections, verdict
from kd_jax.report.verdict import number
from kd_jax.tasks.units import MISSING, percent
from kd_jax.types import Headline


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table: `cells` has a text for every model of the run, `section` starts a group of lines."""

    section: str
    label: str
    cells: dict[str, str]


def quantity(value: float) -> str:
    """Writes a number with three digits and a prefix: 1234567 -> 1.23 M."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def _bytes(value: float) -> str:
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} B"


def _milliseconds(value: float) -> str:
    return f"{value:.3g} ms"


def _plain(value: float) -> str:
    return f"{value:.3f}"


def rows(results: Mapping[str, Any]) -> list[Row]:
    """Returns the lines of the summary table; what no model has is left out, but for costs that were not counted."""
    trained, headline = verdict.models(results), verdict.headline_of(results)
    table = (_row(trained, headline, *line) for line in _plan(results))
    return [row for row in table if row is not None]


def _row(
    trained: Mapping[str, Mapping[str, Any]],
    headline: Headline,
    section: str,
    label: str,
    path: tuple[str, ...],
    show: Callable[[float], str],
) -> Row | None:
    values = {role: number(model, *path) for role, model in trained.items()}
    measured = section == "Cost" and any(path[0] in model for model in trained.values())
    if all(value is None for value in values.values()) and not measured:
        return None
    cells = {role: MISSING if value is None else show(value) for role, value in values.items()}
    if path[-1] == headline.metric and headline.error:
        label = f"{label} in %, ± error" if headline.unit == "%" else f"{label}, ± error"
        errors = {role: number(model, *path[:-1], headline.error) for role, model in trained.items()}
        cells = {role: _with_error(cells[role], values[role], errors[role], headline.unit) for role in cells}
    return Row(section, label, {role: _doubted(cells[role], trained[role], path) for role in cells})


def _plan(results: Mapping[str, Any]) -> list[tuple[str, str, tuple[str, ...], Callable[[float], str]]]:
    """(section, label, where the number lies in a model's results, how it is shown) of every line that may be."""
    noun, headline = verdict.noun_of(results), verdict.headline_of(results)
    plan: list[tuple[str, str, tuple[str, ...], Callable[[float], str]]] = [
        ("Cost", "parameters", ("parameters",), quantity),
        ("Cost", "size in memory", ("bytes",), _bytes),
        ("Cost", f"FLOPs per {noun}", ("flops",), quantity),
        ("Cost", f"latency, 1 {noun}", ("latency_ms", "1"), _milliseconds),
        ("Cost", f"latency, 128 {noun}s", ("latency_ms", "128"), _milliseconds),
        ("Training", "steps", ("steps",), lambda value: f"{value:,.0f}"),
        ("Training", "time", ("train_seconds",), verdict.duration),
        ("Training", "examples/s", ("examples_per_second",), lambda value: f"{value:,.0f}"),
    ]
    for which, title in (("last", "Test set, last step"), ("best", "Test set, best step by validation")):
        plan += [(title, "step", (which, "step"), lambda value: f"{value:,.0f}")]
        metrics = [metric for metric in _metrics(results) if metric[1] != headline.error]  # that is the ± of another
        plan += [(title, label, (which, "test", name), show) for label, name, show in metrics]
    return plan


def _doubted(cell: str, model: Mapping[str, Any], path: tuple[str, ...]) -> str:
    """The cell with what its number is not: a stable timing, one of this run, a score of the teacher itself."""
    if cell == MISSING:
        return cell
    if (why := cost.doubt(model, *path)) == "unstable":
        low, high = cost.quartiles(model, *path) or (0.0, 0.0)
        return f"{low:.2g}–{high:.2g} ms, unstable"
    if path[1:2] == ("test",) and verdict.of_cached_answers(model):
        why = "cached"
    return f"{cell}, {why}" if why else cell


def _with_error(cell: str, value: float | None, error: float | None, unit: str) -> str:
    if value is None or error is None:
        return cell
    return f"{100 * value:.1f} ± {100 * error:.1f}" if unit == "%" else f"{cell} ± {error:.2g}"


def _metrics(results: Mapping[str, Any]) -> list[tuple[str, str, Callable[[float], str]]]:
    """(label, metric, how it is shown) in the order of the task; of one without `rows`, every number by its name."""
    rows = {name: tuple(row) for name, row in (results.get("rows") or {}).items() if row}
    if not rows:
        headline = verdict.headline_of(results)
        scores = [model.get("last", {}).get("test") or {} for model in verdict.models(results).values()]
        measured = [name for s in scores for name in s if number(s, name) is not None and name != headline.error]
        rows = {name: (name.replace("_", " "), headline.unit if name == headline.metric else "") for name in measured}
    return [(label, name, percent if unit == "%" else _with(unit)) for name, (label, unit) in rows.items()]


def _with(unit: str) -> Callable[[float], str]:
    return lambda value: f"{value:.3f} {unit}".rstrip()


def results_table(results: Mapping[str, Any]) -> str:
    """Returns the verdict, the summary table, the sections and the caveats as text for a terminal."""
    answer = verdict.judge(results)
    lines = [str(results.get("title") or "Results"), "Was it worth it? " + answer.headline]
    lines += [line for text in answer.paragraphs for line in textwrap.wrap(text, 100)]
    summary = _summary(results)
    lines += summary
    for section in sections.all_sections(results):
        if section["kind"] in sections.IN_TERMINAL:
            lines += [sections.text(section), summary[-1] if summary else ""]
    lines += [line for text in verdict.caveats(results) for line in textwrap.wrap(text, 100)]
    return "\n".join(lines) + "\n"


def _summary(results: Mapping[str, Any]) -> list[str]:
    """The lines of the summary table, with a rule before each section and at the end; none where it is empty."""
    trained, body = verdict.models(results), rows(results)
    head = [["", *trained], ["", *(str(model.get("name") or MISSING) for model in trained.values())]]
    cells = [[row.label, *row.cells.values()] for row in body]
    if not cells:
        return []
    widths = [max(len(row[i]) for row in (*head, *cells)) for i in range(len(head[0]))]
    rule = "-" * (sum(widths) + 3 * (len(widths) - 1))
    lines, section = ["", *(_line(row, widths) for row in head)], None
    for row, texts in zip(body, cells, strict=True):
        if row.section != section:
            lines += [rule, row.section]
            section = row.section
        lines.append(_line(texts, widths))
    return [*lines, rule]


def _line(texts: list[str], widths: list[int]) -> str:
    first, *rest = texts
    numbers = (text.rjust(width) for text, width in zip(rest, widths[1:], strict=True))
    return "   ".join([first.ljust(widths[0]), *numbers]).rstrip()
