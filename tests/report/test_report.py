from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.figure import Figure

from kd_jax import report
from kd_jax.report import curves, page, table, verdict
from kd_jax.tasks import classify_show

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Checker(HTMLParser):
    """Every element is closed in order; collects attributes and the text."""

    def __init__(self):
        super().__init__()
        self.open, self.attributes, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        self.text.append(data)


def _check(html):
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert not checker.open
    ids = [value for _, name, value in checker.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    return checker, " ".join(" ".join(checker.text).split())


@pytest.fixture(scope="module")
def full(make_results):
    results = make_results(examples=2)
    return results, page.page(results)


def test_page_is_well_formed_and_complete(full):
    _, html = full
    _, text = _check(html)
    for heading in (
        "Was it worth it?",
        "side by side",
        "How they learned",
        "Size, speed",
        "Who gains",
        "Dark",
        "again",
    ):
        assert heading in text
    assert html.count("<svg") == 5 and html.count("<img") == 2
    assert "prefers-color-scheme" in html and 'name="viewport"' in html


def test_wide_tables_scroll_by_themselves(full):
    """On a phone a table is wider than the page; its first column stays, and its rows are in a card that scrolls."""
    css, _, body = full[1].partition("</style>")
    assert re.search(r"\.card:has\(> table\)\{[^}]*overflow-x:auto", css)
    assert re.search(r"tbody th\[scope=row\][^{]*\{position:sticky;left:", css)
    assert body.count("<table>") == body.count('<div class="card"><table>') > 0


def test_page_is_self_contained(full):
    checker, _ = _check(full[1])
    for tag, name, value in checker.attributes:
        if name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert value.startswith(("data:image/png;base64,", "#")), (tag, name, value)
        assert "url(" not in (value or "") or "url(#" in value
    assert not any(tag in ("script", "link", "iframe") for tag, *_ in checker.attributes)
    assert "http://" not in full[1] and "https://" not in full[1]
    assert "@import" not in full[1]


def test_figures_take_their_colours_from_the_page(full):
    body = full[1].split("</style>")[1]
    assert "var(--student)" in body and "var(--ink)" in body
    assert not re.search(r"(fill|stroke): #(?!000000|ffffff)[0-9a-f]{6}", body)


def test_ids_that_are_referred_to_exist(full):
    checker, _ = _check(full[1])
    ids = {value for _, name, value in checker.attributes if name == "id"}
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', full[1])) <= ids


def test_same_results_same_page(full):
    assert page.page(full[0]) == full[1]


def test_write_report(tmp_path, make_results):
    results = json.loads(json.dumps(make_results(examples=0)))
    path = report.write_report(results, tmp_path / "new")
    assert path == tmp_path / "new" / "report.html"
    _check(path.read_text(encoding="utf-8"))


def test_all_strings_are_escaped(make_results):
    evil = '<script>alert("1")</script>&'
    results = make_results(examples=1)
    results.update(title=evil, question=evil, git=evil, device=evil, command=evil, seed=evil)
    results["config"] = {evil: evil}
    results["versions"] = {evil: evil}
    results["data"].update(name=evil, class_names=[evil] * 10)
    results["sections"][0]["names"] = results["sections"][1]["names"] = [evil] * 10
    for model in results["models"].values():
        model["name"] = evil
        model["curve"] = [{**record, evil: 1.0} for record in model["curve"]]
    checker, text = _check(page.page(results))
    assert "script" not in {tag for tag, *_ in checker.attributes} and "alert" in text
    assert "<script" not in page.page(results)


@pytest.mark.parametrize("missing", [("baseline",), ("teacher",), ("student",), ("teacher", "baseline"), verdict.ROLES])
def test_models_may_be_missing(missing, make_results):
    results = make_results(examples=1)
    for role in missing:
        del results["models"][role]
    _, text = _check(page.page(results))
    assert report.results_table(results)
    if "baseline" in missing:
        assert verdict.judge(results).kind == "unknown"
    if "student" in missing:
        assert "no student" in text


def test_numbers_may_be_missing(make_results):
    """Every single value in turn would take long: all values at one depth are None, or gone."""

    def prune(tree, depth, remove):
        if not isinstance(tree, dict):
            return tree
        if depth == 0:
            return {} if remove else dict.fromkeys(tree)
        return {key: prune(value, depth - 1, remove) for key, value in tree.items()}

    results = make_results(examples=0)
    for depth in range(6):
        for remove in (True, False):
            pruned = prune(copy.deepcopy(results), depth, remove)
            if remove == bool(depth % 2):  # figures take their time
                _check(page.page(pruned))
            assert report.results_table(pruned)


def test_loaded_teacher_has_no_curve_and_no_training(make_results):
    results = make_results(examples=0)
    for key in ("curve", "steps", "train_seconds", "examples_per_second", "best"):
        del results["models"]["teacher"][key]
    _, text = _check(page.page(results))
    assert "Validation accuracy" in text
    assert table.MISSING in next(row for row in table.rows(results) if row.label == "steps").cells["teacher"]


def test_examples_may_be_bare(make_results):
    results = make_results(examples=3)
    section = results["sections"][1]
    first, second, third = section["examples"]
    first.update(image=None, student=None, student_soft=None, baseline=None, temperature=None)
    second.update(label=-1, image=np.zeros((8, 8, 1), np.uint8).tolist())
    third.update(image=np.asarray(third["image"], np.uint8), teacher_soft=np.asarray(third["teacher_soft"]))
    section["names"] = []
    html = page.page(results)
    _check(html)
    assert html.count("<img") == 2
    assert isinstance(report.plot_dark_knowledge(results), Figure)


@pytest.mark.parametrize(
    ("accuracy", "kind", "words"),
    [
        ((0.936, 0.917, 0.928), "gain", ("Yes: +1.1 points", "closes 58% of the gap of 1.9 points")),
        ((0.936, 0.917, 0.941), "gain", ("Yes: +2.4", "closes all of the gap")),
        (
            (0.936, 0.917, 0.920),
            "noise",
            ("Not measurably: +0.3", "inside the noise", "±0.8", "(within noise, as above)"),
        ),
        ((0.936, 0.917, 0.917), "noise", ("Not measurably: 0.0 points",)),
        ((0.936, 0.917, 0.890), "loss", ("No: −2.7 points", "better off without", "widens the gap")),
        ((0.918, 0.917, 0.930), "gain", ("Yes: +1.3", "is not measurably better than the baseline", "no gap to close")),
        ((0.890, 0.917, 0.890), "loss", ("is worse than the baseline",)),
    ],
)
def test_verdict(accuracy, kind, words, make_results):
    answer = verdict.judge(make_results(accuracy=accuracy, examples=0))
    assert answer.kind == kind
    said = " ".join((answer.headline, *answer.paragraphs))
    for word in words:
        assert word in said
    assert "3.1× smaller" in said and "3.1× fewer FLOPs" in said and "2.4× faster on one image" in said


def test_noise_depends_on_the_test_set(make_results):
    results = make_results(accuracy=(0.936, 0.917, 0.928), examples=0)
    assert verdict.judge(results).kind == "gain"
    for model in results["models"].values():
        model["last"]["test"]["accuracy_error"] *= 10**0.5
    assert verdict.judge(results).kind == "noise"
    results["models"]["student"]["last"]["test"]["accuracy_error"] = None
    assert verdict.judge(results).kind == "unknown"
    results = make_results(accuracy=(0.936, 0.917, 0.928), examples=0)
    results["models"]["student"]["last"]["test"]["accuracy_error"] = None  # that of the teacher is there
    assert "closes 58% of the gap" in " ".join(verdict.judge(results).paragraphs)
    gap, noise = verdict.difference(make_results(accuracy=(0.9, 0.5, 0.5), examples=0), "student", "baseline")
    assert (gap, noise) == (0.0, pytest.approx(2 * (2 * 0.25 / 10_000) ** 0.5))


def test_verdict_names_what_got_worse(make_results):
    results = make_results(examples=0)
    results["models"]["student"].update(parameters=2 * 855_770, flops=1.26e8, latency_ms={"1": 6.2, "128": None})
    results["models"]["baseline"]["name"] = "resnet14"
    said = " ".join(verdict.judge(results).paragraphs)
    assert "is 2.0× larger" in said and "about as many FLOPs" in said and "2.0× slower on one image" in said
    assert "128 images" not in said and "another network (resnet14)" in said


def test_caveats_name_the_selection(make_results):
    text = " ".join(verdict.caveats(make_results(examples=0)))
    assert "5,000 held-out" in text and "student 61,000" in text and "one seed" in text
    results = make_results(examples=0)
    for model in results["models"].values():
        model["best"] = None
    assert "Nothing was selected" in verdict.caveats(results)[0]


def test_results_table(make_results):
    text = report.results_table(make_results(examples=0))
    assert max(map(len, text.splitlines())) <= 100
    line = next(line for line in text.splitlines() if line.startswith("accuracy"))
    assert re.split(r"\s{3,}", line)[1:] == ["93.6 ± 0.2", "91.7 ± 0.3", "92.8 ± 0.3"]
    assert "Was it worth it? Yes" in text and "856 k" in text and "3.26 MiB" in text


def test_figures_for_a_notebook(make_results):
    results = make_results(classes=30, accuracy=(0.72, 0.69, 0.70), examples=1)
    for plot, panels in (
        (report.plot_curves, 2),
        (report.plot_tradeoff, 2),
        (report.plot_per_class, 1),
        (report.plot_dark_knowledge, 2),
    ):
        assert len(plot(results).axes) == panels
    assert report.plot_tradeoff(results)._repr_png_().startswith(b"\x89PNG")
    assert len(results["sections"][0]["names"]) == classify_show.MOST
    for plot in (report.plot_curves, report.plot_tradeoff, report.plot_per_class, report.plot_dark_knowledge):
        with pytest.raises(ValueError, match="results"):
            plot({"models": {}})


def test_figures_do_not_use_pyplot(full):
    import matplotlib.pyplot

    assert matplotlib.pyplot.get_fignums() == []


def test_long_curves_are_averaged():
    model = {"curve": [{"step": step, "loss": step % 2} for step in range(1, 1001)] + [{"step": 1001, "loss": None}]}
    steps, values = curves.curve(model, "loss")
    assert len(steps) == 250 and steps[0] == 2.5
    np.testing.assert_allclose(values, 0.5)


def test_class_gaps_are_sorted_and_signed(make_results, class_gaps):
    results = make_results(examples=0)
    for role, scores in {"teacher": [0.9, 0.9, 0.9], "baseline": [0.5, 0.5, 0.5], "student": [0.4, 0.8, 0.6]}.items():
        results["models"][role]["last"]["test"]["per_class_accuracy"] = scores
    section = class_gaps(results)[0]
    assert section["names"] == ["automobile", "bird", "airplane"]
    np.testing.assert_allclose(section["series"]["baseline"], [30, 10, -10])
    np.testing.assert_allclose(section["series"]["teacher"], [-10, -30, -50])
