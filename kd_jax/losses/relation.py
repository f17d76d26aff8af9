"""Losses on relations between the examples of a batch. The batch is the global batch; `where` keeps padding out.

Each returns one value a row: the mean over (valid) rows is the published value, masked rows return 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from kd_jax.losses._numerics import (
    absolute,
    adaptive_average_pool,
    count,
    einsum,
    flatten,
    keep_rows,
    require_maps,
    require_same_batch,
    require_same_shape,
    row_mask,
    safe_norm,
    scalar_like,
    smooth_l1,
    sum_rest,
    to_float,
    unit,
)
from kd_jax.ranges import Count, NotNegative, Positive

Array = jax.Array

# How many numbers one block of anchors may hold at a time (64 MiB of float32).
_BLOCK_NUMBERS = 2**24


def _rows(what: str, student: Array, teacher: Array, where: Array | None) -> tuple[Array, Array, Array]:
    """Returns both as [batch, features] with masked rows at 0, and the mask."""
    s, t = to_float(student, teacher)
    require_same_batch(what, s, t)
    mask = row_mask(where, s.shape[0], what)
    return keep_rows(flatten(s), mask), keep_rows(flatten(t), mask), mask


def _over_anchors(fn: Callable[..., Array], anchors: tuple[Array, ...], numbers: int) -> Array:
    """Computes fn(*row) for every row of `anchors` in blocks, and again in the backward pass.

    `numbers` is how many numbers fn holds for one row; it gives the size of a block.
    """
    rows = anchors[0].shape[0]
    block = max(1, _BLOCK_NUMBERS // max(numbers, 1))
    if block >= rows:
        return jax.vmap(fn)(*anchors)
    return jax.lax.map(jax.checkpoint(lambda row: fn(*row), prevent_cse=False), anchors, batch_size=block)


@jax.custom_vjp
def _squared_distances(x: Array) -> Array:
    """Computes ||x_i - x_j||^2, [batch, batch], with a gradient that is one product of matrices."""
    # Differences rather than |x|^2 + |y|^2 - 2xy: in float32 the latter leaves noise of 1e-3 between equal rows.
    return _over_anchors(lambda row: jnp.sum((x - row[None, :]) ** 2, axis=-1), (x,), x.size)


def _squared_distances_forward(x: Array) -> tuple[Array, Array]:
    return _squared_distances(x), x


def _squared_distances_backward(x: Array, gradient: Array) -> tuple[Array]:
    # sum_j h_ij (x_i - x_j) does not change when x is moved; centred, less of it cancels.
    x = x - x.mean(0, keepdims=True)
    h = gradient + gradient.T
    return (2 * (h.sum(1, keepdims=True) * x - einsum("ij,jd->id", h, x)),)


_squared_distances.defvjp(_squared_distances_forward, _squared_distances_backward)


def _pairs(mask: Array) -> Array:
    """Returns bool [batch, batch]: the pairs of different valid rows."""
    return mask[:, None] & mask[None, :] & ~jnp.eye(mask.shape[0], dtype=bool)


def _distances_over_mean(x: Array, mask: Array) -> Array:
    """Computes distances of rows divided by their mean over pairs of different valid rows; 0 on the diagonal."""
    sq, pairs = _squared_distances(x), _pairs(mask)
    live = pairs & (sq > 1e-12)
    distance = jnp.where(live, jnp.sqrt(jnp.where(live, sq, 1)), jnp.where(pairs, 1e-6, 0))
    mean = jnp.sum(distance) / count(pairs, x)
    return distance / jnp.where(mean > 0, mean, 1)


def distance_relation_loss(student: Array, teacher: Array, *, where: Array | None = None) -> Array:
    """Computes mean_j Huber(d_ij(s) / mean d(s) - d_ij(t) / mean d(t)), d the distances between rows of the batch.

    student [batch, ...], teacher [batch, ...] (flattened, widths may differ), where bool [batch]; returns [batch].
    Raises ValueError on other batch sizes. Park, Kim, Lu, Cho, "Relational Knowledge Distillation", 2019, arXiv
    1904.05068. As the authors' code: squared distances are clamped at 1e-12, the mean is over pairs of different rows,
    the diagonal counts in the average. Equal rows get gradient 0; a batch of one is 0 (published code: NaN).
    """
    s, t, mask = _rows("distance_relation_loss", student, teacher, where)
    difference = _distances_over_mean(s, mask) - _distances_over_mean(t, mask)
    return jnp.sum(smooth_l1(difference), axis=1) / count(mask, s)


def angle_relation_loss(student: Array, teacher: Array, *, where: Array | None = None) -> Array:
    """Computes mean_jk Huber(cos(s_j - s_i, s_k - s_i) - cos(t_j - t_i, t_k - t_i)) for each anchor i.

    Shapes, errors and paper as `distance_relation_loss`. Triplets with equal members count as cosine 0, with gradient
    0. Time is batch^3; memory batch^2 (anchors go through in blocks and are recomputed backwards).
    """
    s, t, mask = _rows("angle_relation_loss", student, teacher, where)

    def cosines(x: Array, anchor: Array) -> Array:
        to_others = keep_rows(unit(x - anchor[None, :]), mask)
        return einsum("jd,kd->jk", to_others, to_others)

    def row(s_anchor: Array, t_anchor: Array) -> Array:
        return jnp.sum(smooth_l1(cosines(s, s_anchor) - cosines(t, t_anchor)))

    batch = s.shape[0]
    values = _over_anchors(row, (s, t), batch * (2 * batch + s.shape[1] + t.shape[1]))
    return keep_rows(values / count(mask, s) ** 2, mask)


def relation_loss(
    student: Array,
    teacher: Array,
    *,
    distance_weight: NotNegative[Array | float] = 25.0,
    angle_weight: NotNegative[Array | float] = 50.0,
    where: Array | None = None,
) -> Array:
    """Computes distance_weight * distance_relation_loss + angle_weight * angle_relation_loss (RKD).

    Shapes, errors and paper as `distance_relation_loss`. The default weights are RepDistiller's.
    """
    distance = distance_relation_loss(student, teacher, where=where)
    angle = angle_relation_loss(student, teacher, where=where)
    return scalar_like(distance_weight, distance) * distance + scalar_like(angle_weight, angle) * angle


def similarity_preserving_loss(student: Array, teacher: Array, *, where: Array | None = None) -> Array:
    """Computes sum_j (n2(F_s F_s')_ij - n2(F_t F_t')_ij)^2 / batch, F the flattened rows, n2 over each row of F F'.

    student [batch, ...], teacher [batch, ...] (widths may differ), where bool [batch]; returns [batch]. Raises
    ValueError on other batch sizes. Tung, Mori, "Similarity-Preserving Knowledge Distillation" (SP), 2019, arXiv
    1907.09682. As RepDistiller (torchdistill divides rows by their 1-norm). A dead row is 0 with gradient 0.
    """
    s, t, mask = _rows("similarity_preserving_loss", student, teacher, where)
    difference = unit(einsum("id,jd->ij", s, s)) - unit(einsum("id,jd->ij", t, t))
    return jnp.sum(difference**2, axis=1) / count(mask, s)


def correlation_congruence_loss(
    student: Array,
    teacher: Array,
    *,
    gamma: Positive[Array | float] = 0.4,
    order: Count[int] = 2,
    where: Array | None = None,
) -> Array:
    """Computes mean_j (K(s)_ij - K(t)_ij)^2,
    K(x)_ij = e^(-2 gamma) sum_{p <= order} (2 gamma)^p / p! (n2(x_i) . n2(x_j))^p.

    student [batch, ...], teacher [batch, ...] (widths may differ), where bool [batch]; returns [batch]. Raises
    ValueError on other batch sizes. Peng, Jin, Liu, Zhou, Wu, Liu, Li, Zhang, "Correlation Congruence for Knowledge
    Distillation" (CC), 2019, arXiv 1904.01802. The paper's Taylor series of the Gaussian kernel; the authors' code sums
    products of consecutive rows instead (`consecutive_congruence_loss`). A dead row has similarity 0, with
    gradient 0.
    """
    s, t, mask = _rows("correlation_congruence_loss", student, teacher, where)
    double = 2 * scalar_like(gamma, s)

    def kernel(x: Array) -> Array:
        x = unit(x)
        cosine = einsum("id,jd->ij", x, x)
        return jnp.exp(-double) * sum(double**p / math.factorial(p) * cosine**p for p in range(order + 1))

    valid = mask[:, None] & mask[None, :]
    return jnp.sum(jnp.where(valid, (kernel(s) - kernel(t)) ** 2, 0), axis=1) / count(mask, s)


def consecutive_congruence_loss(student: Array, teacher: Array, *, where: Array | None = None) -> Array:
    """Computes sum_d |s_i - t_i|_d |s_j - t_j|_d * n / (n - 1), j the row after i, of n (valid) rows; 0 for the last.

    student, teacher [batch, ...] of one shape, where bool [batch]; returns [batch]. Raises ValueError on other shapes.
    What RepDistiller publishes results of as CC (Peng et al., 2019, arXiv 1904.01802), with weight 0.02: its value, the
    mean over the n - 1 pairs, is the mean over rows here. It depends on the order of the batch; the paper's kernel is
    `correlation_congruence_loss`. The gradient at s = t is 0.
    """
    s, t, mask = _rows("consecutive_congruence_loss", student, teacher, where)
    require_same_shape("consecutive_congruence_loss", s, t)
    difference = absolute(s - t)
    rows = jnp.arange(s.shape[0])
    # The valid row after row i: the smallest index above i that is not masked, or `batch`.
    after = jax.lax.cummin(jnp.where(mask, rows, s.shape[0])[::-1])[::-1]
    after = jnp.concatenate([after[1:], jnp.full((1,), s.shape[0], after.dtype)])
    paired = jnp.take(difference, after, axis=0, mode="fill", fill_value=0)
    valid = count(mask, s)
    return jnp.sum(difference * paired, axis=1) * valid / jnp.maximum(valid - 1, 1)


def probabilistic_transfer_loss(student: Array, teacher: Array, *, where: Array | None = None) -> Array:
    """Computes mean_j p_ij log((p_ij + 1e-7) / (q_ij + 1e-7)),
    p = (cosine of t + 1) / 2 over its row's sum, q that of s.

    student [batch, ...], teacher [batch, ...] (flattened, widths may differ), where bool [batch]; returns [batch].
    Raises ValueError on other batch sizes. Passalis, Tefas, "Learning Deep Representations with Probabilistic Knowledge
    Transfer" (PKT), 2018, arXiv 1803.10837. As the authors' code: x / (||x|| + 1e-7), the diagonal counts, the mean is
    over batch^2 (a KL of a row divided by the batch size). A dead row has cosine 0, with gradient 0.
    """
    s, t, mask = _rows("probabilistic_transfer_loss", student, teacher, where)
    valid = mask[:, None] & mask[None, :]

    def probabilities(x: Array) -> Array:
        norm = safe_norm(x, keepdims=True)
        x = jnp.where(norm > 0, x / (norm + 1e-7), 0)
        similarity = jnp.where(valid, (einsum("id,jd->ij", x, x) + 1) / 2, 0)
        return similarity / jnp.where(mask, jnp.sum(similarity, axis=1), 1)[:, None]

    q, p = probabilities(s), probabilities(t)
    return jnp.sum(p * jnp.log((p + 1e-7) / (q + 1e-7)), axis=1) / count(mask, s)


def instance_relation_graph_loss(
    *values: Array | Sequence[Array],
    vertex_weight: NotNegative[Array | float] = 0.1,
    edge_weight: NotNegative[Array | float] = 5.0,
    transformation_weight: NotNegative[Array | float] = 5.0,
    where: Array | None = None,
) -> Array:
    """Computes w_v MSE(logits) + w_e mean over (map 1, map 2, embedding) of MSE(D) + w_t MSE(T).

    MSE is between student and teacher. D_ij = ||x_i - x_j||^2 over its maximum; T_i = ||map1_i - map2_i||^2 over its
    maximum, where map 1 is pooled to the size of map 2, and map 2 averages pairs of channels if it has twice as many.
    Arguments are (student, teacher), each (map 1, map 2, embedding, logits), or these eight values one after another,
    as a Term passes them; map 1 is before map 2 in the network. Maps [batch, height, width, channels], logits [batch,
    classes]; where bool [batch]; returns [batch]. Raises ValueError where shapes do not fit. Liu, Cao, Li, Yuan, Hu,
    Li, Duan, "Knowledge Distillation via Instance Relationship Graph" (IRG), CVPR 2019. Formula and weights of the
    Knowledge-Distillation-Zoo (the authors' code is Caffe); distances clamped at 1e-12.
    """
    what = "instance_relation_graph_loss"
    if len(values) not in (2, 8):
        raise ValueError(f"{what}: expected (map 1, map 2, embedding, logits) twice, got {len(values)} arguments")
    student, teacher = values if len(values) == 2 else (values[:4], values[4:])
    if len(student) != 4 or len(teacher) != 4:
        raise ValueError(
            f"{what}: expected (map 1, map 2, embedding, logits), got {len(student)} for the student "
            f"and {len(teacher)} for the teacher"
        )
    (*student_values, s), (*teacher_values, t) = to_float(*student), to_float(*teacher)
    require_same_shape(f"{what} (logits)", s, t)
    mask = row_mask(where, s.shape[0], what)
    for value in (*student_values, *teacher_values):
        require_same_batch(f"{what} (against the logits)", value, s)
    student_values = [keep_rows(x, mask) for x in student_values]
    teacher_values = [keep_rows(x, mask) for x in teacher_values]
    s, t = keep_rows(s, mask), keep_rows(t, mask)

    def edges(x: Array) -> Array:
        distance = jnp.where(_pairs(mask), jnp.maximum(_squared_distances(flatten(x)), 1e-12), 0)
        largest = jnp.max(distance)
        return distance / jnp.where(largest > 0, largest, 1)

    vertex = jnp.mean((s - t) ** 2, axis=1)
    edge = sum(
        jnp.sum((edges(a) - edges(b)) ** 2, axis=1) for a, b in zip(student_values, teacher_values, strict=True)
    ) / (3 * count(mask, s))
    change = _transformation(student_values[0], student_values[1], mask) - _transformation(
        teacher_values[0], teacher_values[1], mask
    )
    return (
        scalar_like(vertex_weight, s) * vertex
        + scalar_like(edge_weight, s) * edge
        + scalar_like(transformation_weight, s) * change**2
    )


def _transformation(first: Array, second: Array, mask: Array) -> Array:
    """Computes ||first - second||^2 of each row over its maximum; 0 on masked rows."""
    require_maps("instance_relation_graph_loss (map 1 and map 2)", first, second)
    if first.shape[1] > second.shape[1]:
        first = adaptive_average_pool(first, second.shape[1:3])
    if first.shape[3] * 2 == second.shape[3]:
        second = (second[..., 0::2] + second[..., 1::2]) / 2
    if first.shape != second.shape:
        raise ValueError(
            "instance_relation_graph_loss: map 1 must become map 2 by pooling and by averaging pairs of channels, "
            f"got {first.shape} and {second.shape} after that"
        )
    distance = jnp.where(mask, jnp.maximum(sum_rest((first - second) ** 2), 1e-12), 0)
    largest = jnp.max(distance)
    return distance / jnp.where(largest > 0, largest, 1)
