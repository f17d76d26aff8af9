"""What the report says where the student cannot fit what it learns, or the teacher has nothing to teach."""

import pytest

from kd_jax.report.capacity import too_small
from kd_jax.report.verdict import judge


def networks(fitted, test=0.80, teacher=0.90, count=2000):
    model = {"last": {"test": {"accuracy": test, "accuracy_error": 0.005}}}
    student = {**model, "measures": {"fit": {"train_accuracy": fitted, "examples": count}}}
    return {"student": student, "teacher": {"last": {"test": {"accuracy": teacher, "accuracy_error": 0.005}}}}


@pytest.mark.parametrize(
    ("networks", "small"),
    [
        (networks(0.81), True),
        (networks(0.89), False),  # it fits what the teacher can, and does not generalise
        (networks(0.85), False),  # it fits more than it generalises
        (networks(0.81, teacher=0.82), False),  # the teacher is no better
        (networks(0.81, count=30), False),  # thirty examples do not say
        (networks(None), False),
    ],
)
def test_a_student_looks_too_small_where_it_cannot_fit(networks, small):
    said = " ".join(too_small(networks, "image"))
    assert ("looks too small" in said and "81.0%" in said) == small
    assert bool(said) == small


def test_the_verdict_says_so_and_names_a_weak_teacher(make_results):
    results = make_results()
    results["models"]["student"]["measures"] = {"fit": {"train_accuracy": 0.5, "examples": 2000}}
    results["models"]["student"]["last"]["test"].update(accuracy=0.5)
    assert "looks too small, or trained too briefly" in " ".join(judge(results).paragraphs)
    results["models"]["teacher"]["last"]["test"].update(results["models"]["baseline"]["last"]["test"])
    said = " ".join(judge(results).paragraphs)
    assert "there is no gap to close. A stronger one comes first" in said
