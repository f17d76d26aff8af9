"""What a scheme alone knows, in the report: the sections of Scheme.summary, and the scores of all that it evaluates.

kd_jax/report/forms.py says what a section is.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from html import escape
from typing import Any

import matplotlib.image
import numpy as np
from matplotlib.axes import Axes

from kd_jax.report.labels import legend_above
from kd_jax.report.style import LIGHT
from kd_jax.report.verdict import ROLES, headline_of, models
from kd_jax.tasks.units import MISSING, name_of, score_text

IN_TERMINAL = ("table", "images", "lines", "texts")


def all_sections(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Returns the sections of scheme and task, after a table of what else was evaluated, where there is more."""
    headline, rows = headline_of(results), []
    for role, model in models(results).items():
        for name, scores in (model.get("others") or {}).items():
            values = [score_text(headline, (scores.get(which) or {}).get("test") or {}) for which in ("last", "best")]
            rows.append([f"{name} ({role}'s run)", *values])
    lead = f"Everything else that the run evaluated, on the test set: {name_of(headline)}."
    columns = ["", "last step", "best step by validation"]
    others = {"kind": "table", "title": "Also evaluated", "lead": lead, "columns": columns, "rows": rows}
    return [*([others] if rows else []), *(results.get("sections") or [])]


def text(section: Mapping[str, Any]) -> str:
    """Returns a section as text for the terminal: a table in full, of another kind its title, as the report has it."""
    if section["kind"] != "table":
        return f"{section['title']}: see the report."
    cells = [[str(c) for c in section["columns"]], *([shown(c) for c in row] for row in section["rows"])]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["   ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([section["title"], *lines])


def shown(value: Any) -> str:
    if value is None:  # not measured
        return MISSING
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def table(section: Mapping[str, Any]) -> str:
    head = "".join(f'<th scope="col">{escape(str(c))}</th>' for c in section["columns"])
    lines = []
    for first, *rest in section["rows"]:
        cells = "".join(f"<td>{escape(shown(cell))}</td>" for cell in rest)
        lines.append(f'<tr><th scope="row">{escape(shown(first))}</th>{cells}</tr>')
    body = "\n".join(lines)
    return f'<div class="card"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def images(section: Mapping[str, Any]) -> str:
    pictures = "\n".join(
        f'<figure class="sample"><img src="{png(image)}" alt="{escape(str(label))}">'
        f"<figcaption>{escape(str(label))}</figcaption></figure>"
        for image, label in zip(section["images"], section["labels"], strict=True)
    )
    return f'<div class="card samples">{pictures}</div>'


def texts(section: Mapping[str, Any]) -> str:
    pairs = zip(section["labels"], section["texts"], strict=True)
    return "\n".join(f'<div class="card">{escape(str(label))}<pre>{escape(text)}</pre></div>' for label, text in pairs)


def png(image: Any) -> str:
    """Returns the data URL of an image [H, W], [H, W, 1] or [H, W, 3] with values 0..255."""
    pixels = np.asarray(image, np.uint8)
    if pixels.ndim == 2 or pixels.shape[-1] == 1:
        pixels = np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=-1)
    buffer = io.BytesIO()
    matplotlib.image.imsave(buffer, pixels, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def draw_lines(axes: Axes, section: Mapping[str, Any]) -> None:
    for name, points in section["lines"].items():
        if points:
            style = {"linestyle": "none"} if section.get("marks") else {}
            style |= {"color": LIGHT[name]} if name in ROLES else {}  # a model has its colour in all figures
            axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=name, **style)
    axes.set_xlabel(section["x_label"])
    axes.set_ylabel(section["y_label"])
    if len(section["lines"]) > 1:
        legend_above(axes)


HTML = {"table": table, "images": images, "texts": texts}  # of lines there is a figure
