"""Losses of rankings, boxes, transcripts, policies and synthetic data, against NumPy in loops."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_reference import draw, kl, softmax

from kd_jax.losses import ctc, dense, policy, ranking, synthesis, task

T = 1.5


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def rows(fn):
    return lambda *arrays: np.mean([fn(*row) for row in zip(*arrays, strict=True)])


def test_margin_mse(check):
    value = rows(lambda s, t: np.mean([((s[0] - s[j]) - (t[0] - t[j])) ** 2 for j in (1, 2, 3)]))
    check(ranking.margin_mse_loss, value, *draw((3, 4), (3, 4)), wrt=(0, 1))
    with pytest.raises(ValueError, match="a positive and a negative"):
        ranking.margin_mse_loss(np.ones((2, 1)), np.ones((2, 1)))


def test_listwise_kl(check):
    where = np.array([[1, 1, 0, 1], [0, 1, 1, 1], [1, 1, 1, 1]], bool)

    def reference(s, t):
        parts = [T**2 * kl(softmax(b[m], 0.7), softmax(a[m], T)) for a, b, m in zip(s, t, where, strict=True)]
        return np.mean(parts)

    loss = functools.partial(ranking.listwise_kl_loss, temperature=T, teacher_temperature=0.7, where=where)
    check(loss, reference, *draw((3, 4), (3, 4)), wrt=(0, 1))
    s, t = draw((3, 4), (3, 4))
    empty = where & np.array([[True], [False], [True]])
    assert ranking.listwise_kl_loss(s, t, where=empty)[1] == 0
    with pytest.raises(ValueError, match=r"where must be \(3, 4\) or \(3,\), got \(4,\)"):
        ranking.listwise_kl_loss(s, t, where=np.ones(4, bool))


def test_candidates_that_do_not_count_may_hold_nan():
    s, t = (jnp.asarray(x, jnp.float32) for x in draw((3, 4), (3, 4)))
    where = np.ones((3, 4), bool)
    where[:, 2] = False
    losses = {
        "margin": ranking.margin_mse_loss,
        "listwise": ranking.listwise_kl_loss,
        "collaborative": ranking.collaborative_loss,
        "ranking": lambda s, t, where: ranking.ranking_distillation_loss(s, np.ones(4), where=where),
        "relaxed": lambda s, t, where: ranking.relaxed_ranking_loss(s, t[:, :2], where=where),
    }
    for name, fn in losses.items():
        total = jax.value_and_grad(lambda s, t, fn=fn: jnp.sum(fn(s, t, where=where)))
        value, gradient = total(s, t)
        again, other = total(*(x.at[:, 2].set(jnp.nan) for x in (s, t)))
        assert value == again, name
        np.testing.assert_array_equal(gradient, other)
        assert np.all(other[:, 2] == 0)


def test_max_similarity(check):
    q_mask, d_mask = np.ones((2, 3), bool), np.ones((2, 2, 4), bool)
    q_mask[0, 2] = d_mask[0, 1, 1:] = False
    d_mask[1, 0] = False  # a document without tokens

    def reference(q, d):
        values = np.zeros((2, 2))
        for b, n in itertools.product(range(2), range(2)):
            real = [d[b, n, k] for k in range(4) if d_mask[b, n, k]]
            if real:
                values[b, n] = sum(max(q[b, i] @ x for x in real) for i in range(3) if q_mask[b, i])
        return values.mean()

    loss = functools.partial(ranking.max_similarity, query_mask=q_mask, document_mask=d_mask)
    check(loss, reference, *draw((2, 3, 5), (2, 2, 4, 5)), wrt=(0, 1))


def test_weights_of_ranks():
    np.testing.assert_allclose(
        ranking.position_weights(3, sharpness=2.0),
        np.exp([-0.5, -1, -1.5]) / np.exp([-0.5, -1, -1.5]).sum(),
        rtol=1e-6,
    )
    s, drawn = np.array([[0.5, 2.0, -1.0]]), np.array([[0.0, 1.0, 3.0, -2.0]])
    # of four sampled 2, 1 and 3 are above: of 9 other items 4.5, 2.25 and 6.75, rounded down
    expected = [np.tanh(0.1 * (rank - k)) for k, rank in enumerate((4, 2, 6))]
    np.testing.assert_allclose(ranking.discrepancy_weights(s, drawn, items=10, mu=0.1)[0], expected, rtol=1e-6)
    assert ranking.discrepancy_weights(s, drawn - 10, items=10, mu=0.1)[0, 2] == 0


def test_ranking_distillation(check):
    weights = np.array([0.5, 0.3, 0.2])
    value = rows(lambda s: -sum(w * np.log(sigmoid(x)) for w, x in zip(weights, s, strict=True)))
    check(lambda s: ranking.ranking_distillation_loss(s, weights), value, *draw((2, 3)))
    assert np.isfinite(ranking.ranking_distillation_loss(np.full((1, 3), -200.0), weights)[0])


def test_relaxed_ranking(check):
    def reference(s, u):
        return sum(np.log(np.exp(s[k:]).sum() + np.exp(u).sum()) - s[k] for k in range(len(s)))

    check(ranking.relaxed_ranking_loss, rows(reference), *draw((2, 3), (2, 4)), wrt=(0, 1))
    assert np.isfinite(ranking.relaxed_ranking_loss(np.full((1, 3), 1e4), np.full((1, 2), 1e4))[0])


def test_collaborative(check):
    def reference(s, t):
        w = sigmoid((t + 0.3) / T)
        return -np.sum(w * np.log(sigmoid(s)) + (1 - w) * np.log(sigmoid(-s)))

    loss = functools.partial(ranking.collaborative_loss, temperature=T, offset=0.3)
    check(loss, rows(reference), *draw((2, 3), (2, 3)), wrt=(0, 1))


BOXES = np.array([[1.0, 1, 4, 5], [0, 0, 2, 2], [3, 3, 5, 4.5]])
TARGETS = np.array([[2.0, 0.5, 5, 4], [4, 4, 6, 7], [3.2, 2.9, 4.8, 4.6]])


def parts(a, b):
    sides = [min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1)]
    shared = max(sides[0], 0) * max(sides[1], 0)
    union = sum((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)) - shared
    return shared, union, [max(a[i + 2], b[i + 2]) - min(a[i], b[i]) for i in (0, 1)]


def giou(a, b):
    shared, union, (width, height) = parts(a, b)
    return 1 - shared / union + (width * height - union) / (width * height)


def diou(a, b):
    shared, union, (width, height) = parts(a, b)
    apart = sum(((a[i] + a[i + 2]) / 2 - (b[i] + b[i + 2]) / 2) ** 2 for i in (0, 1))
    return 1 - shared / union + apart / (width**2 + height**2)


def test_boxes(check):
    check(dense.giou_loss, rows(giou), BOXES, TARGETS, wrt=(0, 1))
    check(dense.diou_loss, rows(diou), BOXES, TARGETS, wrt=(0, 1))
    check(dense.box_distances, rows(lambda z: np.arange(4) @ softmax(z)), *draw((3, 4)))
    with pytest.raises(ValueError, match=r"boxes are \[\.\.\., 4\]"):
        dense.giou_loss(np.ones((2, 3)), np.ones((2, 3)))


def test_box_masks():
    """A map of 4 x 6 of an image of 40 x 60; the second box reaches over the right edge, the third does not exist."""
    boxes = np.array([[[11.0, 2, 25, 18], [45, 15, 75, 30], [0, 0, 60, 40]]])
    foreground, background = dense.box_masks(boxes, where=np.array([[1, 1, 0]]), size=(4, 6), image=(40, 60))
    expected = np.zeros((4, 6))
    expected[0:3, 1:4] = 1 / 9  # columns floor(1.1) to ceil(2.5), rows floor(.2) to ceil(1.8)
    expected[1:4, 4:6] = 1 / (3 * 5)  # columns 4 to 8, of which the map has two
    np.testing.assert_allclose(foreground[0], expected, rtol=1e-6)
    np.testing.assert_allclose(background[0], (expected == 0) / np.sum(expected == 0), rtol=1e-6)
    everywhere = dense.box_masks(np.array([[[0.0, 0, 60, 40]]]), where=np.ones((1, 1)), size=(4, 6), image=(40, 60))
    assert np.all(everywhere[1] == 0)


def focus(x):
    space = np.abs(x).mean(2) / 0.5
    channel = np.abs(x).mean((0, 1)) / 0.5
    return softmax(space.ravel()).reshape(space.shape) * space.size, softmax(channel) * channel.size


def test_focal(check):
    (mask,) = draw((2, 3, 3), seed=5)
    mask = np.abs(mask)

    def feature(s, t, m):
        space, channel = focus(t)
        return np.sum((s - t) ** 2 * space[..., None] * channel * m[..., None])

    check(
        lambda s, t: dense.focal_feature_loss(s, t, mask),
        lambda s, t: rows(feature)(s, t, mask),
        *draw((2, 3, 3, 4), (2, 3, 3, 4)),
        wrt=(0, 1),
    )
    attention = rows(lambda s, t: sum(np.sum(np.abs(a - b)) for a, b in zip(focus(s), focus(t), strict=True)))
    check(dense.focal_attention_loss, attention, *draw((2, 3, 3, 4), (2, 3, 3, 4)), wrt=(0, 1))
    with pytest.raises(ValueError, match=r"need a mask \(2, 3, 3\)"):
        dense.focal_feature_loss(np.ones((2, 3, 3, 4)), np.ones((2, 3, 3, 4)), np.ones((2, 3)))


def test_intra_class(check):
    """Labels of 2 x 2 for maps of 4 x 4; one class is beyond those that count."""
    labels = np.array([[[0, 1], [0, 7]], [[1, 1], [-1, 0]]], np.int32)

    def cosines(x, where):
        out = np.zeros((4, 4))
        for c in (0, 1):
            at = [(i, j) for i in range(4) for j in range(4) if where[i // 2, j // 2] == c]
            if at:
                centre = np.mean([x[p] for p in at], axis=0)
                for p in at:
                    out[p] = x[p] @ centre / np.sqrt((x[p] @ x[p]) * (centre @ centre))
        return out

    def reference(s, t):
        return np.mean([(cosines(a, w) - cosines(b, w)) ** 2 for a, b, w in zip(s, t, labels, strict=True)])

    loss = functools.partial(dense.intra_class_loss, labels=labels, classes=2)
    check(loss, reference, *draw((2, 4, 4, 3), (2, 4, 4, 5)), wrt=(0, 1))


def test_ctc_sequence():
    (logits,) = draw((2, 5, 4))
    hypotheses = np.array([[[1, 2], [3, 0]], [[1, 1], [9, 9]]], np.int32)
    paddings = np.array([[[0, 0], [0, 1]], [[0, 0], [0, 0]]], np.float32)
    weights = np.array([[0.7, 0.3], [1.0, 0.0]], np.float32)  # the last hypothesis is none
    frames = np.zeros((2, 5), np.float32)
    each = [task.ctc_loss(logits, frames, np.clip(hypotheses[:, n], 0, 3), paddings[:, n]) for n in range(2)]
    expected = [0.7 * each[0][0] + 0.3 * each[1][0], each[0][1]]
    total = jax.value_and_grad(lambda x: jnp.sum(ctc.ctc_sequence_loss(x, frames, hypotheses, paddings, weights)))
    value, gradient = total(jnp.asarray(logits, jnp.float32))
    np.testing.assert_allclose(value, sum(expected), rtol=1e-5)
    assert np.all(np.isfinite(gradient))
    with pytest.raises(ValueError, match=r"weights \[batch, n\], got \(2, 2, 2\), \(2, 2, 2\) and \(2,\)"):
        ctc.ctc_sequence_loss(logits, frames, hypotheses, paddings, weights[0])


def test_policy(check):
    value = rows(lambda s, q: kl(softmax(q, 0.5), softmax(s)))
    check(functools.partial(policy.policy_kl_loss, temperature=0.5), value, *draw((3, 4), (3, 4)), wrt=(0, 1))
    q = np.array([[1.0, -np.inf, 3.0, 0.5]])
    assert policy.criticality_weights(q) == 2.5
    taken = policy.policy_kl_loss(np.zeros((1, 4)), q, temperature=0.5)
    np.testing.assert_allclose(taken, kl(softmax([1.0, 3.0, 0.5], 0.5), np.full(3, 0.25)), rtol=1e-5)


def test_distribution_matching(check):
    mine, theirs = np.array([0, 0, 1]), np.array([0, 1, 1, 2])

    def reference(s, r):
        distances = [np.sum((s[mine == c].mean(0) - r[theirs == c].mean(0)) ** 2) for c in (0, 1)]
        return np.sum(distances) / 3

    loss = functools.partial(synthesis.distribution_matching_loss, synthetic_labels=mine, real_labels=theirs, classes=3)
    check(loss, reference, *draw((3, 5), (4, 5)), wrt=(0, 1))
    assert loss(*draw((3, 5), (4, 5)))[2] == 0
    with pytest.raises(ValueError, match=r"synthetic \(3, 5\) needs labels \(3,\)"):
        synthesis.distribution_matching_loss(np.ones((3, 5)), np.ones((4, 5)), theirs, theirs, classes=3)


def cosine_gap(a, b):
    return 1 - a @ b / (np.sqrt(a @ a) * np.sqrt(b @ b) + 1e-6)


def test_gradient_matching(check):
    kernel, bias = (2, 3, 4), (4,)

    def tree(fn, **kwargs):
        return lambda w, v, b, c: fn({"w": w, "b": b}, {"w": v, "b": c}, **kwargs)

    def outputs(w, v, b, c):
        return sum(cosine_gap(w[..., o].ravel(), v[..., o].ravel()) for o in range(4))

    def squares(w, v, b, c):
        return np.sum((w - v) ** 2) + np.sum((b - c) ** 2)

    def cosine(w, v, b, c):
        return cosine_gap(np.append(w, b), np.append(v, c))

    arrays = draw(kernel, kernel, bias, bias)
    for metric, reference in (("outputs", outputs), ("squares", squares), ("cosine", cosine)):
        check(tree(synthesis.gradient_matching_loss, metric=metric), reference, *arrays, wrt=(0, 2))
    zero = {"w": jnp.zeros((2, 3))}
    gradient = jax.grad(lambda x: synthesis.gradient_matching_loss(x, {"w": jnp.ones((2, 3))}))(zero)
    assert np.all(np.isfinite(gradient["w"]))
    with pytest.raises(ValueError, match="'all'"):
        synthesis.gradient_matching_loss(zero, zero, metric="all")
    with pytest.raises(ValueError, match="one structure"):
        synthesis.gradient_matching_loss(zero, {"v": jnp.zeros(2)})


def test_trajectory_matching(check):
    kernel, bias = (2, 3), (4,)

    def loss(w, end_w, start_w, b, end_b, start_b):
        trees = ({"w": x, "b": y} for x, y in ((w, b), (end_w, end_b), (start_w, start_b)))
        return synthesis.trajectory_matching_loss(*trees)

    def reference(w, end_w, start_w, b, end_b, start_b):
        left = np.sum((w - end_w) ** 2) + np.sum((b - end_b) ** 2)
        return left / (np.sum((start_w - end_w) ** 2) + np.sum((start_b - end_b) ** 2))

    check(loss, reference, *draw(*[kernel] * 3, *[bias] * 3), wrt=(0, 3))
    one = {"w": jnp.ones(2)}
    assert synthesis.trajectory_matching_loss(one, one, one) == 0  # an expert that did not move
    with pytest.raises(ValueError, match="one structure"):
        synthesis.trajectory_matching_loss(one, {"v": jnp.ones(2)}, one)
