"""Standardised features of several teachers, and the losses between one student and them (AM-RADIO, PHI-S)."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.losses._numerics import einsum, mean_rest, to_float
from kd_jax.losses.representation import agglomerative_feature_loss, queue_similarity_loss, token_affinity_loss
from kd_jax.ranges import Share

Array = jax.Array

__all__ = [
    "agglomerative_feature_loss",
    "phi_standardization",
    "queue_similarity_loss",
    "standardized_feature_loss",
    "token_affinity_loss",
]


def phi_standardization(features: Array | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (mean [D], W [D, D]): every dimension of (x - mean) W' has variance 1, and distances keep their ratios.

    W = H U' / sqrt(mean eigenvalue), U the eigenvectors of the covariance (ddof 1) of features [n, D]; W' W is the
    identity over the mean eigenvalue. H is an orthonormal Hadamard matrix where D is a power of 2 or a size of Paley's
    constructions (or a product of both), so that each dimension carries an equal share of every eigenvector. Ranzinger
    et al., "PHI-S: Distribution Balancing for Label-Free Multi-Teacher Distillation", 2024, arXiv 2410.01680. For
    another D their code takes a random orthogonal matrix, of variances near 1; here it is turned, pair by pair, until
    each is 1. Host code in float64, before a training; returns float32 (float64 of float64 features). ValueError unless
    there are two rows or more of finite numbers that vary.
    """
    x = np.asarray(features)
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    x = x.astype(np.float64)
    if x.ndim != 2 or len(x) < 2 or not np.isfinite(x).all():
        raise ValueError(f"phi_standardization: expected features [n >= 2, width] of finite numbers, got {x.shape}")
    mean = x.mean(0)
    centred = x - mean
    values, vectors = np.linalg.eigh(centred.T @ centred / (len(x) - 1))
    values = np.maximum(values, 0)
    if not values.mean() > 1e-12 * max(1.0, float(np.square(mean).mean())):
        raise ValueError(f"phi_standardization: the features {x.shape} do not vary, so nothing can be standardised")
    turn = _hadamard(len(values))
    turn = _balanced(values) if turn is None else turn
    return mean.astype(dtype), (turn @ vectors.T / math.sqrt(values.mean())).astype(dtype)


def standardized_feature_loss(
    student: Array, teacher: Array, *, mean: Array, matrix: Array, cosine_share: Share[Array | float] = 0.9
) -> Array:
    """Computes the mean over positions of `agglomerative_feature_loss` of s and (t - mean) W', W = `matrix`.

    student, teacher [batch, ..., D] of one shape (the student's already connected), mean [D], matrix [D, D] of
    `phi_standardization`; ValueError otherwise; returns [batch]. The student learns the standardised features. PHI-S,
    2024, arXiv 2410.01680, takes their squared error; the share and smooth L1 are those of AM-RADIO, arXiv 2312.06709.
    """
    t, mean, matrix = to_float(teacher, mean, matrix)
    width = t.shape[-1]
    if mean.shape != (width,) or matrix.shape != (width, width):
        raise ValueError(
            f"standardized_feature_loss: features {t.shape} need a mean ({width},) and a matrix ({width}, {width}), "
            f"got {mean.shape} and {matrix.shape}"
        )
    standard = einsum("...i,oi->...o", t - jnp.expand_dims(mean, tuple(range(t.ndim - 1))), matrix)
    return mean_rest(agglomerative_feature_loss(student, standard, cosine_share=cosine_share))


def _hadamard(size: int) -> np.ndarray | None:
    """An orthonormal matrix of entries +- 1 / sqrt(size), None where none of the constructions makes one."""
    for power in range(size.bit_length()):
        rest = size // 2**power
        if rest * 2**power != size:
            break
        core = np.ones((1, 1)) if rest == 1 else _paley(rest)
        if core is not None:
            for _ in range(power):
                core = np.kron(np.array([[1, 1], [1, -1]]), core)
            return core / math.sqrt(size)
    return None


def _paley(size: int) -> np.ndarray | None:
    """Paley's first construction, size = q + 1, or second, size = 2 (q + 1), for a prime q of 3 or 1 modulo 4."""
    for q, kind in ((size - 1, 3), (size // 2 - 1, 1)):
        if q < 3 or q % 4 != kind or any(q % d == 0 for d in range(2, math.isqrt(q) + 1)):
            continue
        if kind == 1 and size % 2:
            continue
        squares = np.isin(np.arange(q), np.square(np.arange(1, q)) % q)
        character = np.where(np.arange(q) == 0, 0, np.where(squares, 1, -1))
        jacobsthal = character[(np.arange(q)[:, None] - np.arange(q)) % q]
        border = np.zeros((q + 1, q + 1), int)
        border[1:, 1:], border[0, 1:], border[1:, 0] = jacobsthal, 1, -1 if kind == 3 else 1
        if kind == 3:
            return border + np.eye(q + 1, dtype=int)
        return np.kron(border, [[1, 1], [1, -1]]) + np.kron(np.eye(q + 1, dtype=int), [[1, -1], [-1, -1]])
    return None


def _balanced(values: np.ndarray) -> np.ndarray:
    """An orthonormal Q for which every entry of the diagonal of Q diag(values) Q' is the mean of the values.

    A random one, whose rows of the largest and the smallest entry are turned against one another until one of both has
    the mean (Schur and Horn): at most size - 1 turns.
    """
    size, mean = len(values), values.mean()
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(size, size)))[0]
    for _ in range(size - 1):
        entries = np.einsum("ij,j,ij->i", turn, values, turn)
        high, low = int(entries.argmax()), int(entries.argmin())
        above, below = entries[high] - mean, entries[low] - mean
        if high == low or above <= 0 or below >= 0:
            break
        both = float(turn[high] * values @ turn[low])
        # below tan^2 + 2 both tan + above = 0, by the root without cancellation
        tangent = -above / (both + math.copysign(math.sqrt(both * both - above * below), both))
        cosine = 1 / math.hypot(1, tangent)
        first, second = turn[high].copy(), turn[low].copy()
        turn[high] = cosine * (first + tangent * second)
        turn[low] = cosine * (second - tangent * first)
    return turn
