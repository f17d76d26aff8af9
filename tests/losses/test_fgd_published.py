"""FGD as its authors' repository computes it, in NumPy and loops, against the terms of configs/detection.py:fgd."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from scheme_checks import config_module

from kd_jax.losses.detection_distillation import focal_region_loss
from kd_jax.losses.feature import feature_sum_loss
from kd_jax.models.context_connectors import context_blocks

RNG = np.random.default_rng(3)
SIZE, CELLS, CHANNELS, TEMPERATURE = 32.0, 8, 6, 0.5
STUDENT, TEACHER = RNG.normal(size=(2, 3, CELLS, CELLS, CHANNELS)).astype(np.float32)
BOXES = [[(1, 2, 9, 13), (5, 5, 30, 21)], [], [(0, 0, 32, 32)]]  # pixels; the second image has none
OBJECTS = np.full((3, 2, 5), -1, np.float32)
for i, boxes in enumerate(BOXES):
    for j, box in enumerate(boxes):
        OBJECTS[i, j] = (*box, 0)


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def attentions(x):
    """(cells [H, W], channels [C]) of a map [H, W, C]; each adds up to their number."""
    cells = softmax(np.abs(x).mean(-1).reshape(-1) / TEMPERATURE).reshape(CELLS, CELLS) * CELLS**2
    return cells, softmax(np.abs(x).mean((0, 1)) / TEMPERATURE) * CHANNELS


def masks(boxes):
    inside = np.zeros((CELLS, CELLS))
    for x1, y1, x2, y2 in boxes:
        left, top = (int(np.floor(v / SIZE * CELLS)) for v in (x1, y1))
        right, bottom = (int(np.ceil(v / SIZE * CELLS)) for v in (x2, y2))
        share = 1 / ((bottom - top + 1) * (right - left + 1))
        for y in range(top, min(bottom, CELLS - 1) + 1):
            for x in range(left, min(right, CELLS - 1) + 1):
                inside[y, x] = max(inside[y, x], share)
    outside = (inside == 0).astype(float)
    return inside, outside / max(outside.sum(), 1)


def focal(s, t, boxes, alpha, beta, gamma):
    cells, channels = attentions(t)
    apart = (s - t) ** 2 * cells[..., None] * channels
    inside, outside = ((apart * mask[..., None]).sum() for mask in masks(boxes))
    attention = sum(np.abs(a - b).sum() for a, b in zip(attentions(s), attentions(t), strict=True))
    return alpha * inside + beta * outside + gamma * attention


def in_context(x, p):
    """A map plus what its attended mean becomes: convolution, layer normalisation, ReLU, convolution."""
    cells = x.reshape(-1, CHANNELS)
    mean = softmax((cells @ p["cells"]["kernel"] + p["cells"]["bias"])[:, 0]) @ cells
    y = mean @ p["narrow"]["kernel"] + p["narrow"]["bias"]
    y = (y - y.mean()) / np.sqrt(y.var() + 1e-5) * p["norm"]["scale"] + p["norm"]["bias"]
    return x + np.maximum(y, 0) @ p["wide"]["kernel"] + p["wide"]["bias"]


def test_the_focal_part_is_the_published_one_at_its_published_weights():
    image = np.zeros((3, int(SIZE), int(SIZE), 1))
    ours = focal_region_loss(STUDENT, TEACHER, OBJECTS, image)
    published = [focal(*x, 1e-3, 5e-4, 1e-3) for x in zip(STUDENT, TEACHER, BOXES, strict=True)]
    np.testing.assert_allclose(ours, published, rtol=1e-5)


def test_the_global_part_is_the_published_one():
    model = context_blocks(*(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (STUDENT, TEACHER)))
    params, stats = model.init(jax.random.key(0), STUDENT, TEACHER)

    def pair(params):
        return model.apply(params, stats, STUDENT, TEACHER, train=True, key=jax.random.key(1))[0].logits

    for ours, map_ in zip(pair(params), (STUDENT, TEACHER), strict=True):  # no context before the first step
        np.testing.assert_array_equal(ours, map_)
    params = jax.tree.map(lambda x: RNG.normal(size=x.shape).astype(np.float32), params)
    for block in params.values():
        block["norm"]["bias"] = np.ones_like(block["norm"]["bias"])  # few units: ReLU would cut off all of them
    ours = feature_sum_loss(*pair(params))
    published = [
        ((in_context(s, params["student"]) - in_context(t, params["teacher"])) ** 2).sum()
        for s, t in zip(STUDENT, TEACHER, strict=True)
    ]
    np.testing.assert_allclose(ours, published, rtol=1e-4)
    gradients = jax.grad(lambda p: feature_sum_loss(*pair(p)).sum())(params)
    kinds = {"cells": "kernel", "narrow": "kernel", "norm": "scale", "wide": "kernel"}
    still = [(who, name) for who in gradients for name, kind in kinds.items() if not gradients[who][name][kind].any()]
    assert not still


def test_the_config_has_both_parts_in_the_published_proportion():
    terms = config_module("detection").get_config("fgd").terms
    for i in (0, 1):
        assert terms[f"context{i}"].weight == pytest.approx(terms[f"fgd{i}"].weight * 5e-6)
        assert terms[f"context{i}"].inputs == (f"fgd{i}/connector.logits", f"teacher.features:fpn{i}")


def test_maps_of_two_shapes_are_refused():
    narrow, wide = (jax.ShapeDtypeStruct((2, 4, 4, n), np.float32) for n in (3, 6))
    with pytest.raises(ValueError, match="models.connectors.conv1x1 in another term aligns them"):
        context_blocks(narrow, wide)
