"""Losses over some of the classes, and from the teacher's decision, against references in NumPy float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_reference import draw, kl, softmax

from kd_jax.losses.lifelong import grouped_kd_loss, rival_cross_entropy_loss
from kd_jax.losses.response_hard import hard_label_loss

LOGITS, TEACHER = draw((3, 5), (3, 5))
LABELS = np.array([0, 3, 4], np.int32)
RIVALS = np.zeros((5, 5), bool)
for members in ([0, 1], [2, 3, 4]):
    RIVALS[np.ix_(members, members)] = True
GROUPS = np.array([[1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 1, 1, 1]], bool)


def test_cross_entropy_over_the_rivals():
    losses = rival_cross_entropy_loss(LOGITS, LABELS, RIVALS)
    rows = list(zip(LOGITS, LABELS, strict=True))
    expected = [-np.log(softmax(z[RIVALS[y]])[np.flatnonzero(RIVALS[y]) == y][0]) for z, y in rows]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    everything = rival_cross_entropy_loss(LOGITS, LABELS, np.ones((5, 5), bool))
    np.testing.assert_allclose(everything, [-np.log(softmax(z)[y]) for z, y in rows], rtol=1e-5)
    gradient = jax.grad(lambda z: rival_cross_entropy_loss(z, LABELS, RIVALS).sum())(jnp.asarray(LOGITS, jnp.float32))
    assert not gradient[~RIVALS[LABELS]].any() and gradient[RIVALS[LABELS]].all()
    assert np.isfinite(rival_cross_entropy_loss(LOGITS, np.full(3, -1), RIVALS)).all()
    with pytest.raises(ValueError, match=r"rivals must be bool \(5, 5\), got \(2, 5\)"):
        rival_cross_entropy_loss(LOGITS, LABELS, RIVALS[:2])


def test_distillation_in_groups_of_classes():
    losses = grouped_kd_loss(LOGITS, TEACHER, GROUPS, temperature=3.0)
    expected = [
        9 * sum(kl(softmax(t[g] / 3), softmax(s[g] / 3)) for g in GROUPS if g.any())
        for s, t in zip(LOGITS, TEACHER, strict=True)
    ]
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    value, gradient = jax.value_and_grad(lambda z: grouped_kd_loss(z, TEACHER, np.zeros((2, 5), bool)).sum())(
        jnp.asarray(LOGITS, jnp.float32)
    )
    assert value == 0 and not gradient.any()
    far = jnp.asarray(1e4 * LOGITS, jnp.float32)
    extreme = jax.grad(lambda z: grouped_kd_loss(z, 1e4 * TEACHER, GROUPS).sum())(far)
    assert np.isfinite(extreme).all()
    assert grouped_kd_loss(LOGITS.astype(jnp.bfloat16), TEACHER.astype(jnp.bfloat16), GROUPS).dtype == jnp.float32
    with pytest.raises(ValueError, match=r"groups must be bool \[groups, classes\], got \(5,\)"):
        grouped_kd_loss(LOGITS, TEACHER, GROUPS[0])
    with pytest.raises(ValueError, match="same shape"):
        grouped_kd_loss(LOGITS, TEACHER[:2], GROUPS)


def test_hard_labels_are_the_decision_of_the_teacher():
    losses = hard_label_loss(LOGITS, TEACHER)
    expected = [-np.log(softmax(s)[t.argmax()]) for s, t in zip(LOGITS, TEACHER, strict=True)]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    smooth = hard_label_loss(LOGITS, TEACHER, smoothing=0.1)
    mean = [-np.log(softmax(s)).mean() for s in LOGITS]
    np.testing.assert_allclose(smooth, 0.9 * np.array(expected) + 0.1 * np.array(mean), rtol=1e-5)
    assert not jax.grad(lambda t: hard_label_loss(LOGITS, t).sum())(jnp.asarray(TEACHER, jnp.float32)).any()
    with pytest.raises(ValueError, match="same shape"):
        hard_label_loss(LOGITS, TEACHER[:, :4])
