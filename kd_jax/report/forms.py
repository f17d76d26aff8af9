"""What a section of the report looks like, and the one line that answers a section of another form.

A section is a dict with "kind", "title" and "lead" (a sentence), and
    table   "columns": names, "rows": lists of texts or numbers
    images  "images": lists [H][W] or [H][W][3] of 0..255, "labels": a text for each
    lines   "x_label", "y_label", "lines": {name: [[x, y], ...]}; "marks": True draws points that no line joins
    texts   "texts": texts of several lines, "labels": a text for each
    dots    "names", "series": {role: a number for each name}, "band": half a width around 0 or None, "x_label"
    examples  "examples": what teacher and student say of single ones (report/examples.py), "names" of the classes
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kd_jax.report.verdict import ROLES

NEEDED = {
    "table": ("columns", "rows"),
    "images": ("images", "labels"),
    "lines": ("x_label", "y_label", "lines"),
    "texts": ("texts", "labels"),
    "dots": ("names", "series", "band", "x_label"),
    "examples": ("examples", "names"),
}


def check_sections(sections: Any, who: str) -> list[dict[str, Any]]:
    """Returns what `who` gave as sections of the report; ValueError that names it unless all of them can be shown."""
    if not isinstance(sections, (list, tuple)):
        raise ValueError(f"{who} returns a list of sections of the report, not a {type(sections).__name__}.")
    for section in sections:
        try:
            check_section(section)
        except ValueError as e:
            raise ValueError(f"{who}: {e}") from e
    return list(sections)


def check_section(section: Mapping[str, Any]) -> None:
    """Raises ValueError for a section that cannot be shown, or not be written as JSON."""
    if not isinstance(section, Mapping):
        raise ValueError(
            f"A section of the report is a dict with kind, title and lead, not a {type(section).__name__}."
        )
    if section.get("kind") not in NEEDED:
        raise ValueError(f"A section of the report is one of {', '.join(NEEDED)}, not {section.get('kind')!r}.")
    missing = [name for name in ("title", "lead", *NEEDED[section["kind"]]) if name not in section]
    if missing:
        raise ValueError(f"The section {section.get('title', '')!r} lacks {', '.join(missing)}.")
    try:
        json.dumps(section)
    except TypeError as e:
        wrong = str(e).removeprefix("Object of type ").partition(" is not")[0]
        raise ValueError(
            f"The section {section['title']!r} holds a value of type {wrong}, and results.json lists, texts and "
            "numbers: float(x) or x.tolist() makes one of an array."
        ) from e
    if section["kind"] in FORMS and (wrong := FORMS[section["kind"]](section)):
        raise ValueError(f"The section {section['title']!r}: {wrong}.")


def _table(section: Mapping[str, Any]) -> str:
    for number, row in enumerate(section["rows"]):
        if not isinstance(row, (list, tuple)) or len(row) != len(section["columns"]):
            cells = len(row) if isinstance(row, (list, tuple)) else f"{row!r}, no"
            return f"row {number} has {cells} cells for {len(section['columns'])} columns"
    return ""


def _images(section: Mapping[str, Any]) -> str:
    for number, image in enumerate(section["images"]):
        try:
            pixels = np.asarray(image, np.float64)
        except (TypeError, ValueError):
            return f"image {number} is no array of numbers"
        if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[-1] not in (1, 3)):
            return f"image {number} is {list(pixels.shape)}, expected [H, W], [H, W, 1] or [H, W, 3]"
        if not (np.isfinite(pixels).all() and 0 <= pixels.min() and pixels.max() <= 255):
            return f"image {number} has values from {pixels.min():g} to {pixels.max():g}, expected 0..255"
    return _as_many(section, "images", "labels")


def _texts(section: Mapping[str, Any]) -> str:
    if wrong := [text for text in section["texts"] if not isinstance(text, str)]:
        return f"{wrong[0]!r} is no text"
    return _as_many(section, "texts", "labels")


def _as_many(section: Mapping[str, Any], what: str, names: str) -> str:
    many, few = len(section[what]), len(section[names])
    return "" if many == few else f"{many} {what} and {few} {names}"


def _lines(section: Mapping[str, Any]) -> str:
    if not isinstance(section["lines"], Mapping):
        return f"lines are {{name: [[x, y], ...]}}, not a {type(section['lines']).__name__}"
    for name, points in section["lines"].items():
        if any(not isinstance(point, (list, tuple)) or len(point) != 2 for point in points):
            return f"the line {name!r} is not a list of [x, y]"
    return ""


def _dots(section: Mapping[str, Any]) -> str:
    if not isinstance(section["series"], Mapping):
        return f"series are {{role: numbers}}, not a {type(section['series']).__name__}"
    for role, values in section["series"].items():
        if role not in ROLES:
            return f"{role!r} is none of the models {', '.join(ROLES)}"
        if len(values) != len(section["names"]):
            return f"{len(values)} numbers of the {role} for {len(section['names'])} names"
    return ""


def _examples(section: Mapping[str, Any]) -> str:
    for number, example in enumerate(section["examples"]):
        if missing := [name for name in ("label", "teacher_soft") if example.get(name) is None]:
            return f"example {number} lacks {', '.join(missing)}"
    return ""


FORMS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "table": _table,
    "images": _images,
    "texts": _texts,
    "lines": _lines,
    "dots": _dots,
    "examples": _examples,
}
