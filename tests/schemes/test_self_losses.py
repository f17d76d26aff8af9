"""Losses of self-distillation against plain numpy; label smoothing as the limit of the virtual teacher."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from kd_jax.losses.self_distillation import consistency_loss, progressive_loss, virtual_teacher_loss
from kd_jax.losses.task import cross_entropy_loss

RNG = np.random.default_rng(0)
LOGITS, OTHERS = (RNG.normal(size=(5, 4)).astype(np.float32) * 2 for _ in range(2))
LABELS = np.array([0, 3, 1, 1, 2], np.int32)


def softmax(z):
    e = np.exp(z.astype(np.float64) - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_consistency():
    expected = ((softmax(LOGITS) - softmax(OTHERS)) ** 2).mean(-1)
    np.testing.assert_allclose(consistency_loss(LOGITS, OTHERS), expected, rtol=1e-5)
    np.testing.assert_array_equal(consistency_loss(LOGITS, LOGITS), 0)
    check_grads(lambda s: consistency_loss(s, OTHERS), (LOGITS,), 1, ["rev"], atol=1e-2, rtol=1e-2)
    gradient = jax.grad(lambda s: consistency_loss(s, OTHERS).sum())(jnp.array([[1e4, -1e4, 0, 0]] * 5))
    assert np.isfinite(gradient).all() and consistency_loss(LOGITS.astype(jnp.bfloat16), OTHERS).dtype == jnp.float32
    with pytest.raises(ValueError, match="same shape"):
        consistency_loss(LOGITS, OTHERS[:, :3])


def test_progressive():
    memory = np.zeros((9, 4), np.float32)
    index = np.array([8, 1, 2, 5, 4])
    memory[[8, 2, 5]] = softmax(OTHERS)[:3]  # examples 1 and 4 have not been seen
    a = 0.8 * 0.25 * np.array([1, 0, 1, 1, 0])[:, None]
    target = (1 - a) * np.eye(4)[LABELS] + a * memory[index]
    expected = -(target * np.log(softmax(LOGITS))).sum(-1)
    options = dict(predictions=memory, index=index, progress=0.25)
    np.testing.assert_allclose(progressive_loss(LOGITS, LABELS, **options), expected, rtol=1e-5)
    unseen = progressive_loss(LOGITS, LABELS, **options | {"predictions": 0 * memory})
    np.testing.assert_allclose(unseen, cross_entropy_loss(LOGITS, LABELS), rtol=1e-6)
    assert np.isfinite(progressive_loss(LOGITS * 1e4, LABELS * 0 - 1, **options)).all()
    with pytest.raises(ValueError, match=r"\[examples, classes\]"):
        progressive_loss(LOGITS, LABELS, **options | {"predictions": memory[:, :3]})
    with pytest.raises(ValueError, match="labels must be integers"):
        progressive_loss(LOGITS, target, **options)


def test_virtual_teacher():
    d = np.where(np.eye(4)[LABELS] > 0, 0.9, 0.1 / 3)
    q = d ** (1 / 5) / (d ** (1 / 5)).sum(-1, keepdims=True)
    expected = (q * (np.log(q) - np.log(softmax(LOGITS)))).sum(-1)
    losses = virtual_teacher_loss(LOGITS, LABELS, correct=0.9, temperature=5.0)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert np.isfinite(virtual_teacher_loss(LOGITS * 1e4, LABELS * 0 - 1)).all()
    right = virtual_teacher_loss(jnp.log(jnp.asarray(d, jnp.float32)), LABELS, correct=0.9, temperature=1.0)
    np.testing.assert_allclose(right, 0, atol=1e-6)
    with pytest.raises(ValueError, match="at least 2 classes"):
        virtual_teacher_loss(LOGITS[:, :1], LABELS)


@pytest.mark.parametrize("options", [{"temperature": 1e6}, {"correct": 0.25, "temperature": 1.0}])
def test_label_smoothing_is_the_limit_of_the_virtual_teacher(options):
    smoothing = 0.3

    def regularised(logits, temperature=1.0, **kwargs):
        virtual = virtual_teacher_loss(logits, LABELS, temperature=temperature, **kwargs)
        return (1 - smoothing) * cross_entropy_loss(logits, LABELS) + smoothing * virtual

    def smoothed(logits):
        return cross_entropy_loss(logits, LABELS, smoothing=smoothing)

    np.testing.assert_allclose(
        regularised(LOGITS, **options), smoothed(LOGITS) - smoothing * np.log(4), rtol=1e-4, atol=1e-6
    )
    one, other = (
        jax.grad(lambda z, fn=fn: fn(z).sum())(LOGITS) for fn in (lambda z: regularised(z, **options), smoothed)
    )
    np.testing.assert_allclose(one, other, atol=1e-5)
    far = regularised(LOGITS, temperature=2.0)  # at a low temperature the virtual teacher knows the label
    assert not np.allclose(far, smoothed(LOGITS) - smoothing * np.log(4), atol=1e-2)
