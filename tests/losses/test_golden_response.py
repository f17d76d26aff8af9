"""Losses on logits against references in NumPy float64, a row at a time."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.losses import response, task

LABELS = [0, 2, 4, 1]


def draw(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(scale=1.5, size=shape) for shape in shapes)


def softmax(z, temperature=1.0):
    weights = [math.exp(x / temperature) for x in z]
    return [w / sum(weights) for w in weights]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def mix(share, p, q):
    return [share * a + (1 - share) * b for a, b in zip(p, q, strict=True)]


def by_row(fn):
    """The mean over rows of fn(student row, teacher row, row number)."""
    return lambda s, t: sum(fn(s[i], t[i], i) for i in range(len(s))) / len(s)


def soft_cross_entropy(s, t, temperature):
    return -(temperature**2) * sum(
        a * math.log(b) for a, b in zip(softmax(t, temperature), softmax(s, temperature), strict=True)
    )


def jsd(s, t, beta, temperature):
    p_s, p_t = softmax(s, temperature), softmax(t, temperature)
    m = mix(beta, p_t, p_s)
    return temperature**2 * (beta * kl(p_t, m) + (1 - beta) * kl(p_s, m))


def akl_gaps(s, t, mu):
    p_s, p_t = softmax(s), softmax(t)
    head = tail = cumulative = 0.0
    for place, c in enumerate(sorted(range(len(t)), key=lambda c: -p_t[c])):
        cumulative += p_t[c]
        if place == 0 or cumulative <= mu:
            head += abs(p_t[c] - p_s[c])
        else:
            tail += abs(p_t[c] - p_s[c])
    return head, tail


def akl(s, t, mu, gaps=None):
    head, tail = gaps or akl_gaps(s, t, mu)
    p_s, p_t = softmax(s), softmax(t)
    return (head * kl(p_t, p_s) + tail * kl(p_s, p_t)) / (head + tail)


def others(z, label):
    return [x for c, x in enumerate(z) if c != label]


def dkd(s, t, label, alpha, beta, temperature):
    y_s, y_t = softmax(s, temperature)[label], softmax(t, temperature)[label]
    target = kl([y_t, 1 - y_t], [y_s, 1 - y_s])
    rest = kl(softmax(others(t, label), temperature), softmax(others(s, label), temperature))
    return temperature**2 * (alpha * target + beta * rest)


def nkd(s, t, label, gamma, temperature):
    o_s, o_t = softmax(others(s, label), temperature), softmax(others(t, label), temperature)
    rest = -sum(a * math.log(b) for a, b in zip(o_t, o_s, strict=True))
    return -softmax(t)[label] * math.log(softmax(s)[label]) + gamma * temperature**2 * rest


def wsld_weight(s, t, label):
    return 1 - math.exp(math.log(softmax(s)[label]) / (1e-7 - math.log(softmax(t)[label])))


def ttm(s, t, gamma):
    powers = [p**gamma for p in softmax(t)]
    return kl([p / sum(powers) for p in powers], softmax(s)), sum(powers)


def rho(a, b):
    a, b = np.array(a) - np.mean(a), np.array(b) - np.mean(b)
    return float(a @ b) / (math.sqrt(a @ a) * math.sqrt(b @ b) + 1e-8)


def dist(s, t, beta, gamma, temperature):
    p_s = np.array([softmax(z, temperature) for z in s])
    p_t = np.array([softmax(z, temperature) for z in t])
    inter = 1 - np.mean([rho(p_s[i], p_t[i]) for i in range(len(s))])
    intra = 1 - np.mean([rho(p_s[:, c], p_t[:, c]) for c in range(s.shape[1])])
    return temperature**2 * (beta * inter + gamma * intra)


def standardized(z):
    mean = sum(z) / len(z)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in z) / (len(z) - 1))
    return [(x - mean) / (deviation + 1e-7) for x in z]


def multi_level(s, t, temperatures):
    total = 0.0
    for temperature in temperatures:
        p_s = np.array([softmax(z, temperature) for z in s])
        p_t = np.array([softmax(z, temperature) for z in t])
        total += temperature**2 * np.mean([kl(p_t[i], p_s[i]) for i in range(len(s))])
        total += np.sum((p_t.T @ p_t - p_s.T @ p_s) ** 2) / s.shape[1]
        total += np.sum((p_t @ p_t.T - p_s @ p_s.T) ** 2) / s.shape[0]
    return total


def uld(s, t, temperature):
    p_s, p_t = sorted(softmax(s, temperature))[::-1], sorted(softmax(t, temperature))[::-1]
    size = max(len(p_s), len(p_t))
    p_s, p_t = p_s + [0.0] * (size - len(p_s)), p_t + [0.0] * (size - len(p_t))
    return temperature**2 * sum(abs(a - b) for a, b in zip(p_s, p_t, strict=True))


def smoothed_cross_entropy(s, label, smoothing):
    p = softmax(s)
    return -sum(((1 - smoothing) * (c == label) + smoothing / len(p)) * math.log(p[c]) for c in range(len(p)))


T = 2.5
CASES = {
    "kd": (lambda s, t: response.kd_loss(s, t, temperature=T), lambda s, t, i: T**2 * kl(softmax(t, T), softmax(s, T))),
    "soft_cross_entropy": (
        lambda s, t: response.soft_cross_entropy_loss(s, t, temperature=T),
        lambda s, t, i: soft_cross_entropy(s, t, T),
    ),
    "logit_mse": (response.logit_mse_loss, lambda s, t, i: sum((s - t) ** 2) / 5),
    "reverse_kl": (
        lambda s, t: response.reverse_kl_loss(s, t, temperature=T),
        lambda s, t, i: T**2 * kl(softmax(s, T), softmax(t, T)),
    ),
    "jsd": (lambda s, t: response.jsd_loss(s, t, beta=0.3, temperature=T), lambda s, t, i: jsd(s, t, 0.3, T)),
    "jsd 0": (lambda s, t: response.jsd_loss(s, t, beta=0.0), lambda s, t, i: kl(softmax(t), softmax(s))),
    "jsd 1": (lambda s, t: response.jsd_loss(s, t, beta=1.0), lambda s, t, i: kl(softmax(s), softmax(t))),
    "skew_kl": (
        lambda s, t: response.skew_kl_loss(s, t, alpha=0.2, temperature=T),
        lambda s, t, i: T**2 * kl(softmax(t, T), mix(0.2, softmax(t, T), softmax(s, T))),
    ),
    "skew_reverse_kl": (
        lambda s, t: response.skew_reverse_kl_loss(s, t, alpha=0.2, temperature=T),
        lambda s, t, i: T**2 * kl(softmax(s, T), mix(0.8, softmax(t, T), softmax(s, T))),
    ),
    "total_variation": (
        lambda s, t: response.total_variation_loss(s, t, temperature=T),
        lambda s, t, i: T**2 / 2 * sum(abs(a - b) for a, b in zip(softmax(s, T), softmax(t, T), strict=True)),
    ),
    "dkd": (
        lambda s, t: response.dkd_loss(s, t, jnp.array(LABELS), alpha=1.5, beta=8.0, temperature=T),
        lambda s, t, i: dkd(s, t, LABELS[i], 1.5, 8.0, T),
    ),
    "nkd": (
        lambda s, t: response.nkd_loss(s, t, jnp.array(LABELS), gamma=1.5, temperature=T),
        lambda s, t, i: nkd(s, t, LABELS[i], 1.5, T),
    ),
    "ttm": (lambda s, t: response.ttm_loss(s, t, gamma=0.3), lambda s, t, i: ttm(s, t, 0.3)[0]),
    "wttm": (lambda s, t: response.wttm_loss(s, t, gamma=0.3), lambda s, t, i: math.prod(ttm(s, t, 0.3))),
    "standardized kd": (
        lambda s, t: response.kd_loss(response.standardize_logits(s), response.standardize_logits(t), temperature=2.0),
        lambda s, t, i: 4 * kl(softmax(standardized(t), 2.0), softmax(standardized(s), 2.0)),
    ),
    "uld": (lambda s, t: response.uld_loss(s, t, temperature=T), lambda s, t, i: uld(s, t, T)),
    "cross_entropy": (
        lambda s, t: task.cross_entropy_loss(s, jnp.array(LABELS), smoothing=0.1),
        lambda s, t, i: smoothed_cross_entropy(s, LABELS[i], 0.1),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_row_at_a_time(name, check):
    loss, reference = CASES[name]
    check(loss, by_row(reference), *draw((4, 5), (4, 5)))


def test_adaptive_kl_detaches_the_gaps(check):
    s0, t0 = (x.astype(np.float32).astype(np.float64) for x in draw((4, 6), (4, 6)))
    gaps = [akl_gaps(s0[i], t0[i], 0.6) for i in range(4)]
    check(
        lambda s, t: response.adaptive_kl_loss(s, t, mu=0.6),
        by_row(lambda s, t, i: akl(s, t, 0.6)),
        s0,
        t0,
        still=by_row(lambda s, t, i: akl(s, t, 0.6, gaps[i])),
    )


def test_weighted_soft_labels_detaches_the_weight(check):
    s0, t0 = (x.astype(np.float32).astype(np.float64) for x in draw((4, 5), (4, 5)))
    weights = [wsld_weight(s0[i], t0[i], LABELS[i]) for i in range(4)]
    check(
        lambda s, t: response.wsld_loss(s, t, jnp.array(LABELS), temperature=T),
        by_row(lambda s, t, i: wsld_weight(s, t, LABELS[i]) * soft_cross_entropy(s, t, T)),
        s0,
        t0,
        still=by_row(lambda s, t, i: weights[i] * soft_cross_entropy(s, t, T)),
    )


def test_dist(check):
    s, t = draw((4, 5), (4, 5))
    loss = jax.jit(lambda s, t: response.dist_loss(s, t, beta=1.5, gamma=2.0, temperature=T))
    check(loss, lambda s, t: dist(s, t, 1.5, 2.0, T), s, t)
    positions = loss(s.reshape(2, 2, 5), t.reshape(2, 2, 5))
    np.testing.assert_allclose(positions, loss(s, t).reshape(2, 2), rtol=1e-5)


def test_multi_level(check):
    check(
        lambda s, t: response.multi_level_logit_loss(s, t, temperatures=(2.0, 4.0)),
        lambda s, t: multi_level(s, t, (2.0, 4.0)),
        *draw((3, 5), (3, 5)),
    )


@pytest.mark.parametrize("tail", ["bucket", "renormalize"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_topk(tail, temperature, check):
    """What is left over is one class: of the teacher tempered as one, of the student summed after softening."""
    (s, t) = draw((3, 6), (3, 6))
    ids = np.argsort(-t, axis=1)[:, :2]
    log_probs = np.log([[softmax(t[i])[c] for c in ids[i]] for i in range(3)])

    def reference(s, log_probs):
        total = 0.0
        for i in range(3):
            q = [math.exp(x) for x in log_probs[i]]
            p = [softmax(s[i], temperature)[c] for c in ids[i]]
            if tail == "bucket":
                q, p = [*q, 1 - sum(q)], [*p, 1 - sum(p)]
            q = [x ** (1 / temperature) for x in q]
            total += temperature**2 * kl([x / sum(q) for x in q], p)
        return total / 3

    check(
        lambda s, q: response.topk_kd_loss(s, q, jnp.array(ids), temperature=temperature, tail=tail),
        reference,
        s,
        log_probs,
    )


def test_topk_of_all_classes_is_kd():
    s, t = draw((3, 4), (3, 4))
    log_probs = np.log([softmax(z, 2.0) for z in t])
    ids = np.argsort(-t, axis=1)
    for tail in ("bucket", "renormalize"):
        value = response.topk_kd_loss(
            s, np.take_along_axis(log_probs, ids, 1), ids, temperature=2.0, teacher_temperature=2.0, tail=tail
        )
        np.testing.assert_allclose(value, response.kd_loss(s, t, temperature=2.0), rtol=1e-5)
    with pytest.raises(ValueError, match="bucket"):
        response.topk_kd_loss(s, log_probs, ids, tail="rest")


def test_uld_pads_the_smaller_vocabulary(check):
    check(lambda s, t: response.uld_loss(s, t), by_row(lambda s, t, i: uld(s, t, 1.0)), *draw((3, 4), (3, 6)))


def test_learned_temperature_ascends():
    raw = jnp.array([0.3, -1.0])
    value, gradient = jax.value_and_grad(lambda r: response.learned_temperature(r, strength=0.5).sum())(raw)
    sigmoid = 1 / (1 + np.exp(-np.asarray(raw)))
    np.testing.assert_allclose(value, np.sum(1 + 20 * sigmoid), rtol=1e-6)
    np.testing.assert_allclose(gradient, -0.5 * 20 * sigmoid * (1 - sigmoid), rtol=1e-5)


def test_temperature_for_each_example():
    s, t = draw((3, 5), (3, 5))
    each = response.kd_loss(s, t, temperature=jnp.array([1.0, 2.0, 4.0]))
    for i, temperature in enumerate((1.0, 2.0, 4.0)):
        np.testing.assert_allclose(each[i], response.kd_loss(s[i], t[i], temperature=temperature), rtol=1e-5)


def test_learned_temperature_through_dkd_is_finite():
    s, t = draw((4, 5), (4, 5))
    gradient = jax.jit(jax.grad(lambda x: response.dkd_loss(s, t, jnp.array(LABELS), temperature=x).sum()))(3.0)
    assert np.isfinite(gradient)
