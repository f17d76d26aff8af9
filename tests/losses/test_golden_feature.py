"""Losses on intermediate values against references in NumPy float64, an example at a time."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.losses import feature


def draw(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(scale=1.2, size=shape) for shape in shapes)


def pool(x, height, width):
    """[h, w, c] -> [height, width, c], bin i over floor(i h / height) .. ceil((i + 1) h / height)."""
    out = np.zeros((height, width, x.shape[2]))
    for i in range(height):
        for j in range(width):
            rows = range(math.floor(i * x.shape[0] / height), math.ceil((i + 1) * x.shape[0] / height))
            columns = range(math.floor(j * x.shape[1] / width), math.ceil((j + 1) * x.shape[1] / width))
            out[i, j] = sum(x[a, b] for a in rows for b in columns) / (len(rows) * len(columns))
    return out


def to_smaller(a, b):
    size = (min(a.shape[0], b.shape[0]), min(a.shape[1], b.shape[1]))
    return pool(a, *size), pool(b, *size)


def n2(x):
    return x / max(math.sqrt(np.sum(x * x)), 1e-12)


def by_example(fn):
    return lambda s, t: sum(fn(s[i], t[i]) for i in range(len(s))) / len(s)


def attention_transfer(s, t, p):
    s, t = to_smaller(s, t)
    maps = [n2(np.array([np.mean(np.abs(v) ** p) for v in x.reshape(-1, x.shape[2])])) for x in (s, t)]
    return np.mean((maps[0] - maps[1]) ** 2)


def neuron_selectivity(s, t):
    s, t = ([n2(x[:, :, c].ravel()) for c in range(x.shape[2])] for x in to_smaller(s, t))
    kernel = lambda a, b: np.mean([(x @ y) ** 2 for x in a for y in b])  # noqa: E731
    return kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)


def flow(a, b):
    a, b = to_smaller(a, b)
    return sum(np.outer(a[i, j], b[i, j]) for i, j in np.ndindex(a.shape[:2])) / (a.shape[0] * a.shape[1])


def variational(s, t, raw):
    total = 0.0
    for c in range(s.shape[-1]):
        v = math.log(1 + math.exp(raw[c])) + 1e-5
        total += 0.5 * np.sum((s[..., c] - t[..., c]) ** 2 / v + math.log(v))
    return total / s.size


def boundary(s, t, margin):
    total = 0.0
    for a, b in zip(s.ravel(), t.ravel(), strict=True):
        total += (a + margin) ** 2 if b <= 0 and a > -margin else 0
        total += (a - margin) ** 2 if b > 0 and a <= margin else 0
    return total


MARGIN = np.array([-0.6, -0.1, -0.3])


def overhaul(s, t):
    total = 0.0
    for index in np.ndindex(s.shape):
        target = max(t[index], MARGIN[index[-1]])
        total += (s[index] - target) ** 2 if s[index] > target or target > 0 else 0
    return total


def hierarchical_context(s, t):
    value, weights, weight = np.mean((s - t) ** 2), 1.0, 1.0
    for level in (4, 2, 1):
        if level >= s.shape[0]:
            continue
        weight /= 2
        weights += weight
        value += weight * np.mean((pool(s, level, level) - pool(t, level, level)) ** 2)
    return value / weights


def class_attention(s, t, size, normalize=True):
    total = 0.0
    for c in range(s.shape[2]):
        a, b = pool(s, size, size)[:, :, c], pool(t, size, size)[:, :, c]
        total += np.sum((n2(a) - n2(b)) ** 2) if normalize else np.sum((a - b) ** 2)
    return total / (s.shape[2] * size * size)


def inter_channel(s, t):
    grams = []
    for x in (s, t):
        x = x.reshape(-1, x.shape[2])
        gram = np.array([[x[:, c] @ x[:, d] for d in range(x.shape[1])] for c in range(x.shape[1])])
        grams.append(np.array([n2(row) for row in gram]))
    return np.sum((grams[0] - grams[1]) ** 2) / s.shape[2]


def pearson(s, t):
    total = 0.0
    for c in range(s.shape[3]):
        a, b = ((x - x.mean()) / (x.std(ddof=1) + 1e-6) for x in (s[..., c].ravel(), t[..., c].ravel()))
        total += 0.5 * np.sum((a - b) ** 2)
    return total / s.size


MAP = (2, 3, 3, 3)
CASES = {
    "hint": (feature.feature_hint_loss, by_example(lambda s, t: np.sum((s - t) ** 2) / s.size), MAP, MAP),
    "feature_sum": (feature.feature_sum_loss, by_example(lambda s, t: np.sum((s - t) ** 2)), MAP, MAP),
    "attention": (
        feature.attention_transfer_loss,
        by_example(lambda s, t: attention_transfer(s, t, 2)),
        (2, 3, 3, 2),
        (2, 3, 3, 4),
    ),
    "attention, student larger": (
        lambda s, t: feature.attention_transfer_loss(s, t, p=3),
        by_example(lambda s, t: attention_transfer(s, t, 3)),
        (2, 5, 5, 2),
        (2, 4, 3, 4),
    ),
    "attention, teacher larger": (
        feature.attention_transfer_loss,
        by_example(lambda s, t: attention_transfer(s, t, 2)),
        (2, 3, 3, 2),
        (2, 7, 7, 1),
    ),
    "neuron_selectivity": (feature.neuron_selectivity_loss, by_example(neuron_selectivity), MAP, (2, 4, 4, 2)),
    "factor_transfer": (
        feature.factor_transfer_loss,
        by_example(lambda s, t: np.mean(np.abs(n2(s) - n2(t)))),
        MAP,
        MAP,
    ),
    "activation_boundary": (
        lambda s, t: feature.activation_boundary_loss(s, t, margin=0.7),
        by_example(lambda s, t: boundary(s, t, 0.7)),
        MAP,
        MAP,
    ),
    "overhaul": (lambda s, t: feature.overhaul_loss(s, t, jnp.array(MARGIN)), by_example(overhaul), MAP, MAP),
    "hierarchical_context 5": (
        feature.hierarchical_context_loss,
        by_example(hierarchical_context),
        (2, 5, 5, 1),
        (2, 5, 5, 1),
    ),
    "hierarchical_context 4": (
        feature.hierarchical_context_loss,
        by_example(hierarchical_context),
        (1, 4, 4, 2),
        (1, 4, 4, 2),
    ),
    "hierarchical_context 1": (
        feature.hierarchical_context_loss,
        by_example(hierarchical_context),
        (2, 1, 1, 3),
        (2, 1, 1, 3),
    ),
    "class_attention": (
        feature.class_attention_loss,
        by_example(lambda s, t: class_attention(s, t, 2)),
        (2, 3, 3, 2),
        (2, 5, 4, 2),
    ),
    "class_attention unnormalised": (
        lambda s, t: feature.class_attention_loss(s, t, resolution=3, normalize=False),
        by_example(lambda s, t: class_attention(s, t, 3, normalize=False)),
        (2, 4, 4, 2),
        (2, 4, 4, 2),
    ),
    "inter_channel": (feature.inter_channel_loss, by_example(inter_channel), MAP, MAP),
    "pearson_feature": (feature.pearson_feature_loss, pearson, MAP, MAP),
    "softmax_regression": (
        feature.softmax_regression_loss,
        by_example(lambda s, t: np.mean((s - t) ** 2)),
        (3, 5),
        (3, 5),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_against_reference(name, check):
    loss, reference, student, teacher = CASES[name]
    check(loss, reference, *draw(student, teacher))


def test_fsp(check):
    shapes = (2, 4, 4, 2), (2, 2, 2, 3), (2, 3, 3, 2), (2, 5, 5, 3)
    check(
        lambda a, b, c, d: feature.fsp_loss((a, b), (c, d)),
        lambda a, b, c, d: np.mean([(flow(a[i], b[i]) - flow(c[i], d[i])) ** 2 for i in range(2)]),
        *draw(*shapes),
        wrt=(0, 1),
    )
    a, b, c, d = draw(*shapes)
    np.testing.assert_array_equal(feature.fsp_loss(a, b, c, d), feature.fsp_loss((a, b), (c, d)))
    with pytest.raises(ValueError, match="3 arguments"):
        feature.fsp_loss(a, b, c)
    with pytest.raises(ValueError, match="same shape"):
        feature.fsp_loss((a, b), (c, d[..., :2]))


def test_variational_information(check):
    check(feature.variational_information_loss, variational, *draw(MAP, MAP, (3,)), wrt=(0, 2))
    mean, t, raw = draw(MAP, MAP, (3,))
    np.testing.assert_array_equal(
        feature.variational_connector_loss(mean, raw, t), feature.variational_information_loss(mean, t, raw)
    )
    with pytest.raises(ValueError, match=r"\(3,\)"):
        feature.variational_information_loss(*draw(MAP, MAP, (2,)))


@pytest.mark.parametrize("size, bins", [(7, 3), (7, 4), (5, 4), (4, 4), (6, 3), (3, 1), (2, 5)])
def test_adaptive_average_pool(size, bins):
    (x,) = draw((1, size, size + 1, 2))
    np.testing.assert_allclose(
        feature.adaptive_average_pool(jnp.asarray(x, jnp.float32), (bins, 2))[0], pool(x[0], bins, 2), atol=1e-5
    )


def test_relu_margin():
    """By numerical integration of the normal density; rare negatives fall back to -3 |scale|."""
    scale, bias = np.array([1.0, -0.5, 2.0, 0.3, 0.0, 0.0]), np.array([0.2, -1.0, 1.5, 1.2, 0.7, -0.4])
    expected = []
    for s, b in zip(np.abs(scale), bias, strict=True):
        if s == 0:
            expected.append(min(b, 0))
            continue
        x = np.linspace(b - 12 * s, 0, 400001)
        density = np.exp(-(((x - b) / s) ** 2) / 2)
        probability = np.trapezoid(density, x) / (s * math.sqrt(2 * math.pi)) if b < 12 * s else 0
        expected.append(np.trapezoid(density * x, x) / np.trapezoid(density, x) if probability > 1e-3 else -3 * s)
    np.testing.assert_allclose(feature.relu_margin(scale, bias), expected, rtol=1e-4)


def test_overhaul_needs_a_margin_for_each_channel():
    s, t = draw(MAP, MAP)
    with pytest.raises(ValueError, match=r"\(3,\)"):
        feature.overhaul_loss(s, t, jnp.zeros(4))
