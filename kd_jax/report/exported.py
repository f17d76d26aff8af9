"""The exported formats of a run's networks in its report: size of the file that ships, speed, and what they answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from kd_jax.report.cost import number
from kd_jax.report.labels import legend_above, limits
from kd_jax.report.style import LIGHT

FOLDER, RECORD = "exported", "export.json"  # of a training's folder: kd_jax/export/run.py writes it
ROLES = ("teacher", "student")
EXACT = ("safetensors", "stablehlo")  # formats that answer what JAX's own program does
SHAPES = ("o", "s", "^", "D", "v", "P", "X", "*")  # of formats, in the order of the record


def records_of(directory: Path) -> dict[str, list[dict[str, Any]]]:
    """Returns {role: what its export.json says}, of the roles of a workdir that have one."""
    files = {role: directory / role / FOLDER / RECORD for role in ROLES}
    return {role: json.loads(path.read_text(encoding="utf-8")) for role, path in files.items() if path.is_file()}


def points(results: Mapping[str, Any]) -> list[tuple[str, str, float, float, float]]:
    """Returns (role, format, milliseconds of one example, accuracy in %, bytes) of every format that has all of them.

    JAX's own program, which is measured beside each, is a format too; its bytes are those of the arrays.
    """
    made: list[tuple[str, str, float, float, float]] = []
    for role, records in (results.get("exports") or {}).items():
        model = (results.get("models") or {}).get(role) or {}
        for record in records:
            x, y = number(record, "latency_ms", "1"), number(record, "accuracy")
            if x and y is not None:
                made.append((role, record["format"], x, 100 * y, record["bytes"]))
        exact = next((r for r in records if r["format"] in EXACT and number(r, "jax_latency_ms", "1")), {})
        x, y, size = number(exact, "jax_latency_ms", "1"), number(exact, "accuracy"), number(model, "bytes")
        if x and y is not None and size:
            made.append((role, "jit", x, 100 * y, size))
    return made


def draw(axes: Axes, results: Mapping[str, Any]) -> None:
    """Draws accuracy against latency, a mark for each format of each role, in areas of the bytes that ship."""
    shown = points(results)
    formats = list(dict.fromkeys(format for _, format, *_ in shown))
    largest = max(size for *_, size in shown)
    for role, format, x, y, size in shown:
        marker = SHAPES[formats.index(format) % len(SHAPES)]
        axes.scatter([x], [y], 60 + 900 * size / largest, color=LIGHT[role], alpha=0.18, lw=0)
        axes.plot([x], [y], marker, color=LIGHT[role], ms=6, ls="none", label=f"{role} {format}")
    heights = [y for *_, y, _ in shown]
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.set_ylim(*limits(min(heights), max(heights), 0.2 * (max(heights) - min(heights)) + 0.3, True))
    axes.set_xlabel("latency of one example (ms)")
    legend_above(axes, "Accuracy (%) of the exported files", handle=1.0)


def table(results: Mapping[str, Any]) -> str:
    """Returns the formats as an HTML table: bytes, difference from JAX, equal answers, latency, peak memory."""
    head = ("", "bytes", "largest difference", "equal answers", "ms of 1", "ms of 64", "peak memory")
    lines = []
    for role, records in (results.get("exports") or {}).items():
        for record in records:
            cells = [f"{role} {record['format']}", f"{record['bytes']:,}", *_compared(record)]
            cells += [_shown(number(record, "latency_ms", batch), "{:.3g}") for batch in ("1", "64")]
            memory = number(record, "peak_memory_bytes")
            cells.append("-" if memory is None else f"{memory / 1e6:.0f} MB")
            first, *rest = map(escape, cells)
            lines.append(f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>')
    heads = "".join(f'<th scope="col">{name}</th>' for name in head)
    return f"<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{''.join(lines)}\n</tbody></table>"


def _compared(record: Mapping[str, Any]) -> tuple[str, str]:
    difference, equal = (number(record, "parity", name) for name in ("largest_difference", "share_equal"))
    return _shown(difference, "{:.1e}"), _shown(equal, "{:.1%}")


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
