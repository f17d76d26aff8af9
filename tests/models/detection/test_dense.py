"""The detector's points, levels and taps, and what is left of its answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.models.adapters import LinenModel
from kd_jax.models.detection.dense import detector, points_of
from kd_jax.models.detection.nms import detections

SMALL = dict(widths=(4, 4, 8), pyramid=4, bins=4)
IMAGE = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 24, 1)), jnp.float32)


@pytest.fixture(scope="module")
def answered():
    model = LinenModel(detector(3, **SMALL))
    params, stats = model.init(jax.random.key(0), IMAGE)
    taps = ("fpn0", "fpn1", "classes", "sides")
    outputs, _ = model.apply(params, stats, IMAGE, train=False, key=jax.random.key(0), taps=taps)
    return outputs


def test_it_answers_at_the_centres_of_all_cells(answered):
    count = 8 * 6 + 4 * 3
    assert jax.tree.map(jnp.shape, answered.logits) == {
        "classes": (2, count, 3),
        "sides": (2, count, 4, 4),
        "points": (2, count, 3),
    }
    points = np.asarray(answered.logits["points"][0])
    np.testing.assert_array_equal(points, points_of(32, 24, 2))
    np.testing.assert_array_equal(points[[0, 1, 6, -1]], [[2, 2, 4], [6, 2, 4], [2, 6, 4], [20, 28, 8]])


def test_the_levels_of_the_pyramid_are_taps(answered):
    assert {name: x.shape for name, x in answered.features.items() if name.startswith("fpn")} == {
        "fpn0": (2, 8, 6, 4),
        "fpn1": (2, 4, 3, 4),
    }
    np.testing.assert_array_equal(answered.features["classes"], answered.logits["classes"])


def test_it_begins_with_the_prior_of_every_class(answered):
    assert float(jax.nn.sigmoid(answered.logits["classes"]).mean()) == pytest.approx(0.01, rel=0.2)


def test_pictures_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="30 x 24 pixels are no multiples of 8"):
        jax.eval_shape(lambda: detector(3, **SMALL).init(jax.random.key(0), IMAGE[:, :30], train=False))
    with pytest.raises(ValueError, match="at least 2"):
        detector(3, widths=(4,))


BOXES = np.array([[0, 0, 10, 10], [1, 1, 10, 10], [1, 0, 10, 10], [20, 20, 30, 30], [0, 0, 5, 5]], np.float32)
SCORES = np.array([[0.9, 0.0], [0.8, 0.0], [0.0, 0.7], [0.6, 0.0], [0.01, 0.0]])


def asked(**options):
    logits = np.log(np.maximum(SCORES, 1e-9) / (1 - SCORES))
    output = {"classes": jnp.asarray(logits[None], jnp.float32), "boxes": jnp.asarray(BOXES[None])}
    return jax.tree.map(lambda x: np.asarray(x)[0], detections(output, **{"overlap": 0.5, "most": 4} | options))


def test_a_surer_box_of_the_same_class_takes_the_place():
    answer = asked()
    np.testing.assert_allclose(answer["scores"], [0.9, 0.7, 0.6, 0.0], atol=1e-6)
    np.testing.assert_array_equal(answer["classes"], [0, 1, 0, -1])  # the second box of class 0 is gone
    np.testing.assert_array_equal(answer["boxes"], [BOXES[0], BOXES[2], BOXES[3], np.zeros(4)])


def test_options_say_how_many_and_how_sure():
    assert (asked(overlap=0.9)["scores"] > 0).sum() == 4  # 0.81 of the second box is shared with the first
    np.testing.assert_array_equal(asked(threshold=0.65)["classes"], [0, 1, -1, -1])
    assert len(asked(most=2)["scores"]) == 2 and (asked(candidates=1)["scores"] > 0).sum() == 1


def test_one_that_was_taken_away_takes_nothing_away():
    boxes = np.array([[0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]], np.float32)  # neighbours share 6 of 14
    output = {"classes": jnp.asarray([[[3.0], [2.0], [1.0]]]), "boxes": jnp.asarray(boxes[None])}
    boxes_left = np.asarray(detections(output, overlap=0.3, most=3)["boxes"][0])
    np.testing.assert_array_equal(boxes_left, [boxes[0], boxes[2], np.zeros(4)])
