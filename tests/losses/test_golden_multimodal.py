"""Two-tower losses, features of several teachers, and PHI-S against formulas written anew in NumPy float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.losses import multimodal, representation, standardization
from kd_jax.losses.self_distillation import centred_views_loss

RNG = np.random.default_rng(0)
S_IMAGE, S_TEXT = RNG.normal(size=(2, 5, 4))
T_IMAGE, T_TEXT = RNG.normal(size=(2, 5, 4))
U_IMAGE, U_TEXT = RNG.normal(size=(2, 5, 3))
BATCH = range(5)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kl(p, q):
    return float(np.sum(p * np.log(p / q)))


def ways(image, text, scale):
    logits = scale * unit(image) @ unit(text).T
    return softmax(logits), softmax(logits.T)


def half_kl(student, teacher):
    return [0.5 * sum(kl(t[i], s[i]) for s, t in zip(student, teacher, strict=True)) for i in BATCH]


def test_affinity_kl(check):
    expected = half_kl(ways(S_IMAGE, S_TEXT, 3.0), ways(U_IMAGE, U_TEXT, 5.0))
    values = multimodal.affinity_kl_loss(
        S_IMAGE, S_TEXT, U_IMAGE, U_TEXT, student_scale=3.0, teacher_scale=jnp.float32(5.0)
    )
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    check(
        lambda *x: multimodal.affinity_kl_loss(*x, student_scale=3.0, teacher_scale=5.0),
        lambda si, st, ti, tt: np.mean(half_kl(ways(si, st, 3.0), ways(ti, tt, 5.0))),
        *(S_IMAGE, S_TEXT, U_IMAGE, U_TEXT),
        wrt=(0, 1),
    )


def test_affinity_by_hand():
    """Two pairs at right angles, texts as their images: cosines 1 and 0, so q = sigmoid(scale) for the own text."""
    eye = np.eye(2)
    q, p = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-2))
    expected = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    values = multimodal.affinity_kl_loss(eye, 3 * eye, 2 * eye, eye, student_scale=1.0, teacher_scale=2.0)
    np.testing.assert_allclose(values, [expected] * 2, rtol=1e-5)
    values = multimodal.affinity_interactive_loss(eye, eye, eye, eye, scale=1.0)
    np.testing.assert_allclose(values, [-math.log(q)] * 2, rtol=1e-6)


def test_affinity_ensemble():
    teachers = [(T_IMAGE, T_TEXT), (U_IMAGE, U_TEXT)]
    members = [ways(*teacher, scale) for teacher, scale in zip(teachers, (2.0, 7.0), strict=True)]
    mean = [np.mean(way, axis=0) for way in zip(*members, strict=True)]
    values = multimodal.affinity_ensemble_loss(
        S_IMAGE, S_TEXT, teachers, student_scale=3.0, teacher_scales=jnp.array([2.0, 7.0])
    )
    np.testing.assert_allclose(values, half_kl(ways(S_IMAGE, S_TEXT, 3.0), mean), rtol=1e-5)
    for wrong in ([2.0], []):
        with pytest.raises(ValueError, match=f"2 teachers and {len(wrong)} teacher_scales"):
            multimodal.affinity_ensemble_loss(S_IMAGE, S_TEXT, teachers, student_scale=3.0, teacher_scales=wrong)
    with pytest.raises(ValueError, match="0 teachers"):
        multimodal.affinity_ensemble_loss(S_IMAGE, S_TEXT, [], student_scale=3.0, teacher_scales=[])


def test_affinity_interactive(check):
    def reference(si, st, ti, tt):
        of_image, of_text = softmax(4 * unit(si) @ unit(tt).T), softmax(4 * unit(st) @ unit(ti).T)
        return np.mean([-0.5 * (math.log(of_image[i, i]) + math.log(of_text[i, i])) for i in BATCH])

    check(
        lambda *x: multimodal.affinity_interactive_loss(*x, scale=4.0),
        reference,
        *(S_IMAGE, S_TEXT, T_IMAGE, T_TEXT),
        wrt=(0, 1),
    )
    with pytest.raises(ValueError, match=r"one width .*\(5, 4\) and \(5, 4\), teacher \(5, 3\) and \(5, 3\)"):
        multimodal.affinity_interactive_loss(S_IMAGE, S_TEXT, U_IMAGE, U_TEXT, scale=1.0)


def test_affinity_sigmoid(check):
    def reference(si, st, ti, tt):
        z = 3 * unit(si) @ unit(st).T - 1
        label = 2 / (1 + np.exp(-(5 * unit(ti) @ unit(tt).T + 0.5))) - 1
        return np.mean(np.log1p(np.exp(-label * z)).sum(1))

    options = dict(student_scale=3.0, teacher_scale=5.0, student_bias=-1.0, teacher_bias=0.5)
    check(
        lambda *x: multimodal.affinity_sigmoid_loss(*x, **options),
        reference,
        *(S_IMAGE, S_TEXT, U_IMAGE, U_TEXT),
        wrt=(0, 1),
    )


def test_towers_that_do_not_fit():
    with pytest.raises(ValueError, match=r"student \(5, 4\) and \(4, 4\), teacher"):
        multimodal.affinity_kl_loss(S_IMAGE, S_TEXT[:4], T_IMAGE, T_TEXT, student_scale=1.0, teacher_scale=1.0)
    with pytest.raises(ValueError, match=r"where must have shape \(5,\)"):
        multimodal.affinity_interactive_loss(S_IMAGE, S_TEXT, T_IMAGE, T_TEXT, scale=1.0, where=np.ones(4, bool))


def test_embedding_distances():
    s, t = np.array([[3.0, 4.0], [0.0, 0.0]]), np.array([[0.0, 0.0], [0.0, 2.0]])
    np.testing.assert_allclose(representation.euclidean_embedding_loss(s, t), [5, 2])
    np.testing.assert_allclose(representation.unit_feature_loss(s, np.array([[0.0, 9.0], [0.0, 2.0]])), [0.2, 0.5])
    # cosine 0.6 of (3, 4) and (1, 0); |differences| 2 and 4 give 1.5 and 3.5
    value = representation.agglomerative_feature_loss(s[:1], np.array([[1.0, 0.0]]))
    np.testing.assert_allclose(value, [0.9 * 0.4 + 0.1 * 2.5], rtol=1e-6)
    gradient = jax.grad(lambda s: representation.euclidean_embedding_loss(s, s * 1.0).sum())(jnp.asarray(s))
    assert not np.any(np.isnan(gradient))


def test_standardized_feature(check):
    s, t = RNG.normal(size=(2, 3, 2, 4))
    mean, matrix = standardization.phi_standardization(RNG.normal(size=(50, 4)) * np.arange(1, 5))

    def reference(s, t):
        z = (t - mean) @ matrix.T
        size = np.abs(s - z)
        cosine = (unit(s) * unit(z)).sum(-1)
        return np.mean(0.9 * (1 - cosine) + 0.1 * np.where(size < 1, size**2 / 2, size - 0.5).mean(-1))

    loss = standardization.standardized_feature_loss
    assert loss(s, t, mean=mean, matrix=matrix).shape == (3,)
    check(lambda *x: loss(*x, mean=mean, matrix=matrix), reference, s, t)
    with pytest.raises(ValueError, match=r"features \(3, 2, 4\) need a mean \(4,\) and a matrix \(4, 4\)"):
        loss(s, t, mean=mean[:3], matrix=matrix)


def test_agglomerative_of_maps(check):
    def reference(s, t):
        cosine = (unit(s) * unit(t)).sum(-1)
        size = np.abs(s - t)
        return np.mean(0.7 * (1 - cosine) + 0.3 * np.where(size < 1, size**2 / 2, size - 0.5).mean(-1))

    s, t = RNG.normal(size=(2, 2, 3, 2, 4))
    assert representation.agglomerative_feature_loss(s, t).shape == (2, 3, 2)
    check(lambda *x: representation.agglomerative_feature_loss(*x, cosine_share=0.7), reference, s, t)


def test_queue_similarity(check):
    queue = np.concatenate([RNG.normal(size=(6, 4)), np.zeros((2, 4))])  # two rows are not filled yet

    def reference(s, t):
        rows = np.concatenate([unit(queue[:6]), queue[6:]])
        q, p = (softmax(unit(x) @ rows.T / 0.1) for x in (s, t))
        return np.mean([kl(p[i], q[i]) for i in BATCH])

    check(lambda s, t: representation.queue_similarity_loss(s, t, queue, temperature=0.1), reference, S_IMAGE, T_IMAGE)
    with pytest.raises(ValueError, match=r"student \(5, 4\), teacher \(5, 4\), queue \(6, 3\)"):
        representation.queue_similarity_loss(S_IMAGE, T_IMAGE, RNG.normal(size=(6, 3)))


def test_token_affinity(check):
    s, t = RNG.normal(size=(2, 4, 3)), RNG.normal(size=(2, 4, 5))
    mask = np.array([[1, 1, 0, 1], [1, 1, 1, 1]], bool)

    def reference(s, t):
        values = []
        for image, there in zip(zip(s, t, strict=True), mask, strict=True):
            q, p = (softmax(unit(x[there]) @ unit(x[there]).T / 0.2) for x in image)
            values.append(np.mean([kl(p[i], q[i]) for i in range(there.sum())]))
        return np.mean(values)

    check(lambda s, t: representation.token_affinity_loss(s, t, temperature=0.2, mask=mask), reference, s, t)
    maps = [x.reshape(2, 2, 2, -1) for x in (s, t)]
    np.testing.assert_allclose(representation.token_affinity_loss(*maps), representation.token_affinity_loss(s, t))
    assert representation.token_affinity_loss(s, t, mask=np.zeros((2, 4), bool)).tolist() == [0, 0]
    with pytest.raises(ValueError, match=r"mask must be \(2, 4\)"):
        representation.token_affinity_loss(s, t, mask=mask[:, :3])


@pytest.mark.parametrize("width", [1, 2, 3, 6, 8, 10, 12, 20, 24, 28, 36, 64, 70])
def test_phi_standardization(width):
    x = np.random.default_rng(width).normal(size=(200, width)) @ np.diag(np.linspace(0.1, 5, width)) + 3
    x[:, -1] += x[:, 0]
    mean, matrix = standardization.phi_standardization(x)
    assert mean.dtype == matrix.dtype == np.float64  # as the features
    eigenvalues = np.linalg.eigvalsh(np.atleast_2d(np.cov(x.T)))
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(width) / eigenvalues.mean(), atol=1e-10)
    standard = (x - mean) @ matrix.T
    np.testing.assert_allclose(standard.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(standard.var(0, ddof=1), 1, rtol=1e-9)
    distances = [np.linalg.norm(a[:50, None] - a[None, 50:100], axis=-1) for a in (x, standard)]
    np.testing.assert_allclose(distances[1] * math.sqrt(eigenvalues.mean()), distances[0], rtol=1e-9)


@pytest.mark.parametrize("width", [2, 8, 12, 20, 24, 36])
def test_every_dimension_has_an_equal_share_of_every_eigenvector(width):
    x = np.random.default_rng(1).normal(size=(300, width)) * np.linspace(1, 4, width)
    _, matrix = standardization.phi_standardization(x)
    values, vectors = np.linalg.eigh(np.cov(x.T))
    shares = np.abs(matrix @ vectors) * math.sqrt(values.mean())
    np.testing.assert_allclose(shares, 1 / math.sqrt(width), rtol=1e-9)


@pytest.mark.parametrize("features", [np.ones((4, 3)), np.zeros((1, 3)), np.full((4, 3), np.nan), np.zeros((4, 3, 2))])
def test_features_that_cannot_be_standardised(features):
    with pytest.raises(ValueError, match="phi_standardization: "):
        standardization.phi_standardization(features)


def test_float32_features_give_float32():
    mean, matrix = standardization.phi_standardization(jnp.asarray(RNG.normal(size=(20, 4)), jnp.bfloat16))
    assert mean.dtype == matrix.dtype == np.float32


def test_views_by_hand(check):
    rng = np.random.default_rng(0)
    students, teachers, center = rng.normal(size=(3, 2, 4)), rng.normal(size=(2, 2, 4)), rng.normal(size=4)

    def reference(*arrays):
        s, t = arrays[:3], arrays[3:]
        pairs = [
            -(softmax((t[v] - center) / 0.5) * np.log(softmax(s[u] / 0.8))).sum(-1)
            for v in range(2)
            for u in range(3)
            if u != v
        ]
        return np.mean(pairs)

    options = dict(center=center, temperature=0.8, teacher_temperature=0.5)
    check(lambda *x: centred_views_loss(*x, **options), reference, *students, *teachers, wrt=(0, 1, 2))


def test_views_that_do_not_fit():
    x = jnp.zeros((4, 3))
    with pytest.raises(ValueError, match="two views or more"):
        centred_views_loss(x, x, center=jnp.zeros(3), teacher_views=1)
    with pytest.raises(ValueError, match=r"need a center \(3,\): \(2,\)"):
        centred_views_loss(x, x, x, x, center=jnp.zeros(2))
