"""The score of detectors by hand, what is summed and shown, and labels that a teacher makes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("faster_coco_eval")

from kd_jax.data.boxes import with_boxes
from kd_jax.models.detection.dense import points_of
from kd_jax.report.forms import check_sections
from kd_jax.tasks import detect
from kd_jax.tasks.average_precision import average_precision
from kd_jax.types import Outputs, Shown

BOX = (4.0, 4.0, 14.0, 14.0)
NONE = (0.0, 0.0, 0.0, 0.0, -1.0)
NAN = (np.nan,) * 5


def scored(*images, most=3):
    """Of (objects, [(box, score, class), ...]) for each image, what `collect` returns."""
    count = max(len(objects) for objects, _ in images)
    made = {"boxes": [], "scores": [], "classes": [], "objects": []}
    for objects, answers in images:
        made["objects"].append([*objects, *[NONE] * (count - len(objects))])
        rows = [*answers, *[((0, 0, 0, 0), 0.0, -1)] * (most - len(answers))]
        for name, values in zip(("boxes", "scores", "classes"), zip(*rows, strict=True), strict=True):
            made[name].append(values)
    return {name: np.array(values, np.int32 if name == "classes" else np.float32) for name, values in made.items()}


def test_ap_by_hand():
    right = scored(([(*BOX, 0)], [(BOX, 0.9, 0)]), ([(*BOX, 0)], [(BOX, 0.8, 0)]))
    assert average_precision(right, 1)["ap"] == pytest.approx(1.0)
    # The surest answer is wrong: precision is 1/2 at the first object and 2/3 at the second, the better for all recalls
    wrong = scored(([(*BOX, 0)], [((20, 20, 30, 30), 0.95, 0), (BOX, 0.9, 0)]), ([(*BOX, 0)], [(BOX, 0.8, 0)]))
    assert average_precision(wrong, 1)["ap50"] == pytest.approx(2 / 3, abs=1e-3)
    # IoU 0.7 counts up to a threshold of .7: 5 of 10
    near = scored(([(0, 0, 10, 10, 0)], [((0, 0, 10, 7.05), 0.9, 0)]))
    values = average_precision(near, 1)
    assert values["ap"] == pytest.approx(0.5) and values["ap50"] == pytest.approx(1.0) and values["ap75"] == 0
    assert values["ap_error"] is None  # of one image
    missed = scored(([(*BOX, 0), (20, 20, 30, 30, 0)], [(BOX, 0.9, 0)]))
    assert average_precision(missed, 1)["ap50"] == pytest.approx(51 / 101)


def test_ap_is_the_mean_of_the_classes_that_occur():
    answers = [(BOX, 0.9, 0), (BOX, 0.8, 2)]
    values = average_precision(scored(([(*BOX, 0), (20, 20, 30, 30, 1)], answers)), 3)
    assert values["ap"] == pytest.approx(0.5)
    assert values["ap_by_class"] == [pytest.approx(1.0), 0.0, None]


def test_images_without_labels_and_without_objects():
    unknown = ([NAN], [(BOX, 0.9, 0)])
    assert average_precision(scored(unknown), 1)["ap"] is None
    empty = ([NONE], [(BOX, 0.95, 0)])
    hit = ([(*BOX, 0)], [(BOX, 0.9, 0)])
    assert average_precision(scored(hit, unknown), 1)["ap"] == pytest.approx(1.0)
    assert average_precision(scored(hit, empty), 1)["ap"] == pytest.approx(0.5)  # a false alarm, and surer
    assert average_precision(scored(([(*BOX, 0)], [])), 1) == {
        "ap": 0.0,
        "ap50": 0.0,
        "ap75": 0.0,
        "ap_by_class": [0.0],
        "ap_error": None,
    }


def test_the_error_is_that_of_images_left_out():
    answered = np.random.default_rng(0).random(30) < 2 / 3
    rows = [([(*BOX, 0)], [(BOX, 0.9 - 0.01 * i, 0)] if hit else []) for i, hit in enumerate(answered)]
    values = average_precision(scored(*rows), 1)
    assert values["ap"] == pytest.approx(answered.mean(), abs=0.02)
    assert 0.3 < values["ap_error"] / np.sqrt(values["ap"] * (1 - values["ap"]) / 30) < 2


def output(kind=0, rows=2, classes=2, bins=4):
    """A detector that is sure of a box of 8 x 8 pixels around the point (10, 10), and of nothing else."""
    points = points_of(16, 16, 1)
    at = int(np.flatnonzero((points[:, :2] == 10).all(1))[0])
    logits = np.full((rows, len(points), classes), -12.0, np.float32)
    logits[:, at, kind] = 12.0
    sides = np.zeros((rows, len(points), 4, bins), np.float32)
    sides[:, :, :, 1] = 40.0  # one stride to each side
    return {
        "classes": jnp.asarray(logits),
        "sides": jnp.asarray(sides),
        "points": jnp.broadcast_to(jnp.asarray(points, jnp.float32), (rows, *points.shape)),
    }


def source():
    part = (np.zeros((2, 16, 16, 1), np.uint8), [[(6, 6, 14, 14)], []], [[1], []])
    return with_boxes(train=part, test=part, names=("cat", "dog")).train


def test_sums_and_scores_of_a_detector():
    data, task = source(), detect.task(source())
    batch = {"label": jnp.asarray(data.labels), "labelled": jnp.ones(2, bool), "mask": jnp.ones(2, bool)}
    task.check(Outputs(output()), batch)
    run = lambda: Outputs(output(1))  # noqa: E731
    sums = {
        k: tuple(map(np.asarray, v)) for k, v in task.sums(run, batch, Outputs(output(0)), jax.random.key(0)).items()
    }
    collected = {k: np.asarray(v) for k, v in task.collect(run, batch, jax.random.key(0)).items()}
    values = task.finish(sums, {"scored": collected})
    np.testing.assert_allclose(collected["boxes"][0, 0], [6, 6, 14, 14], atol=1e-4)
    assert values["ap"] == pytest.approx(1.0)  # as sure of a dog in the second picture: of equals the first comes first
    assert values["iou"] == pytest.approx(1.0, abs=1e-4) and values["nll"] > 0
    assert values["shared_iou"] == pytest.approx(1.0, abs=1e-5)  # with the same boxes, whatever their class
    hidden = batch | {"labelled": jnp.zeros(2, bool), "label": jnp.full_like(batch["label"], jnp.nan)}
    nothing = task.sums(run, hidden, None, jax.random.key(0))
    assert float(nothing["nll"][1]) == 0 and np.isfinite(float(nothing["nll"][0]))


def test_labels_of_a_teacher_are_what_it_is_sure_of():
    rng = np.random.default_rng(0)
    student = {k: x + (rng.normal(size=x.shape) if k != "points" else 0) for k, x in output().items()}
    objects = jnp.asarray([[[6.0, 6, 14, 14, 1]]] * 2)
    expected = sum(w * detect.LOSSES[name](student, objects) for name, w in detect.WEIGHTS.items())
    np.testing.assert_allclose(detect.pseudo_label_loss(student, output(1)), expected, rtol=1e-4)
    boxes = {"classes": output(1)["classes"], "boxes": jnp.broadcast_to(objects[..., :4], (2, 16, 4))}
    np.testing.assert_allclose(detect.pseudo_label_loss(student, boxes), expected, rtol=1e-4)


def test_the_report_draws_boxes_and_lists_the_classes():
    data, task = source(), detect.task(source())
    images, labels = data.in_memory()
    scores = {role: {"test": {"ap_by_class": [0.25, None]}} for role in ("teacher", "student")}
    outputs = {role: Outputs(jax.tree.map(np.asarray, output(1))) for role in ("teacher", "student")}
    shown = Shown({"image": images, "label": labels}, outputs, scores, data, {}, 6)
    pictures, table = check_sections(task.show(shown), "detect")
    assert pictures["labels"][:3] == ["truth: dog", "teacher: dog", "student: dog"]
    assert pictures["labels"][3] == "truth: nothing" and len(pictures["images"]) == 6
    drawn = np.array(pictures["images"][0])
    assert drawn.shape == (192, 192, 3)
    rows, columns = np.nonzero(drawn.any(-1))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (72, 167, 72, 167)  # 6 to 14, twelvefold
    assert table["rows"] == [["cat", "25.0", "25.0"], ["dog", "-", "-"]]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (jnp.zeros((2, 3)), "a detector answers"),
        ({"classes": jnp.zeros((2, 4, 2))}, "a detector answers"),
        ({**output(), "classes": jnp.zeros((2, 16, 7))}, "its output 'classes' has shape"),
        ({**output(), "sides": jnp.zeros((2, 16, 3, 4))}, "its output 'sides' has shape"),
    ],
)
def test_other_outputs_are_refused(wrong, says):
    task = detect.task(source())
    with pytest.raises(ValueError, match=says):
        task.check(Outputs(wrong), {"label": source().labels})
