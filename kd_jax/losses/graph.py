"""Losses on a graph of nodes."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kd_jax.losses._numerics import require_same_batch, scalar_like, to_float
from kd_jax.ranges import Positive

Array = jax.Array

KERNELS = ("rbf", "euclidean", "linear")


def local_structure_loss(
    student: Array,
    teacher: Array,
    *,
    senders: Array,
    receivers: Array,
    scale: Positive[Array | float] = 100.0,
    kernel: str = "rbf",
) -> Array:
    """Computes KL(P_i(teacher), P_i(student)), P_ij = softmax over the neighbours j of node i of k(x_i, x_j).

    student [nodes, ...], teacher [nodes, ...] (flattened, widths may differ), senders and receivers int [edges]: the j
    and the i of each edge, in any order; returns [nodes], 0 for a node without neighbours. k(x, y) is
    exp(-||x - y||^2 / scale) ("rbf"), ||x - y||^2 / scale ("euclidean") or x . y / scale ("linear"). Raises ValueError
    for differing numbers of nodes and an unknown kernel. Yang, Qiu, Song, Tao, Wang, "Distilling Knowledge from Graph
    Convolutional Networks" (LSP), 2020, arXiv 2003.10477. The formulas are the paper's; scale and direction of KL are
    those of the authors' code, whose "rbf" has the 1-norm in it.
    """
    what = "local_structure_loss"
    if kernel not in KERNELS:
        raise ValueError(f"{what}: kernel is one of {', '.join(KERNELS)}, not {kernel!r}")
    if senders.shape != receivers.shape or senders.ndim != 1:
        raise ValueError(f"{what}: senders and receivers are [edges], got {senders.shape} and {receivers.shape}")
    s, t = to_float(student, teacher)
    require_same_batch(what, s, t)
    nodes = s.shape[0]

    def log_shares(x: Array) -> Array:
        x = x.reshape(nodes, -1)
        one, other = x[receivers], x[senders]
        if kernel == "linear":
            value = jnp.sum(one * other, -1) / scalar_like(scale, x)
        else:
            value = jnp.sum((one - other) ** 2, -1) / scalar_like(scale, x)
            value = jnp.exp(-value) if kernel == "rbf" else value
        # Only edges read a peak, so the -inf of a node without neighbours stays where it is.
        value = value - jax.ops.segment_max(jax.lax.stop_gradient(value), receivers, nodes)[receivers]
        return value - jnp.log(jax.ops.segment_sum(jnp.exp(value), receivers, nodes))[receivers]

    log_q, log_p = log_shares(s), log_shares(t)
    return jax.ops.segment_sum(jnp.exp(log_p) * (log_p - log_q), receivers, nodes)
