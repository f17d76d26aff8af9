"""Several losses and metrics of the same logits in one pass over chunks of tokens; no pass holds all logits.

`weighted` projects each side's hidden states once for a chunk of tokens and computes every part from these logits. The
weight of each token in the sum is known before, so the gradients are taken while the logits exist, and the backward
pass only scales them by the one cotangent of the sum: the logits are computed once, as in the plain losses.

Where mesh axes share the tokens, each device runs over its own (jax.shard_map); all other axes are left to the
compiler, so that a head whose classes are sharded is never gathered along them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from kd_jax.losses._chunked import _matmul

Array = jax.Array
PyTree = Any


class Side(NamedTuple):
    """Logits of one network: which heads are [V, D], the soft cap (0: none)."""

    by_class: tuple[bool, ...]
    softcap: float


class Part(NamedTuple):
    """`loss(logits {side: [n, V]}, rows, shared) -> [n]`; `learned`: it is part of the sum and has a gradient."""

    loss: Callable[..., Array]
    learned: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Settings:
    """The static arguments of `weighted`."""

    sides: Mapping[str, Side]
    parts: tuple[Part, ...]
    chunk: int  # tokens, on each device
    axes: int  # of the tokens: 2 of [batch, length]
    token_axes: tuple[str, ...] = ()  # mesh axes that share the first of them


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def weighted(settings: Settings, sides: PyTree, tokens: PyTree, shared: tuple) -> tuple[Array, tuple[Array, ...]]:
    """Computes (sum over learned parts and tokens of weight * value, the values [tokens] of every part).

    sides: {name: {"hidden": ([*tokens, D], ...), "heads": ([V, D] or [D, V], ...), "bias": [V] or None}}, the only
    argument that has a gradient, of the sum alone; tokens: (rows, where, weights), each with an entry for each part:
    what the part reads by token [*tokens, ...], bool [*tokens] or None, float [*tokens]; shared: what each part reads
    of the same for all tokens. Rows where `where` is False are cleared before the loss sees them.
    """
    return _run(settings, _flags(sides, False), sides, tokens, shared)[0]


def _flags(tree: PyTree, value: bool) -> PyTree:
    return jax.tree.map(lambda _: value, tree)


def _forward(settings: Settings, sides: PyTree, tokens: PyTree, shared: PyTree) -> tuple[Any, tuple]:
    needs = jax.tree.map(lambda x: x.perturbed, sides)
    sides, tokens, shared = jax.tree.map(lambda x: x.value, (sides, tokens, shared))
    out, gradients = _run(settings, needs, sides, tokens, shared)
    return out, (jax.tree.map(lambda x, need: x if need else None, sides, needs), gradients)


def _backward(settings: Settings, residuals: tuple, cotangents: tuple) -> tuple:
    (sides, gradients), cotangent = residuals, cotangents[0]
    if isinstance(cotangent, jax.custom_derivatives.SymbolicZero):
        return None, None, None
    scaled = jax.tree.map(
        lambda g, x: None if x is None else (g * cotangent.astype(g.dtype)).astype(x.dtype),
        gradients,
        sides,
        is_leaf=lambda x: x is None,
    )
    return scaled, None, None


weighted.defvjp(_forward, _backward, symbolic_zeros=True)


def _run(settings: Settings, needs: PyTree, sides: PyTree, tokens: PyTree, shared: tuple) -> tuple[Any, PyTree]:
    """Returns ((sum, values), gradients by `sides`, None where not needed), on every device over its tokens."""
    run = functools.partial(_scan, settings, needs)
    if not settings.token_axes:
        return run(sides, tokens, shared)
    rows, whole = PartitionSpec(settings.token_axes), PartitionSpec()

    def specs(tree: Mapping[str, Any], needed: Any = True) -> dict[str, Any]:
        return {
            name: {
                kind: jax.tree.map(lambda n, k=kind: (rows if k == "hidden" else whole) if n else None, values)
                for kind, values in side.items()
            }
            for name, side in tree.items()
        }

    mapped = jax.shard_map(
        run,
        in_specs=(specs(_flags(sides, True)), rows, whole),
        out_specs=((whole, rows), specs(needs)),
        axis_names={*settings.token_axes},
        check_vma=False,  # nothing differentiates through it: the gradients are among its results
    )
    return mapped(sides, tokens, shared)


def _scan(settings: Settings, needs: PyTree, sides: PyTree, tokens: PyTree, shared: tuple) -> tuple[Any, PyTree]:
    hidden = {name: side["hidden"] for name, side in sides.items()}
    leading = jax.tree.leaves(hidden)[0].shape[: settings.axes]
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[settings.axes :]), (hidden, *tokens))
    number = jax.tree.leaves(flat)[0].shape[0]
    steps = max(-(-number // settings.chunk), 1)
    size = -(-number // steps)
    heads = {  # cast once, not in each chunk
        name: {
            "heads": tuple(w.astype(h.dtype) for w, h in zip(side["heads"], side["hidden"], strict=True)),
            "bias": side["bias"],
        }
        for name, side in sides.items()
    }
    chunk = functools.partial(_chunk, settings, needs, heads, shared)
    if steps == 1:
        total, values, by_token, sums = chunk(flat)
    else:

        def split(x: Array) -> Array:
            x = jnp.pad(x, [(0, steps * size - number)] + [(0, 0)] * (x.ndim - 1))
            return x.reshape(steps, size, *x.shape[1:])

        def step(carry: PyTree, piece: PyTree) -> tuple[PyTree, PyTree]:
            total, values, by_token, sums = chunk(piece)
            return jax.tree.map(jnp.add, carry, (total, sums)), (values, by_token)

        chunks = jax.tree.map(split, flat)
        like = jax.eval_shape(lambda x: chunk(jax.tree.map(lambda a: a[0], x)), chunks)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (like[0], like[3]))
        (total, sums), rows = jax.lax.scan(step, zeros, chunks)
        values, by_token = jax.tree.map(lambda x: x.reshape(steps * size, *x.shape[2:])[:number], rows)
    values, by_token = jax.tree.map(lambda x: x.reshape(*leading, *x.shape[1:]), (values, by_token))
    if settings.token_axes:
        total, sums = jax.lax.psum((total, sums), settings.token_axes)
    gradients = {
        name: {"hidden": by_token[name], **sums[name], "heads": _as_given(settings.sides[name], sums[name]["heads"])}
        for name in sides
    }
    return (total, values), gradients


def _as_given(side: Side, by_heads: tuple[Array | None, ...]) -> tuple[Array | None, ...]:
    """Gradients [D, V] of heads as these are: [V, D] where they are by class."""
    return tuple(g.T if by_class and g is not None else g for g, by_class in zip(by_heads, side.by_class, strict=True))


def _chunk(settings: Settings, needs: PyTree, heads: PyTree, shared: tuple, chunk: PyTree) -> tuple:
    """Returns (sum, values, gradients by hidden states, gradients by heads and biases) of a chunk of tokens."""
    hidden, rows, where, weights = chunk
    hidden = _without_unread(hidden, where)
    projected = {name: _project(settings.sides[name], hidden[name], heads[name]) for name in heads}
    learned = [name for name in heads if any(jax.tree.leaves(needs[name]))]

    def value_of(i: int, changed: Mapping[str, Array]) -> tuple[Array, Array]:
        """(share of part i in the sum, its values)"""
        logits = {name: _capped(z, settings.sides[name].softcap) for name, z in {**projected, **changed}.items()}
        mask = where[i]
        read = {name: _cleared(z, mask) for name, z in logits.items()}
        value = settings.parts[i].loss(read, tuple(_cleared(x, mask) for x in rows[i]), shared[i])
        value = value if mask is None else jnp.where(mask, value, 0)
        return jnp.sum(value * weights[i].astype(value.dtype)) if settings.parts[i].learned else jnp.float32(0), value

    changed, by_logits = {name: projected[name] for name in learned}, {}
    total, values = jnp.zeros((), jnp.float32), []
    for i, part in enumerate(settings.parts):  # one after the other, so that what a part keeps is freed before the next
        if learned and part.learned:
            (share, value), new = jax.value_and_grad(functools.partial(value_of, i), has_aux=True)(changed)
            by_logits = jax.tree.map(jnp.add, by_logits, new) if by_logits else new
        else:
            share, value = value_of(i, {})
        total, values = total + share, [*values, value]
    values = tuple(values)
    by_token: dict[str, Any] = {name: jax.tree.map(lambda _: None, needs[name]["hidden"]) for name in heads}
    sums: dict[str, Any] = {
        name: {kind: jax.tree.map(lambda _: None, needs[name][kind]) for kind in ("heads", "bias")} for name in heads
    }
    for name, d in by_logits.items():
        by_token[name], sums[name] = _by_side(settings.sides[name], needs[name], hidden[name], heads[name], d)
    return total, values, by_token, sums


def _without_unread(hidden: PyTree, where: tuple[Array | None, ...]) -> PyTree:
    """Hidden states, 0 in the rows that no part reads: a NaN there ends here."""
    masks = [w for w in where if w is not None]
    if len(masks) < len(where) or not masks:
        return hidden
    any_part = functools.reduce(jnp.logical_or, masks)
    return jax.tree.map(lambda h: jnp.where(any_part[:, None], h, 0), hidden)


def _by_side(side: Side, needs: PyTree, hidden: tuple, heads: PyTree, d: Array) -> tuple[tuple, dict[str, Any]]:
    """Returns the gradients (by hidden states, {"heads", "bias"}) from those by the projected states, as needed.

    Those of every head are [D, V], of which XLA's CPU compiler takes the product in half the time of [V, D].
    """
    by_hidden, by_heads = [], []
    for h, w, by_class, of_hidden, of_head in zip(
        hidden, heads["heads"], side.by_class, needs["hidden"], needs["heads"], strict=True
    ):
        low = d.astype(h.dtype)
        by_hidden.append(
            _matmul("nv,vd->nd" if by_class else "nv,dv->nd", low, w).astype(h.dtype) if of_hidden else None
        )
        by_heads.append(_matmul("nd,nv->dv", h, low) if of_head else None)
    bias = jnp.sum(d, axis=0) if needs["bias"] else None
    return tuple(by_hidden), {"heads": tuple(by_heads), "bias": bias}


def _project(side: Side, hidden: tuple[Array, ...], heads: Mapping[str, Any]) -> Array:
    products = [
        _matmul("nd,vd->nv" if by_class else "nd,dv->nv", h, w)
        for h, w, by_class in zip(hidden, heads["heads"], side.by_class, strict=True)
    ]
    total = functools.reduce(jnp.add, products)
    return total if heads["bias"] is None else total + heads["bias"].astype(total.dtype)[None]


def _capped(z: Array, softcap: float) -> Array:
    return softcap * jnp.tanh(z / softcap) if softcap else z


def _cleared(x: Array, where: Array | None) -> Array:
    """Masked rows of a float array at 1, as core.terms.cleared has them."""
    if where is None or not jnp.issubdtype(x.dtype, jnp.inexact):
        return x
    return jnp.where(where.reshape(where.shape + (1,) * (x.ndim - 1)), x, 1)
