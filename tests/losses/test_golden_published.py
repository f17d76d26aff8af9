"""Losses of single papers against NumPy float64, written from their formulas: ITRD and SemCKD."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.losses import cross_layer, information
from kd_jax.models import cross_layer as connectors
from kd_jax.models.method_connectors import information_embedding


def draw(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(size=shape) for shape in shapes)


def correlation_information(s, t, alpha):
    z, y = ((x - x.mean(0)) / x.std(0, ddof=1) for x in (s, t))
    return np.log2(sum(abs(z[:, d] @ y[:, d] / len(s) - 1) ** (2 * alpha) for d in range(s.shape[1])))


def mutual_information(s, t):
    s, t = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (s, t))
    gram = s @ s.T
    joint = gram * (t @ t.T)
    return np.sum((gram / np.trace(gram)) ** 2 - (joint / np.trace(joint)) ** 2)


@pytest.mark.parametrize("alpha", [1.01, 1.5])
def test_correlation_information(alpha):
    s, t = draw((5, 4), (5, 4))
    values = information.correlation_information_loss(s, t, alpha=alpha)
    np.testing.assert_allclose(values, np.full(5, correlation_information(s, t, alpha)), rtol=2e-5)


def test_correlation_is_least_at_equality():
    """Every dimension at its largest, (n - 1) / n, so that the sum is width * n^(-2 alpha)."""
    (x,) = draw((5, 4))
    least = information.correlation_information_loss(3 * x + 1, x, alpha=1.01)
    np.testing.assert_allclose(least, np.log2(4 * 5 ** (-2.02)), rtol=2e-5)


def test_mutual_information():
    s, t = draw((5, 4), (5, 3))
    np.testing.assert_allclose(np.mean(information.mutual_information_loss(s, t)), mutual_information(s, t), rtol=2e-5)
    none = information.mutual_information_loss(s, np.ones((5, 1)))  # a teacher for which all are alike tells nothing
    np.testing.assert_allclose(none, 0, atol=1e-6)


def test_information_is_their_sum():
    embedded, compared, t = draw((5, 4), (5, 4), (5, 4))
    values = information.information_distillation_loss(embedded, compared, t, correlation=2.0, mutual=0.5, alpha=1.5)
    expected = 2 * correlation_information(embedded, t, 1.5) + 0.5 * mutual_information(compared, t)
    np.testing.assert_allclose(np.mean(values), expected, rtol=2e-5)


@pytest.mark.parametrize(("width", "same_width"), [(4, True), (6, False)])
def test_mutual_information_compares_the_embedding_itself_where_widths_agree(width, same_width):
    x, t = jnp.ones((3, width)), jnp.ones((3, 4))
    model = information_embedding(x, t)
    params, stats = model.init(jax.random.key(0), x)
    embedded, compared = model.apply(params, stats, x, train=True, key=jax.random.key(0))[0].logits
    assert embedded.shape == (3, 4)
    np.testing.assert_array_equal(compared, x if same_width else embedded)


def test_semantic_calibration():
    """Two stages of the student, two of the teacher; the larger of two maps is pooled."""
    rng = np.random.default_rng(0)
    attention = rng.dirichlet((1.0, 1.0), size=(3, 2))
    s11, s12, s21, s22, t1, t2 = draw(
        (3, 4, 4, 2), (3, 2, 2, 5), (3, 2, 2, 2), (3, 2, 2, 5), (3, 4, 4, 2), (3, 2, 2, 5)
    )
    pooled = t1.reshape(3, 2, 2, 2, 2, 2).mean((2, 4))
    squares = np.stack([np.mean((a - b) ** 2, (1, 2, 3)) for a, b in ((s11, t1), (s12, t2), (s21, pooled), (s22, t2))])
    expected = (attention.reshape(3, 4) * squares.T).sum(1) / 2
    values = cross_layer.semantic_calibration_loss(attention, s11, s12, s21, s22, t1, t2)
    np.testing.assert_allclose(values, expected, rtol=2e-5)
    same = cross_layer.semantic_calibration_loss(attention, t1, t2, t1, t2, t1, t2)
    np.testing.assert_allclose(same, 0, atol=1e-7)


def test_semantic_calibration_counts_its_maps():
    attention, x = np.full((3, 2, 2), 0.5), np.ones((3, 2, 2, 2))
    with pytest.raises(ValueError, match="n m maps of the student and m of the teacher, got .3, 2, 2. and 5 maps"):
        cross_layer.semantic_calibration_loss(attention, x, x, x, x, x)
    with pytest.raises(ValueError, match="takes 3 maps of the student, those of the teacher, and these as targets"):
        connectors.semantic_calibration(*[jax.ShapeDtypeStruct((8, 2, 2, 2), jnp.float32)] * 6)


def test_attention_of_semantic_calibration_is_a_distribution():
    """Over the teacher's stages, of networks with one more stage than the student; a dead batch is not NaN."""
    students, teachers = draw((8, 4, 4, 3), (8, 2, 2, 5)), draw((8, 4, 4, 2), (8, 4, 4, 2), (8, 1, 1, 6))
    shapes = [jax.ShapeDtypeStruct(x.shape, jnp.float32) for x in (*students, *teachers, *teachers)]
    model = connectors.semantic_calibration(*shapes, stages=2)
    inputs = [jnp.asarray(x, jnp.float32) for x in (*students, *teachers)]
    params, stats = model.init(jax.random.key(0), *inputs)
    attention, *projected = model.apply(params, stats, *inputs, train=True, key=jax.random.key(0))[0].logits
    np.testing.assert_allclose(attention.sum(-1), np.ones((8, 2)), rtol=1e-5)
    assert [p.shape[1:] for p in projected] == [
        *((4, 4, 2), (4, 4, 2), (1, 1, 6)),
        *((2, 2, 2), (2, 2, 2), (1, 1, 6)),
    ]
    dead = model.apply(params, stats, *map(jnp.zeros_like, inputs), train=True, key=jax.random.key(0))[0].logits
    assert all(np.isfinite(x).all() for x in dead)
