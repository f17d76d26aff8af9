"""Losses of detectors against NumPy in loops over points and objects."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.losses import detection, detection_distillation
from kd_jax.models.detection.dense import points_of

BINS, CLASSES = 4, 3
POINTS = np.stack([points_of(16, 16, 2)] * 2).astype(np.float32)
OBJECTS = np.array(
    [
        [[1, 1, 8, 9, 2], [3, 3, 8, 8, 0], [0, 0, 0, 0, -1]],
        [[0, 0, 16, 15, 1], [0, 0, 0, 0, -1], [0, 0, 0, 0, -1]],
    ],
    np.float32,
)
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(2, POINTS.shape[1], CLASSES)).astype(np.float32)
SIDES = RNG.normal(size=(2, POINTS.shape[1], 4, BINS)).astype(np.float32)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def owner(x, y, stride, objects):
    """The number of the object that a point answers for, or None."""
    best, smallest = None, np.inf
    for number, (x1, y1, x2, y2, kind) in enumerate(objects):
        sides = (x - x1, y - y1, x2 - x, y2 - y)
        near = max(abs(x - (x1 + x2) / 2), abs(y - (y1 + y2) / 2)) <= 1.5 * stride
        reach = (BINS - 1) / 2 * stride
        fits = max(sides) <= reach if stride == 4 else max(sides) > reach / 2
        area = (x2 - x1) * (y2 - y1)
        if kind >= 0 and min(sides) > 0 and near and fits and area < smallest:
            best, smallest = number, area
    return best


OWNERS = [[owner(*point, objects) for point in points] for points, objects in zip(POINTS, OBJECTS, strict=True)]


def box(i, p):
    weights = np.exp(SIDES[i, p]) / np.exp(SIDES[i, p]).sum(-1, keepdims=True)
    left, top, right, bottom = weights @ np.arange(BINS) * POINTS[i, p, 2]
    x, y, _ = POINTS[i, p]
    return x - left, y - top, x + right, y + bottom


def iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return shared / (sum(areas) - shared)


def giou(a, b):
    around = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    union = sum(areas) / (1 + iou(a, b))
    return iou(a, b) - (around - union) / around


def positives(i):
    return [(p, number) for p, number in enumerate(OWNERS[i]) if number is not None]


def test_points_are_assigned_as_in_a_loop_over_all_of_them():
    assigned = detection.assign(OBJECTS, POINTS, bins=BINS)
    assert {number for number in OWNERS[0] if number is not None} == {0, 1} and positives(1)
    for i in range(2):
        for p, number in enumerate(OWNERS[i]):
            assert bool(assigned.positive[i, p]) == (number is not None)
            assert assigned.classes[i, p] == (-1 if number is None else OBJECTS[i, number, 4])
            if number is not None:
                np.testing.assert_array_equal(assigned.boxes[i, p], OBJECTS[i, number, :4])


def test_the_quality_is_the_iou_of_the_predicted_box():
    values = detection.quality_loss(LOGITS, SIDES, POINTS, OBJECTS)
    for i in range(2):
        total = 0.0
        for p, number in enumerate(OWNERS[i]):
            for c in range(CLASSES):
                hit = number is not None and OBJECTS[i, number, 4] == c
                y, q = (iou(box(i, p), OBJECTS[i, number, :4]) if hit else 0.0), sigmoid(LOGITS[i, p, c])
                total -= (y - q) ** 2 * (y * np.log(q) + (1 - y) * np.log(1 - q))
        assert values[i] == pytest.approx(total / len(positives(i)), rel=1e-5)


def test_the_boxes_of_positive_points_are_compared():
    values = detection.overlap_loss(SIDES, POINTS, OBJECTS)
    for i in range(2):
        apart = [1 - giou(box(i, p), OBJECTS[i, number, :4]) for p, number in positives(i)]
        assert values[i] == pytest.approx(np.mean(apart), rel=1e-5)


def test_a_side_lies_between_two_bins():
    values = detection.distribution_loss(SIDES, POINTS, OBJECTS)
    log_p = np.asarray(jax.nn.log_softmax(SIDES))
    for i in range(2):
        total = []
        for p, number in positives(i):
            x, y, stride = POINTS[i, p]
            x1, y1, x2, y2, _ = OBJECTS[i, number]
            for side, pixels in enumerate((x - x1, y - y1, x2 - x, y2 - y)):
                d = min(pixels / stride, BINS - 1)
                low = min(int(d), BINS - 2)
                total.append(-(low + 1 - d) * log_p[i, p, side, low] - (d - low) * log_p[i, p, side, low + 1])
        assert values[i] == pytest.approx(np.mean(total), rel=1e-5)


def test_the_nll_has_every_point_and_class():
    values = detection.class_nll(LOGITS, POINTS, OBJECTS, bins=BINS)
    for i in range(2):
        total = 0.0
        for p, number in enumerate(OWNERS[i]):
            for c in range(CLASSES):
                q = sigmoid(LOGITS[i, p, c])
                total -= np.log(q if number is not None and OBJECTS[i, number, 4] == c else 1 - q)
        assert values[i] == pytest.approx(total / len(positives(i)), rel=1e-5)


def test_an_image_without_objects_teaches_that_there_is_nothing():
    none = np.zeros_like(OBJECTS)
    none[..., 4] = -1
    assert (detection.quality_loss(LOGITS, SIDES, POINTS, none) > 0).all()
    for fn in (detection.overlap_loss, detection.distribution_loss):
        value, gradient = jax.value_and_grad(lambda sides, fn=fn: fn(sides, POINTS, none).sum())(jnp.asarray(SIDES))
        assert value == 0 and np.isfinite(gradient).all()


def test_class_responses_are_weighted_by_how_far_apart_they_are():
    s, t = LOGITS, LOGITS[::-1].copy()
    p, q = sigmoid(s.astype(np.float64)), sigmoid(t.astype(np.float64))
    values = np.abs(p - q) * -(q * np.log(p) + (1 - q) * np.log(1 - p))
    expected = values.sum((1, 2)) / q.max(-1).sum(1)
    np.testing.assert_allclose(detection_distillation.class_response_loss(s, t), expected, rtol=1e-5)
    value, gradient = jax.value_and_grad(lambda x: detection_distillation.class_response_loss(x, s).sum())(s)
    assert value == 0 and np.isfinite(gradient).all()


def test_sides_are_weighted_by_the_teachers_score():
    t, classes, temperature = SIDES[::-1].copy(), LOGITS, 3.0
    p, q = (np.exp(x / temperature) / np.exp(x / temperature).sum(-1, keepdims=True) for x in (SIDES, t))
    divergence = temperature**2 * (q * np.log(q / p)).mean(-1).mean(-1)
    weight = sigmoid(classes).max(-1)
    expected = (weight * divergence).sum(1) / weight.sum(1)
    values = detection_distillation.box_response_loss(SIDES, t, classes, temperature=temperature)
    np.testing.assert_allclose(values, expected, rtol=1e-4)


def test_features_are_imitated_in_the_boxes_and_less_beside_them():
    image, maps = np.zeros((2, 16, 16, 1)), RNG.normal(size=(2, 2, 4, 4, 3)).astype(np.float32)
    values = detection_distillation.region_imitation_loss(*maps, OBJECTS, image, foreground=2.0, background=0.5)
    apart = ((maps[0] - maps[1]) ** 2).mean(-1)
    for i in range(2):
        inside = np.zeros((4, 4), bool)
        for x1, y1, x2, y2, kind in OBJECTS[i]:
            if kind >= 0:  # cells from floor(low) to ceil(high), both included
                inside[int(y1 // 4) : int(-(-y2 // 4)) + 1, int(x1 // 4) : int(-(-x2 // 4)) + 1] = True
        outside = apart[i][~inside].mean() if (~inside).any() else 0.0
        assert values[i] == pytest.approx(apart[i][inside].mean() + 0.25 * outside, rel=1e-5)


def test_focal_regions_are_the_three_parts_of_fgd():
    from kd_jax.losses import dense

    image, (s, t) = np.zeros((2, 16, 16, 1)), RNG.normal(size=(2, 2, 4, 4, 3)).astype(np.float32)
    where, size = OBJECTS[..., 4] >= 0, dict(size=(4, 4), image=(16.0, 16.0))
    inside, outside = dense.box_masks(OBJECTS[..., :4], where=where, **size)
    expected = 0.1 * dense.focal_feature_loss(s, t, inside) + 0.2 * dense.focal_feature_loss(s, t, outside)
    expected += 0.3 * dense.focal_attention_loss(s, t)
    values = detection_distillation.focal_region_loss(s, t, OBJECTS, image, alpha=0.1, beta=0.2, gamma=0.3)
    np.testing.assert_allclose(values, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: detection.assign(OBJECTS[..., :4], POINTS, bins=4), "objects are .batch, objects, 5."),
        (lambda: detection_distillation.class_response_loss(LOGITS, LOGITS[:1]), r"\(2, 20, 3\) and teacher \(1, 20"),
        (lambda: detection_distillation.box_response_loss(LOGITS, LOGITS, LOGITS), "sides are .batch, points, 4, bins"),
        (
            lambda: detection_distillation.region_imitation_loss(
                np.ones((2, 4, 4, 3)), np.ones((2, 4, 4, 2)), OBJECTS, SIDES
            ),
            "must have the same shape",
        ),
    ],
)
def test_shapes_that_do_not_fit_are_named(call, says):
    with pytest.raises(ValueError, match=says):
        call()
