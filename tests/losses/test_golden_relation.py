"""Losses on relations and contrastive losses against references in NumPy float64: loops over pairs and triplets."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.losses import relation, representation


def draw(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(size=shape) for shape in shapes)


def n2(x, eps=1e-12):
    return x / max(math.sqrt(np.sum(x * x)), eps)


def huber(d):
    return 0.5 * d * d if abs(d) < 1 else abs(d) - 0.5


def distances(x):
    batch = len(x)
    d = np.zeros((batch, batch))
    for i, j in itertools.permutations(range(batch), 2):
        d[i, j] = math.sqrt(max(np.sum((x[i] - x[j]) ** 2), 1e-12))
    return d / d[d > 0].mean()


def distance_relation(s, t):
    return np.mean([huber(a - b) for a, b in zip(distances(s).ravel(), distances(t).ravel(), strict=True)])


def angle(x, i, j, k):
    return n2(x[j] - x[i]) @ n2(x[k] - x[i])


def angle_relation(s, t):
    return np.mean([huber(angle(s, *ijk) - angle(t, *ijk)) for ijk in itertools.product(range(len(s)), repeat=3)])


def similarity_preserving(s, t):
    grams = [np.array([n2(row) for row in x.reshape(len(x), -1) @ x.reshape(len(x), -1).T]) for x in (s, t)]
    return np.sum((grams[0] - grams[1]) ** 2) / len(s) ** 2


def correlation_congruence(s, t, gamma, order):
    def kernel(x, y):
        cosine = n2(x) @ n2(y)
        return math.exp(-2 * gamma) * sum((2 * gamma) ** p / math.factorial(p) * cosine**p for p in range(order + 1))

    pairs = list(itertools.product(range(len(s)), repeat=2))
    return np.mean([(kernel(s[i], s[j]) - kernel(t[i], t[j])) ** 2 for i, j in pairs])


def probabilistic_transfer(s, t):
    probabilities = []
    for x in (s, t):
        x = [row / (math.sqrt(row @ row) + 1e-7) for row in x]
        similarity = np.array([[(a @ b + 1) / 2 for b in x] for a in x])
        probabilities.append(similarity / similarity.sum(axis=1, keepdims=True))
    q, p = probabilities
    return np.mean(p * np.log((p + 1e-7) / (q + 1e-7)))


def edges(x):
    x = x.reshape(len(x), -1)
    d = np.array([[np.sum((a - b) ** 2) for b in x] for a in x])
    return d / d.max()


def transformation(first, second):
    side = second.shape[1]
    step = first.shape[1] // side
    pooled = np.zeros((*second.shape[:3], first.shape[3]))
    for i, j in itertools.product(range(side), repeat=2):
        block = first[:, i * step : (i + 1) * step, j * step : (j + 1) * step]
        pooled[:, i, j] = block.mean(axis=(1, 2))
    halved = np.stack([(second[..., 2 * c] + second[..., 2 * c + 1]) / 2 for c in range(first.shape[3])], axis=-1)
    d = np.array([np.sum((a - b) ** 2) for a, b in zip(pooled, halved, strict=True)])
    return d / d.max()


def instance_relation_graph(s1, s2, s3, s4, t1, t2, t3, t4):
    edge = np.mean([np.mean((edges(a) - edges(b)) ** 2) for a, b in ((s1, t1), (s2, t2), (s3, t3))])
    change = np.mean((transformation(s1, s2) - transformation(t1, t2)) ** 2)
    return 0.1 * np.mean((s4 - t4) ** 2) + 5 * edge + 5 * change


@pytest.mark.parametrize(
    "loss, reference",
    [
        (relation.distance_relation_loss, distance_relation),
        (relation.angle_relation_loss, angle_relation),
        (relation.relation_loss, lambda s, t: 25 * distance_relation(s, t) + 50 * angle_relation(s, t)),
        (relation.similarity_preserving_loss, similarity_preserving),
        (
            lambda s, t: relation.correlation_congruence_loss(s, t, gamma=0.5, order=3),
            lambda s, t: correlation_congruence(s, t, 0.5, 3),
        ),
        (relation.probabilistic_transfer_loss, probabilistic_transfer),
    ],
    ids=["distance", "angle", "relation", "similarity", "correlation", "probabilistic"],
)
def test_pairs_and_triplets(loss, reference, check):
    check(loss, reference, *draw((5, 3), (5, 4)))


def test_instance_relation_graph(check):
    shapes = [(3, 4, 4, 2), (3, 2, 2, 4), (3, 3), (3, 4)]
    check(
        relation.instance_relation_graph_loss,
        instance_relation_graph,
        *draw(*shapes, (3, 2, 2, 1), (3, 1, 1, 2), (3, 5), (3, 4)),
        wrt=(0, 1, 2, 3),
    )
    s, t = draw(*shapes), draw(*shapes)
    with pytest.raises(ValueError, match="4"):
        relation.instance_relation_graph_loss(s[:3], t)
    with pytest.raises(ValueError, match="pairs of channels"):
        relation.instance_relation_graph_loss((s[0], s[1][..., :3], s[2], s[3]), t)


def test_repeated_rows_keep_the_published_value():
    """A pair at distance 0 counts in the mean distance, and its triplets as cosine 0."""
    s, t = draw((5, 3), (5, 4))
    s[1] = s[0]
    distance, angle = jax.jit(relation.distance_relation_loss), jax.jit(relation.angle_relation_loss)
    np.testing.assert_allclose(jnp.mean(distance(s, t)), distance_relation(s, t), rtol=1e-4)
    np.testing.assert_allclose(jnp.mean(angle(s, t)), angle_relation(s, t), rtol=1e-4)
    equal = np.ones((5, 3))
    np.testing.assert_allclose(jnp.mean(distance(equal, t)), distance_relation(equal, t), rtol=1e-4)


def test_a_common_offset_does_not_cost_precision():
    """Rows around (1000, ...): the textbook |x|^2 + |y|^2 - 2xy in float32 has no correct digit here."""
    s, t = draw((6, 4), (6, 4))
    s = (s + 1000).astype(np.float32)
    value = jnp.mean(jax.jit(relation.relation_loss)(s, t))
    s = s.astype(np.float64)
    np.testing.assert_allclose(value, 25 * distance_relation(s, t) + 50 * angle_relation(s, t), rtol=1e-4)


def test_blocks_of_anchors_change_nothing(monkeypatch):
    s, t = draw((7, 3), (7, 4))
    s, t = jnp.asarray(s, jnp.float32), jnp.asarray(t, jnp.float32)

    def both(s):
        values = relation.relation_loss(s, t)
        return jnp.sum(values * jnp.arange(7.0)), values

    (_, values), gradient = jax.jit(jax.value_and_grad(both, has_aux=True))(s)
    monkeypatch.setattr(relation, "_BLOCK_NUMBERS", 300)  # 2 anchors at a time: 7 leaves a remainder
    (_, blocked), blocked_gradient = jax.jit(jax.value_and_grad(lambda s: both(s), has_aux=True))(s)
    np.testing.assert_allclose(blocked, values, rtol=1e-5)
    np.testing.assert_allclose(blocked_gradient, gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("numbers", [2**24, 2000])
def test_a_sharded_batch_is_one_batch(numbers, monkeypatch):
    """Over 8 devices, 2 rows each, also in blocks: what one device gets for all 16 rows."""
    monkeypatch.setattr(relation, "_BLOCK_NUMBERS", numbers)
    s, t = (jnp.asarray(x, jnp.float32) for x in draw((16, 4), (16, 4)))
    gradient = jax.jit(jax.value_and_grad(lambda s, t: jnp.mean(relation.relation_loss(s, t))))
    alone = gradient(s, t)
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    with jax.set_mesh(mesh):
        spread = gradient(*jax.device_put((s, t), rows))
    for a, b in zip(alone, spread, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_angles_of_a_large_batch_need_little_memory():
    """batch 512, width 512: the triplets alone would take 0.5 GB, their differences 270 GB."""
    shape = jax.ShapeDtypeStruct((512, 512), jnp.float32)
    gradient = jax.jit(jax.grad(lambda s, t: jnp.sum(relation.relation_loss(s, t))))
    used = gradient.lower(shape, shape).compile().memory_analysis()
    assert used.temp_size_in_bytes < 2**29


def info_nce(s, t, temperature):
    total = 0.0
    for i in range(len(s)):
        scores = [n2(s[i]) @ n2(t[j]) / temperature for j in range(len(t))]
        total += math.log(sum(math.exp(x) for x in scores)) - scores[i]
    return total / len(s)


def test_info_nce(check):
    check(
        lambda s, t: representation.info_nce_loss(s, t, temperature=0.3),
        lambda s, t: info_nce(s, t, 0.3),
        *draw((4, 3), (4, 3)),
        wrt=(0, 1),
    )
    with pytest.raises(ValueError, match="width"):
        representation.info_nce_loss(*draw((4, 3), (4, 2)))


def contrast(anchors, bank, index, negatives, temperature, constant=None):
    scores = [
        [math.exp(n2(a) @ bank[r] / temperature) for r in (i, *ks)]
        for a, i, ks in zip(anchors, index, negatives, strict=True)
    ]
    constant = constant or np.mean(scores) * len(bank)
    m = len(negatives[0]) / len(bank)
    total = 0.0
    for row in scores:
        p = [x / constant for x in row]
        total -= math.log(p[0] / (p[0] + m + 1e-7)) + sum(math.log(m / (x + m + 1e-7)) for x in p[1:])
    return total / len(anchors), constant


@pytest.mark.parametrize("rows", [8, 200])
def test_contrastive_representation(rows, check):
    """With few rows the whole bank is multiplied, with many the negatives are gathered."""
    s, t, *banks = draw((3, 4), (3, 4), (rows, 4), (rows, 4))
    banks = [np.array([n2(row) for row in bank]).astype(np.float32).astype(np.float64) for bank in banks]
    index = np.array([5, 0, 2])
    negatives = np.random.default_rng(1).integers(3, rows, size=(3, 6))
    student_side = lambda s: contrast(s, banks[1], index, negatives, 0.4)  # noqa: E731
    teacher_side = lambda t: contrast(t, banks[0], index, negatives, 0.4)  # noqa: E731
    z = [side(x.astype(np.float32).astype(np.float64))[1] for side, x in ((student_side, s), (teacher_side, t))]

    def loss(s, t):
        return representation.contrastive_representation_loss(
            s,
            t,
            student_bank=jnp.asarray(banks[0], jnp.float32),
            teacher_bank=jnp.asarray(banks[1], jnp.float32),
            index=index,
            negatives=negatives,
            temperature=0.4,
        )

    def still(s, t):
        first = contrast(s, banks[1], index, negatives, 0.4, constant=z[0])[0]
        return first + contrast(t, banks[0], index, negatives, 0.4, constant=z[1])[0]

    check(loss, lambda s, t: student_side(s)[0] + teacher_side(t)[0], s, t, wrt=(0, 1), still=still)


def test_update_memory_bank():
    bank, embedding = draw((5, 3), (2, 3))
    new = representation.update_memory_bank(jnp.asarray(bank), embedding, np.array([3, 5]), momentum=0.7)
    expected = bank.copy()
    expected[3] = n2(0.7 * bank[3] + 0.3 * n2(embedding[0]))  # row 5 does not exist
    np.testing.assert_allclose(new, expected, rtol=1e-5)
    with pytest.raises(ValueError, match="bank"):
        representation.update_memory_bank(jnp.asarray(bank), embedding, np.array([3]))


def similarity_transfer(s, t, temperature, ratio):
    """Over the list of (example, view), as the method is told: rank, keep, average."""
    batch, views = s.shape[0], s.shape[1] - 1

    def softened(x, i, v):
        weights = [math.exp(n2(x[i, v]) @ n2(x[j, 0]) / temperature) for j in range(batch)]
        return np.array(weights) / sum(weights)

    entries = []
    for i, v in itertools.product(range(batch), range(1, views + 1)):
        p, q = softened(t, i, v), softened(s, i, v)
        entries.append((int(np.sum(p > p[i])), temperature**2 * np.sum(p * np.log(p / q))))
    right = [e for e in entries if e[0] == 0]
    wrong = sorted((e for e in entries if e[0] > 0), key=lambda e: e[0])
    assert right and len(wrong) > 2
    hardest = right + wrong[: int(len(wrong) * ratio)]
    return sum(value for _, value in hardest) / len(hardest)


def test_similarity_transfer(check):
    check(
        lambda s, t: representation.similarity_transfer_loss(s, t, wrong_ratio=0.6),
        lambda s, t: similarity_transfer(s, t, 0.5, 0.6),
        *draw((4, 4, 3), (4, 4, 3), seed=5),
    )


def test_consecutive_congruence():
    s, t = np.random.default_rng(3).normal(size=(2, 6, 4)).astype(np.float32)
    difference = np.abs(s - t)
    expected = np.mean(np.sum(difference[:-1] * difference[1:], axis=1))  # RepDistiller's CC
    np.testing.assert_allclose(relation.consecutive_congruence_loss(s, t).mean(), expected, rtol=1e-6)
    mask = np.array([True, False, True, True, False, True])  # the row after a row is the next that counts
    values = np.asarray(relation.consecutive_congruence_loss(s, t, where=mask))
    np.testing.assert_allclose(values[mask], relation.consecutive_congruence_loss(s[mask], t[mask]), rtol=1e-6)
    gradient = jax.grad(lambda s: relation.consecutive_congruence_loss(s, t).sum())(jnp.asarray(t))
    np.testing.assert_array_equal(gradient, 0.0)
