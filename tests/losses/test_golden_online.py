"""Losses of peers against references in NumPy float64 loops."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_reference import draw, kl, softmax

from kd_jax.losses import online

T, LABELS, N, PEERS, C = 2.0, np.array([0, 3, 2]), 3, 3, 4


def cross_entropy(z, label):
    return -np.log(softmax(z)[label])


def toward(peers, teacher):
    """T^2 sum_i KL(teacher, p_i)."""
    return T**2 * sum(kl(teacher, softmax(z, T)) for z in peers)


def mutual(s, t, label):
    pairs = [(i, j) for i in range(PEERS) for j in range(PEERS) if i != j]
    return T**2 / (PEERS - 1) * sum(kl(softmax(t[j], T), softmax(s[i], T)) for i, j in pairs)


def naive(s, t, label):
    return toward(s, softmax(min(t, key=lambda z: cross_entropy(z, label)), T))


def min_logit(s, t, label):
    return toward(s, softmax(np.min([z - z[label] for z in t], axis=0), T))


def general(s, t, label):
    return toward(s, sum(share * softmax(z, T) for share, z in zip((0.5, 0.3, 0.2), t, strict=True)))


@pytest.mark.parametrize(
    "loss, reference",
    [
        (online.mutual_kl_loss, mutual),
        (lambda *x, **kw: online.kdcl_naive_loss(*x, labels=LABELS, **kw), naive),
        (lambda *x, **kw: online.kdcl_min_logit_loss(*x, labels=LABELS, **kw), min_logit),
        (lambda *x, **kw: online.kdcl_general_loss(*x, shares=np.array([0.5, 0.3, 0.2]), **kw), general),
    ],
    ids=["mutual", "naive", "min_logit", "general"],
)
def test_peers_stacked_and_apart(loss, reference, check):
    s, t = draw((N, PEERS, C), (N, PEERS, C))
    check(
        lambda s, t: loss(s, t, temperature=T),
        lambda s, t: np.mean([reference(s[i], t[i], LABELS[i]) for i in range(N)]),
        s,
        t,
    )
    apart = [*np.moveaxis(s, 1, 0), *np.moveaxis(t, 1, 0)]
    one, other = jax.jit(lambda s, t, apart: (loss(s, t, temperature=T), loss(*apart, temperature=T)))(s, t, apart)
    np.testing.assert_allclose(one, other, rtol=1e-6)
    with pytest.raises(ValueError, match=r"learn and that teach|peers are|twice"):
        loss(s, t[:, :2], temperature=T)
    with pytest.raises(ValueError, match="twice"):
        loss(s, temperature=T)


def test_the_best_linear_combination_of_two_is_found():
    (t,) = draw((20, 2, C), seed=1)
    t *= 3
    labels = np.arange(20) % C
    find = jax.jit(online.best_shares, static_argnums=2)
    shares = np.asarray(find(t, labels, 400), np.float64)
    np.testing.assert_allclose(shares.sum(-1), 1, rtol=1e-5)

    def wrong(a, i):
        return cross_entropy(a * t[i, 0] + (1 - a) * t[i, 1], labels[i])

    grid = np.linspace(0, 1, 401)
    best = np.array([min(wrong(a, i) for a in grid) for i in range(20)])
    optimised = np.array([wrong(shares[i, 0], i) for i in range(20)])
    few = np.asarray(find(t, labels, 5), np.float64)
    equal, some = (np.array([wrong(a[i], i) for i in range(20)]) for a in (np.full(20, 0.5), few[:, 0]))
    assert (optimised <= best + 5e-3).all() and (some <= equal + 1e-6).all() and (optimised <= some + 1e-6).all()
    value = jax.jit(lambda t: online.kdcl_linear_loss(t, t, labels=labels, temperature=T, iterations=400))(t)
    mixed = [shares[i] @ t[i] for i in range(20)]
    np.testing.assert_allclose(value, [toward(t[i], softmax(mixed[i], T)) for i in range(20)], rtol=1e-4, atol=1e-6)


def test_cross_entropy_of_peers(check):
    (z,) = draw((N, PEERS, C))

    def reference(z):
        return np.mean([sum(cross_entropy(z[i, k], LABELS[i]) for k in range(PEERS)) for i in range(N)])

    check(lambda z: online.peers_cross_entropy_loss(z, LABELS), reference, z)
    probabilities = np.eye(C, dtype=np.float32)[LABELS]
    loss = jax.jit(online.peers_cross_entropy_loss)
    np.testing.assert_allclose(loss(z, probabilities), loss(z, LABELS), rtol=1e-6)
    for labels in (LABELS[:2], np.zeros((N, PEERS, C), np.float32)):
        with pytest.raises(ValueError, match="labels"):
            online.peers_cross_entropy_loss(z, labels)


def test_one_teacher_of_all_peers(check):
    z, teacher = draw((N, PEERS, C), (N, C))
    check(
        lambda z, t: online.peers_kd_loss(z, t, temperature=T),
        lambda z, t: np.mean([toward(z[i], softmax(t[i], T)) for i in range(N)]),
        z,
        teacher,
    )
    with pytest.raises(ValueError, match="teacher"):
        online.peers_kd_loss(z, teacher[:, :3])


def test_group_distillation_teaches_the_peers_and_the_attention(check):
    z, t, score = draw((N, PEERS, C), (N, PEERS, C), (N, 2, 2))
    attention = np.stack([[softmax(row) for row in rows] for rows in score])  # the third peer is the leader: no part

    def reference(z, w, t):
        total = 0
        for i in range(N):
            for a in range(2):
                mixed = sum(w[i, a, b] * softmax(t[i, b], T) for b in range(2))
                total += T**2 * np.sum(mixed * (np.log(mixed) - np.log(softmax(z[i, a], T))))
        return total / N

    check(
        lambda z, w, t: online.group_distillation_loss(z, w, t, temperature=T), reference, z, attention, t, wrt=(0, 1)
    )
    certain = jnp.broadcast_to(jnp.eye(2), (N, 2, 2))  # an attention of exactly 0
    total = jax.jit(jax.grad(lambda *x: online.group_distillation_loss(*x, temperature=T).sum(), (0, 1)))
    gradients = total(z, certain, t)
    assert all(np.isfinite(g).all() for g in gradients)
    for wrong in (attention[:, :1], attention[0], np.zeros((N, 4, 4))):
        with pytest.raises(ValueError, match="attention"):
            online.group_distillation_loss(z, wrong, t)


def test_extreme_and_half_precision_logits():
    (z,) = draw((N, PEERS, C))
    labels = {"labels": LABELS}
    calls = [
        lambda z: online.mutual_kl_loss(z, jax.lax.stop_gradient(z)),
        *(
            lambda z, fn=fn: fn(z, jax.lax.stop_gradient(z), **labels)
            for fn in (online.kdcl_naive_loss, online.kdcl_linear_loss, online.kdcl_min_logit_loss)
        ),
        lambda z: online.kdcl_general_loss(z, z, shares=np.array([0.0, 0.5, 0.5])),
        lambda z: online.peers_kd_loss(z, z[:, 0]),
    ]
    every = jax.jit(lambda z: [jax.value_and_grad(lambda z, fn=fn: fn(z).sum())(z) for fn in calls])
    for scale in (0.0, 1e4):
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(every(jnp.asarray(z * scale, jnp.float32))))
    half = jax.ShapeDtypeStruct(z.shape, jnp.bfloat16)
    assert all(jax.eval_shape(fn, half).dtype == jnp.float32 and jax.eval_shape(fn, half).shape == (N,) for fn in calls)
