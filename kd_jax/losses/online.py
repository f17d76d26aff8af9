"""Losses of networks that teach one another while all of them learn.

Peers come stacked as one [..., peers, classes], or as one array [..., classes] for each peer; at least two (ValueError
otherwise). Every loss returns [...], the SUM over the peers, so that each peer gets the gradient of its own loss,
whatever their number. Where a loss takes peers twice, the first half is differentiated and the second half are the
targets: Term(mutual_kl_loss, ("student.logits",), ("student.logits",)). A divergence at T (a number) is multiplied by
T^2.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kd_jax.losses._numerics import expected, kl, log_probs, log_sum, possible, squared, to_float
from kd_jax.losses.task import cross_entropy_loss, pick_label, require_labels
from kd_jax.ranges import BelowOne, Count, Positive

Array = jax.Array


def _peers(what: str, arrays: tuple[Array, ...]) -> Array:
    """Returns the peers as one [..., peers, classes]; ValueError for fewer than two."""
    arrays = to_float(*arrays)
    shapes = [a.shape for a in arrays]
    if len(arrays) > 1 and len(set(shapes)) == 1:
        return jnp.stack(arrays, axis=-2)
    if len(arrays) != 1 or len(shapes[0]) < 2 or shapes[0][-2] < 2:
        raise ValueError(
            f"{what}: peers are one array [..., peers, classes] of at least two, or arrays [..., classes] of one "
            f"shape, got {shapes}"
        )
    return arrays[0]


def _halves(what: str, arrays: tuple[Array, ...]) -> tuple[Array, Array]:
    """Returns the peers that learn and the peers as they teach, both [..., peers, classes]."""
    if not arrays or len(arrays) % 2:
        raise ValueError(f"{what}: takes the peers twice, as inputs and as targets, got {len(arrays)} arrays")
    half = len(arrays) // 2
    s, t = _peers(what, arrays[:half]), _peers(what, arrays[half:])
    if s.shape != t.shape:
        raise ValueError(f"{what}: the peers that learn and that teach must be the same, got {s.shape} and {t.shape}")
    return s, t


def _each_label(what: str, labels: Array, peers: Array) -> Array:
    """Repeats the labels [...] for every peer: [..., peers]."""
    labels = require_labels(what, labels, peers[..., 0, :])
    return jnp.broadcast_to(labels[..., None], peers.shape[:-1])


def _from_one(peers: Array, log_teacher: Array, temperature: Array | float) -> Array:
    """Computes T^2 sum_i KL(t, p_i); log_teacher [..., classes] holds log-probabilities at T."""
    return squared(temperature, peers) * jnp.sum(kl(log_teacher[..., None, :], log_probs(peers, temperature)), axis=-1)


def peers_cross_entropy_loss(peers: Array, labels: Array, *, smoothing: BelowOne[Array | float] = 0.0) -> Array:
    """Computes sum_i cross_entropy_loss(z_i, y): every peer on the same labels.

    peers [..., peers, classes]; labels int [...] or probabilities [..., classes]; returns [...]. ValueError on other
    shapes. A label of -1 gives a finite value that means nothing: mask it outside.
    """
    z, labels = _peers("peers_cross_entropy_loss", (peers,)), jnp.asarray(labels)
    if jnp.issubdtype(labels.dtype, jnp.integer):
        labels = _each_label("peers_cross_entropy_loss", labels, z)
    elif labels.shape == z.shape[:-2] + z.shape[-1:]:
        labels = jnp.broadcast_to(labels[..., None, :], z.shape)
    else:
        raise ValueError(
            f"peers_cross_entropy_loss: peers {z.shape} need labels [...] or [..., classes], got {labels.shape}"
        )
    return jnp.sum(cross_entropy_loss(z, labels, smoothing=smoothing), axis=-1)


def mutual_kl_loss(*peers: Array, temperature: Positive[Array | float] = 1.0) -> Array:
    """Computes T^2 sum_i 1 / (n - 1) sum_{j != i} KL(p_j, p_i) for n peers; p_i learns, p_j teaches.

    Shapes and errors: see the module. Zhang, Xiang, Hospedales, Lu, "Deep Mutual Learning", 2017, arXiv 1706.00384
    (T 1). There the peers take turns within an iteration; here all learn at once, from the outputs before the update.
    """
    s, t = _halves("mutual_kl_loss", peers)
    log_s, log_t = log_probs(s, temperature), log_probs(t, temperature)
    pairs = kl(log_t[..., None, :, :], log_s[..., :, None, :])
    number = s.shape[-2]
    others = 1 - jnp.eye(number, dtype=pairs.dtype).reshape((1,) * (pairs.ndim - 2) + (number, number))
    return squared(temperature, s) / (number - 1) * jnp.sum(pairs * others, axis=(-2, -1))


def peers_kd_loss(peers: Array, teacher: Array, *, temperature: Positive[Array | float] = 3.0) -> Array:
    """Computes T^2 sum_i KL(p_t, p_i): all peers learn from one teacher, such as their gated ensemble.

    peers [..., peers, classes], teacher logits [..., classes], ValueError otherwise; returns [...]. Lan, Zhu, Gong,
    "Knowledge Distillation by On-the-Fly Native Ensemble" (ONE), 2018, arXiv 1806.04606 (T 3).
    """
    s, (t,) = _peers("peers_kd_loss", (peers,)), to_float(teacher)
    if t.shape != s.shape[:-2] + s.shape[-1:]:
        raise ValueError(f"peers_kd_loss: peers {s.shape} need a teacher [..., classes], got {t.shape}")
    return _from_one(s, log_probs(t, temperature), temperature)


def kdcl_naive_loss(*peers: Array, labels: Array, temperature: Positive[Array | float] = 2.0) -> Array:
    """Computes T^2 sum_i KL(softmax(z_b / T), p_i), b = the peer of the least cross-entropy with the label.

    Shapes and errors: see the module; labels int [...] (-1 gives a finite value without meaning). Guo, Wang, Wu, Yu,
    Liang, Hu, Luo, "Online Knowledge Distillation via Collaborative Learning" (KDCL), CVPR 2020: KDCL-Naive.
    """
    s, t = _halves("kdcl_naive_loss", peers)
    wrong = -pick_label(log_probs(t), _each_label("kdcl_naive_loss", labels, t))
    best = jnp.argmin(wrong, axis=-1)[..., None, None]
    return _from_one(s, log_probs(jnp.take_along_axis(t, best, axis=-2)[..., 0, :], temperature), temperature)


def kdcl_linear_loss(
    *peers: Array, labels: Array, temperature: Positive[Array | float] = 2.0, iterations: Count[int] = 30
) -> Array:
    """Computes T^2 sum_i KL(softmax(z / T), p_i), z = sum_k a_k z_k with the shares a of the least cross-entropy.

    Shapes, errors and paper as `kdcl_naive_loss`: KDCL-Linear. The shares a (a >= 0, sum a = 1, for each example) come
    from `iterations` of mirror descent from equal shares (ours; the paper calls for a convex solver).
    """
    s, t = _halves("kdcl_linear_loss", peers)
    share = best_shares(t, labels, iterations)
    return _from_one(s, log_probs(_mixed_logits(share, t), temperature), temperature)


def _mixed_logits(share: Array, logits: Array) -> Array:
    """Computes sum_k a_k z_k over the peers, -inf where a peer of a share above 0 has -inf."""
    there = possible(logits)
    mixed = jnp.sum(share[..., None] * jnp.where(there, logits, 0), axis=-2)
    return jnp.where(jnp.any(~there & (share[..., None] > 0), axis=-2), -jnp.inf, mixed)


def best_shares(logits: Array, labels: Array, iterations: Count[int] = 30) -> Array:
    """Approximates the argmin of cross_entropy(sum_k a_k z_k, y) over a >= 0, sum a = 1: [..., peers].

    An iteration is a_k <- a_k exp(-g_k / L), normalised, with g the gradient and L = max_k range(z_k)^2 / 4, a bound of
    the curvature in the 1-norm: no iteration raises the cross-entropy, and it ends at most L log(peers) / iterations
    above the least.
    """
    (logits,) = to_float(logits)
    labels = _each_label("best_shares", labels, logits)
    wanted = pick_label(logits, labels)
    least = jnp.min(jnp.where(possible(logits), logits, jnp.inf), axis=-1)
    bound = jnp.max((jnp.max(logits, axis=-1) - least) ** 2, axis=-1, keepdims=True) / 4
    bound = jnp.maximum(bound, 1e-12)

    def improve(_, log_share: Array) -> Array:
        mixed = _mixed_logits(jnp.exp(log_share), logits)[..., None, :]
        gradient = expected(jax.nn.softmax(mixed, axis=-1), logits) - wanted
        return jax.nn.log_softmax(log_share - gradient / bound, axis=-1)

    start = jnp.full(wanted.shape, -jnp.log(wanted.shape[-1]), logits.dtype)
    return jnp.exp(jax.lax.fori_loop(0, iterations, improve, start))


def kdcl_min_logit_loss(*peers: Array, labels: Array, temperature: Positive[Array | float] = 2.0) -> Array:
    """Computes T^2 sum_i KL(softmax(min_k (z_k - z_k[y]) / T), p_i): each wrong class at its largest gap to the label.

    Shapes, errors and paper as `kdcl_naive_loss`: KDCL-MinLogit.
    """
    s, t = _halves("kdcl_min_logit_loss", peers)
    wanted = pick_label(t, _each_label("kdcl_min_logit_loss", labels, t))
    return _from_one(s, log_probs(jnp.min(t - wanted[..., None], axis=-2), temperature), temperature)


def kdcl_general_loss(*peers: Array, shares: Array, temperature: Positive[Array | float] = 2.0) -> Array:
    """Computes T^2 sum_i KL(sum_k a_k p_k, p_i) with shares a [peers] (>= 0, sum 1), the same for all examples.

    Shapes, errors and paper as `kdcl_naive_loss`: KDCL-General, whose shares come from errors on held-out data
    (schemes.online.kdcl_general measures them). It needs no label.
    """
    s, t = _halves("kdcl_general_loss", peers)
    (shares,) = to_float(shares)
    if shares.shape != s.shape[-2:-1]:
        raise ValueError(f"kdcl_general_loss: {s.shape[-2]} peers need as many shares, got shape {shares.shape}")
    each = jnp.broadcast_to(shares[:, None], s.shape[-2:]).reshape((1,) * (s.ndim - 2) + s.shape[-2:])
    return _from_one(s, log_sum(log_probs(t, temperature), axis=-2, weights=each), temperature)


def group_distillation_loss(
    peers: Array, attention: Array, teachers: Array, *, temperature: Positive[Array | float] = 3.0
) -> Array:
    """Computes T^2 sum_a KL(sum_b w_ab q_b, p_a): peer a learns from the mixture that row a of w makes of all.

    peers p and teachers q [..., peers, classes] of one shape; attention w [..., n, n], rows summing to 1, for the first
    n <= peers; ValueError otherwise; returns [...]. Chen, Mei, Wang, Feng, Chen, "Online Knowledge Distillation with
    Diverse Peers" (OKDDip), 2019, arXiv 1912.00350 (T 3; first level, over the auxiliary peers). The attention is
    learned through this loss, so it is an input; the q_b are targets. The authors' code mixes logits and differentiates
    them too; the paper mixes distributions, as here.
    """
    s, t = _halves("group_distillation_loss", (peers, teachers))
    (w,) = to_float(attention)
    count = w.shape[-1]
    if w.ndim != s.ndim or w.shape != s.shape[:-2] + (count, count) or count > s.shape[-2]:
        raise ValueError(
            f"group_distillation_loss: peers {s.shape} need attention [..., a, a] for the first a, got {w.shape}"
        )
    s, t = s[..., :count, :], t[..., :count, :]
    log_q = log_probs(t, temperature)[..., None, :, :]
    each = jnp.broadcast_to(w[..., None], w.shape + s.shape[-1:])
    log_mixed = log_sum(jnp.broadcast_to(log_q, each.shape), axis=-2, weights=each)
    return squared(temperature, s) * jnp.sum(kl(log_mixed, log_probs(s, temperature)), axis=-1)
