"""What is not known of a number is in the table and stays out of the sentences; a run that ended early says so."""

import pytest

from kd_jax import report
from kd_jax.report import cost, page, table, verdict


def said(results):
    answer = verdict.judge(results)
    return " ".join((answer.headline, *answer.paragraphs))


def row(results, label, section="Cost"):
    return next(r for r in table.rows(results) if r.label == label and r.section.startswith(section)).cells


def spread(results, role, low, high, batch="1"):
    results["models"][role].setdefault("latency_spread_ms", {})[batch] = [low, high]


def test_a_stable_timing_is_compared(make_results):
    results = make_results(examples=0)
    spread(results, "teacher", 3.0, 3.3)
    spread(results, "student", 1.2, 1.4)
    assert "2.4× faster on one image" in said(results)
    assert row(results, "latency, 1 image") == {"teacher": "3.1 ms", "baseline": "1.3 ms", "student": "1.3 ms"}


def test_an_unstable_timing_is_compared_with_nothing(make_results):
    results = make_results(examples=0)
    spread(results, "teacher", 3.0, 3.3)
    spread(results, "student", 0.9, 2.6)
    assert "one image" not in said(results) and "faster on 128 images" in said(results)
    assert not any("one image" in what for _, what in verdict.judge(results).facts)
    assert row(results, "latency, 1 image")["student"] == "0.9–2.6 ms, unstable"
    assert max(map(len, report.results_table(results).splitlines())) <= 100
    assert "0.9–2.6 ms, unstable" in page.page(results)


def test_timings_whose_quartiles_overlap_are_alike(make_results):
    results = make_results(examples=0)
    spread(results, "teacher", 1.25, 3.2)
    results["models"]["teacher"]["latency_ms"]["1"] = 1.5
    spread(results, "student", 1.2, 1.4)
    results["models"]["teacher"]["latency_spread_ms"]["1"] = [1.3, 1.6]
    assert "takes about as long on one image" in said(results)


def test_a_timing_of_an_earlier_run_is_compared_with_nothing(make_results):
    results = make_results(examples=0)
    results["models"]["teacher"]["latency_apart"] = True
    assert "image" not in said(results).partition("Against the teacher")[2].partition(".")[0]
    assert row(results, "latency, 128 images")["teacher"] == "41 ms, earlier"


def test_flops_that_were_not_counted_are_a_line_of_dashes(make_results):
    results = make_results(examples=0)
    for model in results["models"].values():
        model["flops"] = None
    assert set(row(results, "FLOPs per image").values()) == {table.MISSING} and "FLOPs" not in said(results)
    for model in results["models"].values():  # nothing was measured without a report
        for name in ("parameters", "bytes", "flops", "latency_ms"):
            del model[name]
    assert "Cost" not in {r.section for r in table.rows(results)}


def test_scores_of_cached_answers_are_marked_and_close_no_gap(make_results):
    results = make_results(examples=0)
    teacher = results["models"]["teacher"]
    teacher["answers"] = {"k": 5, "dtype": "uint8"}
    assert "closes 58% of the gap" in said(results)  # its own scores, whatever the cache holds
    told = " ".join(verdict.caveats(results))
    assert "The teacher's 5 largest log-probabilities and the sum of the rest were cached in uint8" in told
    assert "The scores in its column are its own." in told
    teacher["last"]["of"] = "cached answers"
    assert "gap" not in said(results)
    assert row(results, "NLL", "Test set, last")["teacher"].endswith(", cached")
    assert "The scores in its column are of its cached answers too" in " ".join(verdict.caveats(results))
    teacher["answers"] = {"k": 0, "dtype": "float16"}
    assert "logits were cached in float16" in " ".join(verdict.caveats(results))


def climbing(results, roles=verdict.ROLES, final=0.05, error=0.01, last=1_000):
    """Gives the curves of `roles` ten evaluations that rise by `final` in the last tenth."""
    for role in roles:
        model = results["models"][role]
        values = [0.3 + 0.04 * i for i in range(9)]
        values.append(values[-1] + final)
        model["curve"] = [
            {"step": (i + 1) * last // 10, "validation_accuracy": v, "validation_accuracy_error": error}
            for i, v in enumerate(values)
        ]


@pytest.mark.parametrize(
    ("accuracy", "answer", "words"),
    [
        ((0.6, 0.55, 0.5), "unknown", "Not known yet: −5.0 points against training alone, and all were still"),
        ((0.6, 0.55, 0.551), "not measurable", "is within noise. Train longer."),
        ((0.6, 0.55, 0.6), "yes", "Yes: +5.0 points"),
    ],
)
def test_a_run_in_which_all_were_improving_says_train_longer(make_results, accuracy, answer, words):
    results = make_results(accuracy=accuracy, examples=0)
    climbing(results)
    judged = verdict.judge(results).as_json(verdict.headline_of(results))
    assert judged["answer"] == answer and words in judged["text"] and "rain longer" in judged["text"]
    assert "Teacher, baseline and student were all still improving" in judged["text"]
    assert "better off without" not in judged["text"]


@pytest.mark.parametrize(
    "changes",
    [
        {"final": 0.015},  # less than two standard errors
        {"final": -0.05},
        {"error": None},
        {"roles": ("baseline", "student")},  # the teacher has learned what it can
    ],
)
def test_a_run_that_had_ended_says_no(make_results, changes):
    results = make_results(accuracy=(0.6, 0.55, 0.5), examples=0)
    climbing(results)
    for role in changes.get("roles", verdict.ROLES):
        climbing(results, (role,), **{k: v for k, v in changes.items() if k != "roles"})
    if "roles" in changes:
        climbing(results, ("teacher",), final=0.0)
    assert verdict.judge(results).kind == "loss" and "rain longer" not in said(results)


def test_a_loaded_teacher_has_nothing_to_improve(make_results):
    results = make_results(accuracy=(0.6, 0.55, 0.5), examples=0)
    climbing(results)
    del results["models"]["teacher"]["curve"]
    assert "Baseline and student were all still improving" in said(results)
    for role in ("baseline", "student"):  # three evaluations do not show it
        del results["models"][role]["curve"][:7]
    assert verdict.judge(results).kind == "loss"


def test_errors_and_units(make_results):
    assert cost.quartiles({"latency_spread_ms": {"1": [1, 2]}}, "flops") is None
    assert cost.doubt({"latency_ms": {"1": 1.0}}, "latency_ms", "1") == ""
    results = make_results(accuracy=(0.6, 0.55, 0.5), examples=0)
    climbing(results)
    results["headline"] |= {"sign": -1}  # rising is getting worse
    assert "rain longer" not in said(results)
