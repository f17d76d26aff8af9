"""Gaps between classes and groups against values by hand and fairlearn's; errors that two networks share."""

import numpy as np
import pytest
from mistakes import config, data, run

import kd_jax
from kd_jax.measure.groups import by_group, counts, worst_class
from kd_jax.measure.inherited import inherited

# Ten people of group a: 4 of 5 positives and 1 of 5 negatives are answered yes; ten of b: 1 of 4 and 0 of 6.
LABELS = np.array([1] * 5 + [0] * 5 + [1] * 4 + [0] * 6)
ANSWERS = np.array([1, 1, 1, 1, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0])
GROUPS = np.array([0] * 10 + [1] * 10)


def random_answers(classes, groups=3, n=600, seed=0):
    rng = np.random.default_rng(seed)
    labels, group = rng.integers(0, classes, n), rng.integers(0, groups, n)
    answers = np.where(rng.random(n) < 0.6 + 0.1 * group, labels, rng.integers(0, classes, n))
    return answers, labels, group


def test_by_hand():
    rates = by_group(counts(ANSWERS, LABELS, GROUPS, 2, 2), ("a", "b"))
    assert rates["groups"]["a"] == pytest.approx(
        dict(count=10, accuracy=0.8, positive_rate=0.5, recall=0.8, false_positive_rate=0.2)
    )
    assert rates["groups"]["b"] == pytest.approx(
        dict(count=10, accuracy=0.7, positive_rate=0.1, recall=0.25, false_positive_rate=0.0)
    )
    gaps = {k: rates[k] for k in ("worst_group", "accuracy_gap", "demographic_parity", "equalised_odds")}
    assert gaps == pytest.approx(dict(worst_group=0.7, accuracy_gap=0.1, demographic_parity=0.4, equalised_odds=0.55))


def test_gaps_leave_out_what_few_examples_say():
    pairs = counts(ANSWERS, LABELS, GROUPS, 2, 2)
    rates = by_group(pairs, ("a", "b"), smallest=5)  # b has four positives: its recall does not count
    assert rates["equalised_odds"] == pytest.approx(0.2) and rates["demographic_parity"] == pytest.approx(0.4)
    none = by_group(pairs, ("a", "b"), smallest=11)
    assert [none[k] for k in ("worst_group", "demographic_parity", "equalised_odds")] == [None] * 3
    empty = by_group(counts(ANSWERS, LABELS, GROUPS, 3, 2), ("a", "b", "c"))
    assert empty["groups"]["c"]["accuracy"] is None and empty["equalised_odds"] == pytest.approx(0.55)


def test_more_classes_by_definition():
    answers, labels, group = random_answers(4)
    rates = by_group(counts(answers, labels, group, 3, 4), ("a", "b", "c"))
    shares = np.array([[(answers[group == g] == c).mean() for c in range(4)] for g in range(3)])
    assert rates["demographic_parity"] == pytest.approx((shares.max(0) - shares.min(0)).max())
    of_class = np.array(
        [[[(answers[(group == g) & (labels == y)] == c).mean() for c in range(4)] for y in range(4)] for g in range(3)]
    )
    assert rates["equalised_odds"] == pytest.approx((of_class.max(0) - of_class.min(0)).max())
    assert "recall" not in rates["groups"]["a"]  # no class of four is the positive one
    hits = [(answers == labels)[labels == y].mean() for y in range(4)]
    worst = worst_class(counts(answers, labels, np.zeros_like(labels), 1, 4)[0])
    assert worst == pytest.approx(dict(worst_class=min(hits), class_gap=max(hits) - min(hits)))


def test_against_fairlearn():
    metrics = pytest.importorskip("fairlearn.metrics")
    answers, labels, group = random_answers(2)
    rates = by_group(counts(answers, labels, group, 3, 2), ("a", "b", "c"))
    arguments = dict(sensitive_features=group)
    parity = metrics.demographic_parity_difference(labels, answers, **arguments)
    assert rates["demographic_parity"] == pytest.approx(parity)
    assert rates["equalised_odds"] == pytest.approx(metrics.equalized_odds_difference(labels, answers, **arguments))


def test_errors_by_hand():
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    teacher = np.array([0, 1, 2, 0, 1, 0, 2, 2])
    student = np.array([0, 1, 1, 0, 0, 0, 2, 0])
    errors = inherited(student, teacher, labels)
    # The student errs on 1, 2, 4, 5 and 7; on 1 and 5 the teacher says the same, on 2 it errs too.
    chance = (2 * 1 / 4 + 2 * 1 / 2 + 0) / 5  # class 0: answer 1 twice and once of 4; class 1: answer 0 twice and once
    assert errors["inherited"] == pytest.approx(2 / 5) and errors["inherited_chance"] == pytest.approx(chance)
    assert errors["new_errors"] == pytest.approx(2 / 8) and errors["disagreement"] == pytest.approx(3 / 8)
    expected = 5 / 8 * 3 / 8 + 3 / 8 * 5 / 8
    assert errors["consistency"] == pytest.approx((6 / 8 - expected) / (1 - expected))


def test_independent_errors_are_chance_and_equal_ones_are_all():
    answers, labels, _ = random_answers(3, n=60000)
    other = random_answers(3, n=60000, seed=1)[0]
    rng = np.random.default_rng(2)
    other = np.where(rng.random(60000) < 0.7, labels, other)  # drawn on its own
    errors = inherited(answers, other, labels)
    assert errors["inherited"] == pytest.approx(errors["inherited_chance"], abs=0.01)
    assert errors["consistency"] == pytest.approx(0, abs=0.02)
    same = inherited(answers, answers, labels)
    assert (same["inherited"], same["consistency"], same["disagreement"]) == (1.0, 1.0, 0.0)


def test_nothing_to_count():
    right = np.array([0, 1])
    errors = inherited(right, right, right)
    assert errors["inherited"] is None and errors["consistency"] is None and errors["new_errors"] == 0
    assert set(inherited(right[:0], right[:0], right[:0]).values()) == {None}


def test_every_classification_has_class_gaps_and_inherited_errors(tmp_path):
    results = run(tmp_path, config(baseline=True, report=True, examples=0))
    measured = {role: model["measures"] for role, model in results["models"].items()}
    assert set(measured["student"]["inherited"]) == set(measured["baseline"]["inherited"])
    assert "inherited" not in measured["teacher"]
    for role, model in results["models"].items():
        worst = min(model["last"]["test"]["per_class_accuracy"])
        assert measured[role]["groups"]["worst_class"] == pytest.approx(worst)
        agrees = model["last"]["test"].get("agreement")
        assert agrees is None or measured[role]["inherited"]["disagreement"] == pytest.approx(1 - agrees)
    assert "errors that are the teacher" in (tmp_path / "run" / "report.html").read_text()


def test_groups_of_the_users_own_field(tmp_path):
    (x, y), (test_x, test_y) = (part.in_memory() for part in (data(validation=0).train, data().test))
    group = {"train": {"age": np.arange(len(x)) % 3}, "test": {"age": np.arange(len(test_x)) % 3}}
    grouped = kd_jax.from_arrays(train=(x, y), test=(test_x, test_y), fields=group)
    made = config(measure=("groups",), measure_kwargs__groups__fields=("age",), measure_kwargs__groups__smallest=1)
    results = run(tmp_path, made, data=grouped)
    age = results["models"]["student"]["measures"]["groups"]["age"]
    assert set(age["groups"]) == {"0", "1", "2"} and sum(g["count"] for g in age["groups"].values()) == 40
    (section,) = [s for s in results["sections"] if s["title"] == "Groups by age"]
    assert section["columns"] == ["age", "teacher", "student"]
