"""Losses of transformers, dense outputs, discriminators and targets against references in NumPy float64."""

from __future__ import annotations

import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest
from numpy_reference import draw, kl, softmax

from kd_jax.losses import adversarial, attention, dense, task


def n2(x):
    return x / max(math.sqrt(x @ x), 1e-12)


def each(fn):
    return lambda s, t: sum(fn(s[i], t[i]) for i in range(len(s))) / len(s)


MASK = np.array([[1, 1, 1], [1, 1, 0]], bool)


def relation(s, t, mask):
    """Scores [heads, length, length] of one example: real queries over real keys."""
    real = [i for i in range(s.shape[1]) if mask[i]]
    rows = itertools.product(range(s.shape[0]), real)
    return np.mean([kl(softmax(t[h, q, real]), softmax(s[h, q, real])) for h, q in rows])


def self_scores(x):
    return np.array([[[a @ b for b in head] for a in head] for head in x]) / math.sqrt(x.shape[2])


def split(x, heads):
    """[length, width] -> [heads, length, width / heads]."""
    width = x.shape[1] // heads
    return np.stack([x[:, h * width : (h + 1) * width] for h in range(heads)])


def with_mask(fn):
    return lambda s, t: sum(fn(s[i], t[i], MASK[i]) for i in range(len(s))) / len(s)


def cosine_tokens(s, t):
    distances = []
    for i, j in zip(*np.nonzero(MASK), strict=True):
        a, b = s[i, j], t[i, j]
        distances.append(1 - a @ b / math.sqrt((a @ a + 1e-12) * (b @ b + 1e-12)))
    return np.mean(distances)


def masked_scores(s, t, mask):
    real = np.nonzero(mask)[0]
    return np.mean([(s[h, q, k] - t[h, q, k]) ** 2 for h in range(len(s)) for q in real for k in real])


def channel_wise(s, t, temperature):
    channels = range(s.shape[2])
    return temperature**2 * np.mean(
        [kl(softmax(t[:, :, c].ravel(), temperature), softmax(s[:, :, c].ravel(), temperature)) for c in channels]
    )


def regions(x, scale):
    height, width = int(x.shape[0] * scale), int(x.shape[1] * scale)
    return [
        x[i : i + height, j : j + width].max(axis=(0, 1))
        for i in range(0, x.shape[0], height)
        for j in range(0, x.shape[1], width)
    ]


def affinity(x, scale, norms_of=None):
    norms = [math.sqrt(v @ v) + 1e-8 for v in regions(x if norms_of is None else norms_of, scale)]
    nodes = [v / n for v, n in zip(regions(x, scale), norms, strict=True)]
    return np.array([[a @ b for b in nodes] for a in nodes])


def pixel_wise(s, t):
    rows = zip(s.reshape(-1, s.shape[-1]), t.reshape(-1, t.shape[-1]), strict=True)
    return np.mean([-softmax(b) @ np.log(softmax(a)) for a, b in rows])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def binary_cross_entropy(s, t):
    y = sigmoid(t)
    return np.mean(-y * np.log(sigmoid(s)) - (1 - y) * np.log(1 - sigmoid(s)))


SCORES, STATES, MAP = (2, 2, 3, 3), (2, 3, 4), (2, 3, 3, 2)
CASES = {
    "attention_score": (attention.attention_score_loss, lambda s, t: np.mean((s - t) ** 2), SCORES, SCORES),
    "attention_score masked": (
        lambda s, t: attention.attention_score_loss(s, t, mask=MASK),
        with_mask(masked_scores),
        SCORES,
        SCORES,
    ),
    "hidden_state": (attention.hidden_state_loss, lambda s, t: np.mean((s - t) ** 2), STATES, STATES),
    "hidden_state masked": (
        lambda s, t: attention.hidden_state_loss(s, t, mask=MASK),
        with_mask(lambda s, t, mask: np.mean((s[mask] - t[mask]) ** 2)),
        STATES,
        STATES,
    ),
    "cosine_embedding": (
        lambda s, t: attention.cosine_embedding_loss(s, t, mask=MASK),
        cosine_tokens,
        STATES,
        STATES,
    ),
    "attention_relation": (
        lambda s, t: attention.attention_relation_loss(s, t, mask=MASK),
        with_mask(relation),
        SCORES,
        SCORES,
    ),
    "value_relation": (
        lambda s, t: attention.value_relation_loss(s, t, mask=MASK),
        with_mask(lambda s, t, mask: relation(self_scores(s), self_scores(t), mask)),
        (2, 2, 3, 3),
        (2, 2, 3, 5),
    ),
    "self_relation": (
        lambda s, t: attention.self_relation_loss(s, t, relation_heads=2, mask=MASK),
        with_mask(lambda s, t, mask: relation(self_scores(split(s, 2)), self_scores(split(t, 2)), mask)),
        (2, 3, 4),
        (2, 3, 6),
    ),
    "patient": (
        attention.patient_loss,
        each(lambda s, t: np.mean([(n2(a) - n2(b)) ** 2 for a, b in zip(s, t, strict=True)])),
        STATES,
        STATES,
    ),
    "channel_wise": (
        lambda s, t: dense.channel_wise_loss(s, t, temperature=2.5),
        each(lambda s, t: channel_wise(s, t, 2.5)),
        MAP,
        MAP,
    ),
    "pixel_wise": (dense.pixel_wise_loss, pixel_wise, MAP, MAP),
    "localization": (
        lambda s, t: dense.localization_loss(s, t, temperature=3.0),
        lambda s, t: np.mean([9 * kl(softmax(t[i], 3.0), softmax(s[i], 3.0)) / 5 for i in np.ndindex(2, 4)]),
        (2, 4, 5),
        (2, 4, 5),
    ),
    "discriminator": (
        adversarial.discriminator_loss,
        lambda s, t: -np.mean(np.log(1 - sigmoid(s))) - np.mean(np.log(sigmoid(t))),
        (3, 2),
        (3, 4),
    ),
    "least_squares_discriminator": (
        adversarial.least_squares_discriminator_loss,
        lambda s, t: np.mean(s**2) / 2 + np.mean((t - 1) ** 2) / 2,
        (3, 2),
        (3, 2),
    ),
    "hinge_discriminator": (
        adversarial.hinge_discriminator_loss,
        lambda s, t: np.mean(np.maximum(0, 1 + s)) + np.mean(np.maximum(0, 1 - t)),
        (5,),
        (5,),
    ),
    "fool": (lambda s, t: adversarial.fool_loss(s), lambda s, t: -np.mean(np.log(sigmoid(s))), (4,), (4,)),
    "least_squares_fool": (
        lambda s, t: adversarial.least_squares_fool_loss(s),
        lambda s, t: np.mean((s - 1) ** 2) / 2,
        (4, 2),
        (4, 2),
    ),
    "hinge_fool": (lambda s, t: adversarial.hinge_fool_loss(s), lambda s, t: -np.mean(s), (4, 2), (4, 2)),
    "mean_squared": (task.mean_squared_loss, lambda s, t: np.mean((s - t) ** 2), STATES, STATES),
    "binary_cross_entropy": (
        lambda s, t: task.binary_cross_entropy_loss(s, 1 / (1 + jnp.exp(-t))),
        binary_cross_entropy,
        (3, 4),
        (3, 4),
    ),
    "cross_entropy soft": (
        lambda s, t: task.cross_entropy_loss(s, jnp.exp(t) / jnp.sum(jnp.exp(t), axis=1, keepdims=True)),
        each(lambda s, t: -softmax(t) @ np.log(softmax(s))),
        (3, 4),
        (3, 4),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_against_reference(name, check):
    loss, reference, student, teacher = CASES[name]
    check(loss, reference, *draw(student, teacher))


def test_masked_keys_count_as_equal_scores():
    s, t = draw(SCORES, SCORES)
    expected = np.mean(attention.attention_score_loss(s.copy(), t.copy()))
    removed = np.mean((s[0, :, :, 2] - t[0, :, :, 2]) ** 2) * 6 / 36
    s[0, :, :, 2], t[0, :, :, 2] = -1e4, -200.0
    np.testing.assert_allclose(np.mean(attention.attention_score_loss(s, t)), expected - removed, rtol=1e-5)


def test_an_example_without_tokens_is_zero_and_finite():
    s, t = draw(SCORES, SCORES)
    mask = np.array([[1, 1, 0], [0, 0, 0]], bool)
    for loss in (attention.attention_score_loss, attention.attention_relation_loss, attention.value_relation_loss):
        values = loss(s, t, mask=mask)
        assert np.all(np.isfinite(values)) and values[1] == 0


def test_relation_heads_must_divide_the_width():
    s, t = draw((2, 3, 4), (2, 3, 6))
    with pytest.raises(ValueError, match="relation_heads"):
        attention.self_relation_loss(s, t, relation_heads=4)
    heads = attention.self_relation_loss(s.reshape(2, 3, 2, 2), t, relation_heads=2)
    np.testing.assert_allclose(heads, attention.self_relation_loss(s, t, relation_heads=2), rtol=1e-6)


def test_pairwise_affinity_detaches_the_norms(check):
    """5 x 4 in patches of 2 x 2: the last row of patches is cut off."""
    s, t = (x.astype(np.float32).astype(np.float64) for x in draw((2, 5, 4, 2), (2, 5, 4, 3)))

    def still(a, b):
        pairs = [(affinity(a[i], 0.5, s[i]), affinity(b[i], 0.5, t[i])) for i in range(2)]
        return np.mean([(x - y) ** 2 for x, y in pairs])

    check(
        dense.pairwise_affinity_loss,
        each(lambda s, t: np.mean((affinity(s, 0.5) - affinity(t, 0.5)) ** 2)),
        s,
        t,
        still=still,
    )
