"""What a scheme alone knows: tables, pictures and lines in report and terminal."""

import re

import pytest

from kd_jax.report import forms, page, table

TABLE = {
    "kind": "table",
    "title": "Bits",
    "lead": "Fewer.",
    "columns": ["bits", "accuracy"],
    "rows": [[8, 0.95], ["<4>", "-"]],
}
IMAGES = {
    "kind": "images",
    "title": "Made up",
    "lead": "By the generator.",
    "images": [[[0, 255], [9, 9]]] * 2,
    "labels": ["3", "4"],
}
LINES = {
    "kind": "lines",
    "title": "Front",
    "lead": "Pareto.",
    "x_label": "cost",
    "y_label": "accuracy",
    "lines": {"a": [[1, 2], [2, 3]], "b": []},
}


def results():
    scores = {"last": {"test": {"accuracy": 0.5}}, "best": {"test": {"accuracy": 0.75}}}
    student = {"name": "net", "last": {"test": {"accuracy": 0.9}}, "others": {"peers.logits@1": scores}}
    headline = {"metric": "accuracy", "sign": 1, "unit": "%", "error": ""}
    sections = [TABLE, IMAGES, LINES]
    return {"models": {"student": student}, "headline": headline, "data": {"test": 100}, "sections": sections}


def test_all_kinds_are_on_the_page():
    html = page.page(results())
    for words in (
        "Bits",
        "&lt;4&gt;",
        "0.95",
        "Made up",
        "Front",
        "accuracy",
        "peers.logits@1 (student&#x27;s run)",
        "75.00%",
    ):
        assert words in html, words
    assert len(re.findall("data:image/png", html)) == 2 and html.count("<svg") >= 1
    assert "teacher" not in html.partition("Also evaluated")[2].partition("<section>")[0]


def test_tables_are_on_the_terminal_too():
    shown = table.results_table(results())
    assert "Bits" in shown and "0.95" in shown and "Front: see the report." in shown


def test_a_section_that_cannot_be_shown_is_named():
    for section in (TABLE, IMAGES, LINES):
        forms.check_section(section)
    with pytest.raises(ValueError, match="'Bits' lacks columns, rows"):
        forms.check_section({"kind": "table", "title": "Bits", "lead": ""})
    with pytest.raises(ValueError, match="table, images, lines, texts, dots, examples, not 'plot'"):
        forms.check_section({"kind": "plot"})
