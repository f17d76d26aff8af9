"""What a figure must not do: write over itself, hide a model behind its equal, or count beyond 100 %."""

import copy
import itertools

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text

from kd_jax import report
from kd_jax.report import figures, page, sections, surface
from kd_jax.report.labels import limits
from kd_jax.report.style import LIGHT

ROLES = ("teacher", "baseline", "student")


def drawn(figure):
    with figures.styled():
        figure.draw_without_rendering()
    return figure


def check_apart(boxes):
    for a, b in itertools.combinations(boxes, 2):
        assert not a.overlaps(b), (a, b)


def check_legends(figure):
    """Legends are above their axes and below the title, whole, and their names do not lie on each other."""
    checked = 0
    for axes in drawn(figure).axes:
        legend = axes.get_legend()
        if legend is not None:
            checked += 1
            box, name = legend.get_window_extent(), axes.get_title(loc="left")
            assert box.y0 >= axes.get_window_extent().y1
            assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
            if name:
                (title,) = (t.get_window_extent() for t in axes.findobj(Text) if t.get_text() == name)
                assert title.y0 >= box.y1 and title.y1 <= figure.bbox.y1 + 1
            check_apart([text.get_window_extent() for text in legend.get_texts()])
    return checked


@pytest.fixture
def tied(make_results):
    """Teacher, baseline and student are one network with one curve, and right on every example."""
    results = make_results(accuracy=(1.0, 1.0, 1.0), examples=0)
    models = results["models"]
    for role in ROLES:
        models[role] = copy.deepcopy(models["student"])
        models[role]["last"]["test"]["accuracy_error"] = 0.004
        for record in models[role]["curve"]:
            record |= {"validation_accuracy": 1.0} if "validation_accuracy" in record else {}
        models[role]["best"]["validation"]["accuracy"] = 1.0
    return results


def test_legends_are_above_the_axes(make_results, tied):
    results = make_results(examples=1)
    for record in results["models"]["student"]["curve"]:
        names = ("attention_transfer", "relation_distance", "relation_angle", "contrastive", "hidden_states")
        record |= dict.fromkeys((f"{name}_of_the_second_stage" for name in names), 1.0)
    for made in (results, tied):
        assert check_legends(report.plot_curves(made)) == 2
        assert check_legends(report.plot_tradeoff(made)) == 2
        assert check_legends(report.plot_per_class(made)) == 1
    assert check_legends(report.plot_dark_knowledge(results)) == 1


def test_no_two_terms_look_alike(make_results):
    results = make_results(examples=0)
    for record in results["models"]["student"]["curve"]:
        record |= {f"term {i}": 1.0 + i for i in range(12)}
    lines = report.plot_curves(results).axes[0].lines
    assert len({(to_hex(line.get_color()), line.get_linestyle()) for line in lines}) == len(lines) == 15


def test_nothing_reaches_a_legend(tied):
    """Marks at 100 % stand out of the axes, and the areas of the models would reach the names above."""
    for figure in (drawn(report.plot_tradeoff(tied)), drawn(report.plot_curves(tied))):
        for axes in figure.axes:
            floor = axes.get_legend().get_window_extent().y0
            for line in axes.lines:
                half = line.get_markersize() / 2 * figure.dpi / 72 if line.get_marker() not in ("None", "none") else 0
                top = line.get_transform().transform(np.column_stack(line.get_data()).astype(float))[:, 1].max() + half
                assert top < floor
            assert all(areas.get_clip_on() for areas in axes.collections)


def test_legends_of_sections_are_above_the_axes():
    section = {
        "x_label": "cost",
        "y_label": "score",
        "lines": {f"a front of number {i}": [[0, 9], [1, 9]] for i in "abcdefg"},
    }
    assert check_legends(figures.figure_of([lambda axes, _: sections.draw_lines(axes, section)], {})) == 1


def test_shares_end_at_100(tied):
    validation = report.plot_curves(tied).axes[1]
    for axes in (validation, *report.plot_tradeoff(tied).axes):
        assert axes.get_ylim()[1] == 100 and axes.get_ylim()[0] < 100
        heights = np.concatenate([line.get_ydata() for line in axes.lines])
        assert heights.max() == 100  # also the ends of the bars of two standard errors


def test_a_curve_at_100_is_drawn_whole(tied):
    axes = drawn(report.plot_curves(tied)).axes[1]
    for line in axes.lines[::2]:  # the others are the marks of the best steps
        top = line.get_window_extent().y1 + line.get_linewidth()
        assert line.get_clip_box().y1 > top, "cut by the edge of the axes"


def test_rates_of_errors_may_be_above_100():
    assert limits(20.0, 120.0, 5.0, share=True) == (15.0, 125.0)
    assert limits(20.0, 99.0, 5.0, share=True) == (15.0, 100.0)
    assert limits(100.0, 100.0, 0.5, share=True) == (99.5, 100.0)
    assert limits(0.1, 3.0, 0.5, share=False) == (0.0, 3.5)
    assert limits(-1.0, 3.0, 0.5, share=False) == (-1.5, 3.5)


def where(axes, line):
    """The middle of a line's last point, in pixels."""
    return line.get_transform().transform(np.array([line.get_xdata()[-1], line.get_ydata()[-1]], float))


def test_equal_models_are_seen(tied):
    for axes in drawn(report.plot_tradeoff(tied)).axes:
        markers = [line for line in axes.lines if line.get_marker() not in ("None", "none", "")]
        assert len(markers) == 3
        places = [where(axes, line) for line in markers]
        for a, b in itertools.combinations(places, 2):
            assert abs(a[0] - b[0]) > 6 * axes.figure.dpi / 72, "one marker lies on another"
    axes = drawn(report.plot_curves(tied)).axes[1]
    curves = axes.lines[::2]
    assert len({to_hex(line.get_color()) for line in curves}) == 3
    heights = sorted(where(axes, line)[1] for line in curves)
    assert min(np.diff(heights)) > 1.5 * axes.figure.dpi / 72, "one curve lies on another"


def test_equal_dots_are_seen(tied):
    tied["sections"][0]["series"] = {role: [0.0] * 10 for role in ("teacher", "baseline")}
    one, other = report.plot_per_class(tied).axes[0].lines[1:]
    assert set(one.get_ydata()).isdisjoint(other.get_ydata())


def single(results, step=1000):
    for model in results["models"].values():
        model["curve"] = [record for record in model["curve"] if record["step"] == step]
        model["best"]["step"] = step
    return results


def test_one_evaluation_says_so(make_results):
    results = single(make_results(examples=0))
    loss, validation = drawn(report.plot_curves(results)).axes
    assert loss.get_title(loc="left") == "Loss of the student, one record"
    assert validation.get_title(loc="left") == "Validation accuracy (%), one evaluation"
    assert [line.get_marker() for line in validation.lines] == ["s", "^", "o"]  # a line of one point is not seen
    assert {line.get_marker() for line in loss.lines} == {"o"}
    assert "One evaluation each" in page.page(results) and "Marks: the best steps" not in page.page(results)
    check_legends(report.plot_curves(results))
    more = make_results(examples=0)
    assert "one evaluation" not in report.plot_curves(more).axes[1].get_title(loc="left")
    assert "Marks: the best steps" in page.page(more)


def test_one_evaluation_with_ties(tied):
    axes = drawn(report.plot_curves(single(tied))).axes[1]
    places = sorted(where(axes, line)[0] for line in axes.lines)
    assert len(places) == 3 and min(np.diff(places)) > 6 * axes.figure.dpi / 72
    assert where(axes, axes.lines[-1])[0] < axes.figure.bbox.x1


def test_only_what_was_measured_is_told(make_results):
    results = make_results(examples=0)
    for model in results["models"].values():
        model["curve"] = [{k: v for k, v in record.items() if "validation" not in k} for record in model["curve"]]
    assert "nothing was evaluated on validation" in page.page(results)


def test_rows_of_a_table_are_not_called_images(make_results):
    results = make_results(examples=1)
    results["data"]["noun"] = results["sections"][0]["noun"] = "example"
    results["sections"][0]["lead"] = "Within the noise of so few examples."
    results["sections"][1]["examples"][0]["image"] = None
    for text in (page.page(results), report.results_table(results)):
        body = text.partition("</style>")[2] or text
        assert "example" in body and "image" not in body.replace("image_shape", "")
    assert 'class="card example bare"' in page.page(results)  # no empty place for a picture


def test_answers_to_tokens_are_counted_in_tokens(make_results):
    results = make_results(examples=0)
    results["data"] |= {"noun": "sequence", "per_token": True}
    html = page.page(results)
    assert "of the test tokens" in html and "held-out sequences" in html and "latency, 128 sequences" in html


def test_the_error_of_the_headline_is_no_line_of_its_own(make_results):
    results = make_results(examples=0)
    results["rows"]["accuracy_error"] = ["its standard error", ""]
    assert "its standard error" not in page.page(results) and "± error" in page.page(results)


def swept(settings, models=None):
    """sweep.json of {(temperature, weight): score}."""
    rows = [
        {
            "setting": {"terms.kd.kwargs.temperature": t, "terms.kd.weight": w},
            "seeds": 2,
            "diverged": 0,
            "validation": {"mean": score, "std": 0.01},
            "test": {"mean": score, "std": 0.01},
            "error": 0.02,
        }
        for (t, w), score in settings.items()
    ]
    headline = {"metric": "accuracy", "sign": 1, "unit": "%", "error": "accuracy_error"}
    return {"rows": rows, "headline": headline, "trials": 40, "models": models or {}}


def test_numbers_of_a_search_do_not_lie_on_each_other():
    rng = np.random.default_rng(0)
    near = {(2 + rng.uniform(0, 0.4), 0.5 + rng.uniform(0, 0.1)): 0.9 - i / 100 for i in range(30)}
    axes = drawn(surface.plot_surface(swept({**near, (8.0, 2.0): 0.5}))).axes[0]
    shown = [text for text in axes.texts if text.get_visible()]
    assert 2 <= len(shown) < 31 and shown[0].get_text() == "90"  # the best has its number
    check_apart([text.get_window_extent() for text in shown])


def test_the_line_of_a_sweep_has_teacher_and_baseline():
    models = {
        "teacher": {"validation": {"mean": 0.995, "std": None}},
        "baseline": {"validation": {"mean": 0.9, "std": 0.01}},
        "unscored": {"last": {}},
    }
    figure = drawn(surface.plot_surface(swept({(1.0, 0.5): 0.97, (4.0, 0.5): 0.99}, models)))
    axes = figure.axes[0]
    assert check_legends(figure) == 1
    assert {text.get_text() for text in axes.get_legend().get_texts()} == {"student", "teacher", "baseline"}
    assert axes.get_ylim()[1] == 100
    assert max(path.vertices[:, 1].max() for line in axes.collections for path in line.get_paths()) <= 100


@pytest.mark.parametrize("theme", ["teacher", "baseline", "student"])
def test_legend_colours_are_those_of_the_page(make_results, theme):
    handles = report.plot_curves(make_results(examples=0)).axes[1].get_legend().legend_handles
    assert LIGHT[theme] in {to_hex(handle.get_color()) for handle in handles}
