"""Helpers of the losses: dtypes, shape errors, softened log-probabilities, norms with finite gradients, pooling."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

# GPUs and TPUs multiply float32 matrices in TF32 or bfloat16 unless told otherwise; Gram matrices cannot afford that.
einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


def to_float(*arrays: Array) -> tuple[Array, ...]:
    """Converts arrays to float32; those of float64 stay float64."""
    arrays = tuple(jnp.asarray(x) for x in arrays)
    return tuple(x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in arrays)


def scalar_like(value: Array | float, like: Array) -> Array:
    """Converts an option (number, tracer, or array) to the dtype of `like`, so that it never promotes a result."""
    return jnp.asarray(value).astype(like.dtype)


def require_same_shape(what: str, student: Array, teacher: Array) -> None:
    """Raises ValueError, in the name of `what`, unless the shapes are the same."""
    if student.shape != teacher.shape:
        raise ValueError(
            f"{what}: student and teacher must have the same shape, "
            f"got student {student.shape} and teacher {teacher.shape}"
        )


def require_same_batch(what: str, student: Array, teacher: Array) -> None:
    """Raises ValueError unless the first axes have the same size."""
    if student.ndim == 0 or teacher.ndim == 0 or student.shape[0] != teacher.shape[0]:
        raise ValueError(
            f"{what}: student and teacher must have the same batch size, "
            f"got student {student.shape} and teacher {teacher.shape}"
        )


def require_maps(what: str, student: Array, teacher: Array) -> None:
    """Raises ValueError unless both are [batch, height, width, channels] with one batch size."""
    if student.ndim != 4 or teacher.ndim != 4:
        raise ValueError(
            f"{what}: expected maps [batch, height, width, channels], "
            f"got student {student.shape} and teacher {teacher.shape}"
        )
    require_same_batch(what, student, teacher)


def require_same_channels(what: str, student: Array, teacher: Array) -> None:
    """Raises ValueError unless the last axes have the same size."""
    if student.shape[-1] != teacher.shape[-1]:
        raise ValueError(
            f"{what}: student and teacher must have the same number of channels (a connector can map them), "
            f"got student {student.shape} and teacher {teacher.shape}"
        )


def flatten(x: Array) -> Array:
    """Reshapes [batch, ...] to [batch, features]."""
    return x.reshape(x.shape[0], -1)


def mean_rest(x: Array) -> Array:
    """Computes the mean over all axes but the batch."""
    return jnp.mean(flatten(x), axis=1)


def sum_rest(x: Array) -> Array:
    """Computes the sum over all axes but the batch."""
    return jnp.sum(flatten(x), axis=1)


def over_classes(temperature: Array | float, like: Array) -> Array:
    """Returns a temperature (a number, or one value for each leading position) in a shape that divides logits."""
    temperature = scalar_like(temperature, like)
    return temperature[..., None] if temperature.ndim else temperature


def possible(*logits: Array) -> Array:
    """Returns bool: the classes that at least one of the networks can say, those of a logit above -inf (or NaN)."""
    return functools.reduce(jnp.logical_or, (z != -jnp.inf for z in logits))


def difference(a: Array, b: Array) -> Array:
    """Computes a - b, and 0 where both are -inf."""
    return jnp.where(possible(a, b), a - b, 0)


def mean_possible(values: Array, there: Array) -> Array:
    """Computes the mean over the last axis of the values of the classes that are `there` (bool)."""
    return jnp.mean(jnp.where(there, values, 0), axis=-1) * of_all(there, values)


def of_all(there: Array, like: Array) -> Array:
    """Returns what turns a mean over all classes into one over those that are `there`: exactly 1 where all are."""
    return there.shape[-1] / jnp.maximum(jnp.sum(there, axis=-1), 1).astype(like.dtype)


def softened(logits: Array, temperature: Array | float) -> Array:
    """Computes logits / T; at -inf nothing is divided, or a temperature that is learned would get 0 * inf."""
    there = possible(logits)
    return jnp.where(there, jnp.where(there, logits, 0) / over_classes(temperature, logits), -jnp.inf)


def log_softmax(x: Array) -> Array:
    """Computes log softmax over the last axis, and -inf with gradient 0 (not NaN) where all is -inf."""
    there = jnp.any(possible(x), axis=-1, keepdims=True)
    return jnp.where(there, jax.nn.log_softmax(jnp.where(there, x, 0), axis=-1), -jnp.inf)


def log_sum(x: Array, axis: int = -1, keepdims: bool = False, weights: Array | None = None) -> Array:
    """Computes log sum weights * exp(x), and -inf with gradient 0 (not NaN) where all is -inf."""
    there = jnp.any(possible(x), axis=axis, keepdims=True)
    total = jax.nn.logsumexp(jnp.where(there, x, 0), axis=axis, keepdims=True, b=weights)
    total = jnp.where(there, total, -jnp.inf)
    return total if keepdims else jnp.squeeze(total, axis)


def expected(p: Array, values: Array) -> Array:
    """Computes sum p * values over the last axis; classes with p = 0 count as 0, be their value -inf."""
    return jnp.sum(p * jnp.where(p != 0, values, 0), axis=-1)


def log_probs(logits: Array, temperature: Array | float = 1.0, axis_name: str | None = None) -> Array:
    """Computes log softmax(logits / T) over the last axis, sharded over a mesh axis or not.

    ValueError for one logit.
    """
    _require_several(logits, axis_name)
    scaled = softened(logits, temperature)
    if axis_name is None:
        return jax.nn.log_softmax(scaled, axis=-1)
    peak = jax.lax.pmax(jax.lax.stop_gradient(jnp.max(scaled, axis=-1, keepdims=True)), axis_name)
    shifted = scaled - peak
    return shifted - jnp.log(over_shards(jnp.sum(jnp.exp(shifted), axis=-1, keepdims=True), axis_name))


def _require_several(logits: Array, axis_name: str | None) -> None:
    """Raises ValueError for one logit: its softmax is 1 whatever it is, so a loss of it teaches nothing."""
    if axis_name is None and logits.shape[-1] == 1:
        raise ValueError(
            f"a softmax over one logit {logits.shape} is 1 whatever the network says: one output is for "
            "losses.task.binary_cross_entropy_loss, mean_squared_loss or logit_mse_loss"
        )


def over_shards(partial_sum: Array, axis_name: str | None) -> Array:
    """Adds up the sums over the classes of each shard; without `axis_name` returns the sum as it is."""
    return partial_sum if axis_name is None else jax.lax.psum(partial_sum, axis_name)


def squared(temperature: Array | float, like: Array) -> Array:
    """Computes T^2 in the dtype of `like`."""
    return scalar_like(temperature, like) ** 2


def kl(log_p: Array, log_q: Array, axis_name: str | None = None) -> Array:
    """Computes KL(p, q) = sum p (log p - log q) over the last axis; classes with p = 0 (log p = -inf) count as 0."""
    p = jnp.exp(log_p)
    support = p > 0
    terms = p * (jnp.where(support, log_p, 0) - jnp.where(support, log_q, 0))
    return over_shards(jnp.sum(terms, axis=-1), axis_name)


def kl_of_logits(
    p_logits: Array, q_logits: Array, temperature: Array | float = 1.0, axis_name: str | None = None
) -> Array:
    """Computes kl of both log_probs in fewer passes: the probabilities are exponentials that are never divided.

    KL = sum e_p (p - q) / sum e_p + log(sum e_q / sum e_p), of logits minus their peak and e their exponentials: what
    the gradient needs is there, e_p and e_q, and no array of the logits' size holds their logarithms.
    """
    _require_several(p_logits, axis_name)
    p, q = (_below_peak(z, temperature, axis_name) for z in (p_logits, q_logits))
    weights = jnp.exp(p)
    terms = weights * jnp.where(weights > 0, p - q, 0)
    sums = (over_shards(jnp.sum(x, axis=-1), axis_name) for x in (terms, weights, jnp.exp(q)))
    expected_difference, of_p, of_q = sums
    return expected_difference / of_p + jnp.log(of_q / of_p)


def _below_peak(logits: Array, temperature: Array | float, axis_name: str | None) -> Array:
    """Computes (logits - their maximum) / T, -inf where they are, by a product: XLA keeps what it divides by T."""
    peak = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    peak = peak if axis_name is None else jax.lax.pmax(peak, axis_name)
    peak = jnp.where(possible(peak), peak, 0)
    there = possible(logits)
    return jnp.where(there, (jnp.where(there, logits, 0) - peak) * (1 / over_classes(temperature, logits)), -jnp.inf)


def safe_norm(x: Array, axis: int | tuple[int, ...] = -1, keepdims: bool = False) -> Array:
    """Computes the 2-norm, with gradient 0 (not NaN) where the vector is 0."""
    sq = jnp.sum(x * x, axis=axis, keepdims=keepdims)
    live = sq > 0
    return jnp.where(live, jnp.sqrt(jnp.where(live, sq, 1)), 0)


def unit(x: Array, axis: int | tuple[int, ...] = -1, eps: float = 1e-12) -> Array:
    """Computes x / ||x||, and 0 with gradient 0 (not 1 / eps) where the norm is at most eps."""
    sq = jnp.sum(x * x, axis=axis, keepdims=True)
    live = sq > eps * eps
    return jnp.where(live, x / jnp.sqrt(jnp.where(live, sq, 1)), 0)


def center(x: Array, axis: int | tuple[int, ...], mask: Array | None = None, there: Array | None = None) -> Array:
    """Computes x minus its mean over `axis`, exactly 0 where x is constant.

    Only entries of `mask` (bool) count, and of these only the classes that are `there` (bool).
    """
    if mask is None:
        mask = jnp.ones(x.shape, bool)
    number = jnp.maximum(jnp.sum(mask, axis=axis, keepdims=True), 1).astype(x.dtype)
    share: Array | float = 1.0
    if there is not None:
        mask = mask & there
        share = number / jnp.maximum(jnp.sum(mask, axis=axis, keepdims=True), 1).astype(x.dtype)  # exactly 1 if all are
    # The mean is taken after a constant has been removed: the mean of equal numbers is off by a rounding error, which
    # a division by their standard deviation would blow up.
    peak = jnp.max(jnp.where(mask, x, -jnp.inf), axis=axis, keepdims=True)
    x = x - jax.lax.stop_gradient(jnp.where(jnp.isfinite(peak), peak, 0))
    mean = jnp.sum(jnp.where(mask, x, 0), axis=axis, keepdims=True) / number * share
    return jnp.where(mask, x - mean, 0)


def absolute(x: Array) -> Array:
    """Computes |x| with gradient 0 at 0, where that of jnp.abs is 1."""
    return x * jnp.sign(x)


def smooth_l1(difference: Array) -> Array:
    """Computes the Huber loss with delta 1: d^2 / 2 for |d| < 1, else |d| - 1/2."""
    size = absolute(difference)
    return jnp.where(size < 1, 0.5 * difference * difference, size - 0.5)


def row_mask(where: Array | None, batch: int, what: str) -> Array:
    """Returns the mask of valid rows as bool [batch]; with None all are valid. ValueError on another shape."""
    if where is None:
        return jnp.ones((batch,), bool)
    where = jnp.asarray(where)
    if where.shape != (batch,):
        raise ValueError(f"{what}: where must have shape ({batch},), one value a row, got {where.shape}")
    return where.astype(bool)


def keep_rows(x: Array, mask: Array) -> Array:
    """Sets masked rows to 0 in value and gradient, whatever they held (NaN too)."""
    return jnp.where(mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim)), x, 0)


def count(mask: Array, like: Array) -> Array:
    """Counts the valid rows, at least 1, in the dtype of `like`."""
    return jnp.maximum(jnp.sum(mask), 1).astype(like.dtype)


def best_ranked(rank: Array, valid: Array, wrong_ratio: Array | float, like: Array) -> Array:
    """Returns bool [n]: the valid entries of rank 0, and of the others the share `wrong_ratio` with the lowest ranks.

    rank int [n] from 0, valid bool [n]; of equal ranks the first come first; counts are in the dtype of `like`. SSKD.
    """
    right, wrong = jnp.sum(valid & (rank == 0)), jnp.sum(valid & (rank > 0))
    rank = jnp.where(valid, rank, jnp.iinfo(rank.dtype).max)
    place = jnp.argsort(jnp.argsort(rank, stable=True), stable=True)
    return valid & (place < right + jnp.floor(wrong * scalar_like(wrong_ratio, like) + 1e-4))


def pooling_matrix(size: int, bins: int) -> np.ndarray:
    """Returns [bins, size]; row i averages positions floor(i size / bins) .. ceil((i + 1) size / bins) - 1."""
    matrix = np.zeros((bins, size))
    for i in range(bins):
        start, stop = i * size // bins, -((i + 1) * size // -bins)
        matrix[i, start:stop] = 1.0 / (stop - start)
    return matrix


def adaptive_average_pool(x: Array, size: Sequence[int]) -> Array:
    """Pools [batch, height, width, channels] to [batch, *size, channels] as torch's adaptive_avg_pool2d does."""
    for axis, bins in zip((1, 2), size, strict=True):
        if x.shape[axis] != bins:
            matrix = jnp.asarray(pooling_matrix(x.shape[axis], bins), x.dtype)
            x = jnp.moveaxis(jnp.tensordot(matrix, x, axes=(1, axis), precision=jax.lax.Precision.HIGHEST), 0, axis)
    return x


def pool_to_smaller(a: Array, b: Array) -> tuple[Array, Array]:
    """Pools two maps to the smaller height and the smaller width of both."""
    size = (min(a.shape[1], b.shape[1]), min(a.shape[2], b.shape[2]))
    return adaptive_average_pool(a, size), adaptive_average_pool(b, size)
