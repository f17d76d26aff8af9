"""ITRD: correlation and mutual information between embeddings, by Renyi's entropies of matrices.

Miles, Rodriguez, Mikolajczyk, "Information Theoretic Representation Distillation", BMVC 2022, arXiv 2112.00459, as the
authors' code.
"""

from __future__ import annotations

import jax.numpy as jnp

from kd_jax.losses._numerics import (
    absolute,
    center,
    count,
    einsum,
    keep_rows,
    require_same_batch,
    require_same_shape,
    row_mask,
    safe_norm,
    scalar_like,
    to_float,
    unit,
)
from kd_jax.ranges import NotNegative, Positive
from kd_jax.types import Array


def correlation_information_loss(
    student: Array, teacher: Array, *, alpha: Positive[Array | float] = 1.01, where: Array | None = None
) -> Array:
    """Computes log2 sum_d |c_d - 1|^(2 alpha), c_d = sum_i z_id z'_id / n, z of a dimension over the batch.

    z = (x - mean) / std of student and teacher, std with divisor n - 1, so that c_d is at most (n - 1) / n. Both
    [batch, width] of one shape, where bool [batch], ValueError otherwise; returns [batch], the same number in every row
    that counts, 0 where masked; negative values are possible. A constant dimension is 0 with gradient 0 (published:
    NaN).
    """
    s, t = to_float(student, teacher)
    require_same_shape("correlation_information_loss", s, t)
    if s.ndim != 2:
        raise ValueError(f"correlation_information_loss: expected embeddings [batch, width], got {s.shape}")
    mask = row_mask(where, s.shape[0], "correlation_information_loss")
    s, t = keep_rows(s, mask), keep_rows(t, mask)
    full, rows = jnp.broadcast_to(mask[:, None], s.shape), count(mask, s)

    def standardized(x: Array) -> Array:
        x = center(x, 0, full)
        deviation = safe_norm(x, 0, keepdims=True) / jnp.sqrt(jnp.maximum(rows - 1, 1))
        return jnp.where(deviation > 0, x / jnp.where(deviation > 0, deviation, 1), 0)

    distance = absolute(jnp.sum(standardized(s) * standardized(t), axis=0) / rows - 1)
    value = jnp.log2(jnp.sum(distance ** (2 * scalar_like(alpha, s))))
    return keep_rows(jnp.broadcast_to(value, s.shape[:1]), mask)


def mutual_information_loss(student: Array, teacher: Array, *, where: Array | None = None) -> Array:
    """Computes the row sums of n (G_s / tr G_s)^2 - n (G_st / tr G_st)^2, G_st = G_s * G_t, element by element.

    G = n2(x) n2(x)' of the n rows. student [batch, width], teacher [batch, width] (widths may differ), where bool
    [batch], ValueError otherwise; returns [batch], whose mean is the published sum. A dead row has similarity 0, with
    gradient 0.
    """
    s, t = to_float(student, teacher)
    require_same_batch("mutual_information_loss", s, t)
    if s.ndim != 2 or t.ndim != 2:
        raise ValueError(f"mutual_information_loss: expected embeddings [batch, width], got {s.shape} and {t.shape}")
    mask = row_mask(where, s.shape[0], "mutual_information_loss")
    s, t = (unit(keep_rows(x, mask)) for x in (s, t))
    of_student = einsum("id,jd->ij", s, s)
    joint = of_student * einsum("id,jd->ij", t, t)

    def over_trace(gram: Array) -> Array:
        trace = jnp.trace(gram)
        return jnp.where(trace > 0, gram / jnp.where(trace > 0, trace, 1), 0)

    values = count(mask, s) * jnp.sum(over_trace(of_student) ** 2 - over_trace(joint) ** 2, axis=1)
    return keep_rows(values, mask)


def information_distillation_loss(
    embedded: Array,
    compared: Array,
    teacher: Array,
    *,
    correlation: NotNegative[Array | float] = 2.0,
    mutual: NotNegative[Array | float] = 1.0,
    alpha: Positive[Array | float] = 1.01,
    where: Array | None = None,
) -> Array:
    """Computes correlation * correlation_information_loss(embedded) + mutual * mutual_information_loss(compared).

    Both against the teacher; `information_embedding` makes the two from the student's embedding. Shapes and errors as
    theirs; returns [batch].
    """
    first = correlation_information_loss(embedded, teacher, alpha=alpha, where=where)
    second = mutual_information_loss(compared, teacher, where=where)
    return scalar_like(correlation, first) * first + scalar_like(mutual, second) * second
