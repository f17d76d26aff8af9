"""Attention whose scores exist for a block of queries and keys at a time: memory grows as the length, not its square.

Dao, Fu, Ermon, Rudra, Re, "FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness", 2022, arXiv
2205.14135, in plain JAX: a running maximum and sum of every query's exponentials, and a backward pass that computes a
block's probabilities again from their logarithm. Blocks that no query sees (the future, what lies before a sliding
window) are not computed. Deviations: soft caps (Gemma 2), segments, which end in the mask of a block, and sinks
(gpt-oss), with which a query's sum begins.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kd_jax.types import Array, PyTree

BLOCK = 256  # queries, and keys; fewer queries than that have a plain softmax
LOW = -1e30  # below every score, and finite: a maximum over nothing minus itself is 0


class Form(NamedTuple):
    """What is static: `scale` of the products, `softcap` c of c tanh(x / c) (0: none), whether the future is hidden."""

    scale: float
    softcap: float
    causal: bool
    block: int = BLOCK


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Seen:
    """Which keys a query sees, key s standing in slot s: those of slots up to its own, of its segment, that are valid.

    slots int [1 or batch, length] of the queries; valid bool [1 or batch, keys] or None; segments (of the queries
    [batch, length], of the keys [batch, keys]) or None. `causal` False hides no future.
    """

    slots: Array
    valid: Array | None = None
    segments: tuple[Array, Array] | None = None
    causal: bool = dataclasses.field(default=True, metadata={"static": True})

    def mask(self, keys: Array, window: Array | int | None) -> Array:
        """Returns bool [1 or batch, length, keys] for the slots of keys int [keys]; with a window, no farther back."""
        distance = self.slots[:, :, None] - keys[None, None]
        mask = distance >= 0 if self.causal else jnp.ones_like(distance, bool)
        if window is not None:
            mask = mask & (distance < window)
        if self.valid is not None:
            mask = mask & self.valid[:, None]
        return mask if self.segments is None else mask & (self.segments[0][:, :, None] == self.segments[1][:, None])


def attend(
    queries: Array,
    keys: Array,
    values: Array,
    visible: Seen,
    window: Array | int | None,
    scale: float,
    softcap: float = 0.0,
    sinks: Array | None = None,
) -> Array:
    """Computes softmax(softcap(scale q k)) v where `visible`: queries [batch, heads, length, width], keys and values
    [batch, kv heads, keys, width] -> [batch, length, heads, width].

    kv heads divide heads (GQA). `sinks` [heads] are one more score of a head, whose share goes nowhere. Scores and
    softmax are float32, products in the dtype of the inputs. A query that sees nothing (padding) gives 0. Gradients are
    those by queries, keys, values and sinks, and can be differentiated forwards.
    """
    batch, heads, length, width = queries.shape
    kv, size = keys.shape[1:3]
    block = min(BLOCK, length)
    visible = dataclasses.replace(
        visible,
        slots=_padded(visible.slots, 1, block, "edge"),
        valid=_padded(jnp.ones((1, size), bool) if visible.valid is None else visible.valid, 1, block),
        segments=visible.segments and tuple(_padded(x, 1, block) for x in visible.segments),
    )
    grouped = _padded(queries.reshape(batch, kv, heads // kv, length, width), 3, block)
    keys, values = _padded(keys, 2, block), _padded(values, 2, block)
    form = Form(scale, softcap, visible.causal, block)
    sinks = None if sinks is None else sinks.reshape(1, kv, heads // kv, 1)
    return _blocked(form, grouped, keys, values, sinks, visible, window)[:, :length].reshape(
        batch, length, heads, width
    )


def _padded(x: Array, axis: int, block: int, mode: str = "constant") -> Array:
    more = -x.shape[axis] % block
    return jnp.pad(x, [(0, more if i == axis else 0) for i in range(x.ndim)], mode=mode) if more else x


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _blocked(
    form: Form, queries: Array, keys: Array, values: Array, sinks: Array | None, visible: Seen, window: PyTree
) -> Array:
    return _forward(form, queries, keys, values, sinks, visible, window)[0]


def _forward(
    form: Form, queries: Array, keys: Array, values: Array, sinks: Array | None, visible: Seen, window: PyTree
) -> tuple[Array, tuple]:
    wide = jnp.promote_types(queries.dtype, jnp.float32)

    def row(i: Array, done: tuple[Array, Array]) -> tuple[Array, Array]:
        q = _block(queries, i, form.block, 3)

        def column(j: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            total, most, out = carry
            k, v = _block(keys, j, form.block, 2), _block(values, j, form.block, 2)
            mask = _mask(form, visible, window, i, j)
            scores = jnp.where(mask, _scores(form, q, k)[0], LOW)
            new = jnp.maximum(most, scores.max(-1))
            weights = jnp.where(mask, jnp.exp(scores - new[..., None]), 0)
            shrink = jnp.exp(most - new)
            product = _product("bkgqs,bksd->bkgqd", weights.astype(v.dtype), v)
            return total * shrink + weights.sum(-1), new, out * shrink[..., None] + product

        zeros = jnp.zeros(q.shape, wide)
        nothing = zeros[..., 0]
        first = (nothing, nothing + LOW, zeros) if sinks is None else (nothing + 1, nothing + sinks.astype(wide), zeros)
        total, most, out = jax.lax.fori_loop(*_columns(form, visible, window, i, keys.shape[2]), column, first)
        sees = total > 0
        out = jnp.where(sees[..., None], out / jnp.where(sees, total, 1)[..., None], 0)
        logs = jnp.where(sees, most + jnp.log(jnp.where(sees, total, 1)), -LOW)
        return _put(done[0], i, form.block, jnp.moveaxis(out, 3, 1), 1), _put(done[1], i, form.block, logs, 3)

    batch, kv, group, length, width = queries.shape
    first = (
        _zeros((batch, length, kv, group, width), queries.dtype, queries),
        _zeros(queries.shape[:-1], wide, queries),
    )
    out, logs = jax.lax.fori_loop(0, queries.shape[3] // form.block, row, first)
    return out, (queries, keys, values, sinks, visible, window, out, logs)


def _backward(form: Form, residuals: tuple, cotangent: Array) -> tuple:
    queries, keys, values, sinks, visible, window, out, logs = residuals
    wide = jnp.promote_types(queries.dtype, jnp.float32)

    def row(i: Array, sums: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        q, log = (_block(x, i, form.block, 3) for x in (queries, logs))
        d_out, said = (jnp.moveaxis(_block(x, i, form.block, 1), 1, 3) for x in (cotangent, out))
        mean = jnp.sum(said.astype(wide) * d_out.astype(wide), -1)

        def column(j: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            by_query, by_keys, by_values = carry
            k, v = _block(keys, j, form.block, 2), _block(values, j, form.block, 2)
            scores, slope = _scores(form, q, k)
            weights = jnp.where(_mask(form, visible, window, i, j), jnp.exp(scores - log[..., None]), 0)
            by_weights = _product("bkgqd,bksd->bkgqs", d_out, v)
            by_scores = (weights * (by_weights - mean[..., None]) * slope * form.scale).astype(q.dtype)
            by_query = by_query + _product("bkgqs,bksd->bkgqd", by_scores, k)
            by_key = _product("bkgqs,bkgqd->bksd", by_scores, q)
            by_value = _product("bkgqs,bkgqd->bksd", weights.astype(q.dtype), d_out)
            by_keys = _put(by_keys, j, form.block, _block(by_keys, j, form.block, 2) + by_key, 2)
            return by_query, by_keys, _put(by_values, j, form.block, _block(by_values, j, form.block, 2) + by_value, 2)

        bounds = _columns(form, visible, window, i, keys.shape[2])
        by_query, *rest = jax.lax.fori_loop(*bounds, column, (jnp.zeros(q.shape, wide), *sums[1:]))
        return _put(sums[0], i, form.block, by_query, 3), *rest

    sums = ((queries.shape, queries.dtype), (keys.shape, wide), (values.shape, wide))
    first = tuple(_zeros(*kind, cotangent) for kind in sums)
    by_queries, by_keys, by_values = jax.lax.fori_loop(0, queries.shape[3] // form.block, row, first)
    by_sinks = None
    if sinks is not None:
        mean = jnp.einsum("bqkgd,bqkgd->bkgq", out.astype(wide), cotangent.astype(wide))
        by_sinks = -(jnp.exp(sinks.astype(wide) - logs) * mean).sum((0, 3), keepdims=True).astype(sinks.dtype)
    return by_queries, by_keys.astype(keys.dtype), by_values.astype(values.dtype), by_sinks, None, None


_blocked.defvjp(_forward, _backward)


def _columns(form: Form, visible: Seen, window: PyTree, i: Array, size: int) -> tuple[Any, Any]:
    """The first block of keys that the i-th block of queries sees, and the one after its last."""
    slots, last = _block(visible.slots, i, form.block, 1), size // form.block
    first = 0 if window is None else jnp.clip((slots.min() - window + 1) // form.block, 0, last)
    return first, jnp.minimum(slots.max() // form.block + 1, last) if form.causal else last


def _scores(form: Form, q: Array, k: Array) -> tuple[Array, Array | float]:
    """Scores of a block, and the derivative of the soft cap there."""
    scores = _product("bkgqd,bksd->bkgqs", q, k) * form.scale
    if not form.softcap:
        return scores, 1.0
    bounded = jnp.tanh(scores / form.softcap)
    return form.softcap * bounded, 1 - bounded * bounded


def _mask(form: Form, visible: Seen, window: PyTree, i: Array, j: Array) -> Array:
    """bool [1 or batch, 1, 1, block, block] of what a block of queries sees of a block of keys."""
    queries, keys = (functools.partial(_block, at=at, block=form.block, axis=1) for at in (i, j))
    segments = visible.segments and (queries(visible.segments[0]), keys(visible.segments[1]))
    valid = None if visible.valid is None else keys(visible.valid)
    part = dataclasses.replace(visible, slots=queries(visible.slots), valid=valid, segments=segments)
    return part.mask(j * form.block + jnp.arange(form.block), window)[:, None, None]


def _block(x: Array, at: Array, block: int, axis: int) -> Array:
    return jax.lax.dynamic_slice_in_dim(x, at * block, block, axis)


def _put(whole: Array, at: Array, block: int, new: Array, axis: int) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(whole, new.astype(whole.dtype), at * block, axis)


def _zeros(shape: tuple[int, ...], dtype: Any, when: Array) -> Array:
    """Zeros made when `when` is there: plain ones the compiler makes when the program begins, and keeps till now."""
    return jnp.zeros(shape, dtype) + 0 * jnp.ravel(when)[0].astype(dtype)


def _product(dims: str, a: Array, b: Array) -> Array:
    return jnp.einsum(dims, a, b, preferred_element_type=jnp.promote_types(a.dtype, jnp.float32))
