"""A loss of logits as a loss of hidden states: the projection and the loss run over one chunk of tokens at a time.

`chunked_loss` is jax.lax.scan over chunks of tokens in a custom derivative. While a chunk's logits exist, their
gradient is taken too, for a cotangent of 1 at every token, so the logits are computed once, as in the plain loss. The
backward pass scales each token's gradient by its cotangent. The sums over tokens (heads, biases, temperatures) can be
scaled only if the cotangent is one number for all tokens, as it is below a masked mean; if the cotangents differ, the
backward pass computes the sums again. Only the gradients that are asked for are computed.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

Array = jax.Array
PyTree = Any
SIDES = ("student", "teacher")


@dataclasses.dataclass(frozen=True)
class Settings:
    """The static arguments of `chunked_loss`."""

    loss: Callable[..., Array]  # of logits
    chunk: int  # tokens
    transposed: frozenset[str]  # the sides whose head is [V, D]
    classes: int  # that both sides are cut or padded to
    token_axes: tuple[str, ...] = ()  # mesh axes that share the tokens
    vocabulary_axis: str | None = None  # the mesh axis that shards the classes


def _matmul(dims: str, a: Array, b: Array) -> Array:
    return jnp.einsum(dims, a, b, preferred_element_type=jnp.promote_types(a.dtype, jnp.float32))


def _logits(settings: Settings, projected: Mapping, softcap: Mapping) -> list[Array]:
    """Returns the logits of student and teacher: the projected states, soft-capped, cut or padded to `classes`."""
    logits = []
    for side in sorted(projected):  # "student", "teacher"
        z = projected[side]
        if side in softcap:
            z = softcap[side] * jnp.tanh(z / softcap[side])
        if settings.vocabulary_axis is None and z.shape[-1] != settings.classes:
            missing = max(settings.classes - z.shape[-1], 0)
            z = jnp.pad(z[:, : settings.classes], ((0, 0), (0, missing)), constant_values=-jnp.inf)
        logits.append(z)
    return logits


def _floats(options: Mapping[str, Array]) -> dict[str, Array]:
    return {k: v for k, v in options.items() if jnp.issubdtype(v.dtype, jnp.floating)}


def _chunk(
    settings: Settings, needs: tuple, shared: PyTree, tokens: PyTree, valid: Array, cotangent: Array
) -> tuple[Array, PyTree, PyTree]:
    """Returns the loss [tokens] of one chunk and the gradients by `tokens` and by `shared`; None where not needed.

    Those of the heads are [D, V], of which XLA's CPU compiler takes the product in half the time of [V, D].
    """
    hidden = {k: jnp.where(valid[:, None], h, 0) for k, h in tokens["hidden"].items()}  # NaN in padding ends here
    heads, projected = shared["head"], {}
    for side, head in heads.items():
        projected[side] = _matmul("nd,vd->nv" if side in settings.transposed else "nd,dv->nv", hidden[side], head)
        if side in shared["bias"]:
            projected[side] = projected[side] + shared["bias"][side].astype(projected[side].dtype)[None]
    axis = {} if settings.vocabulary_axis is None else {"axis_name": settings.vocabulary_axis}

    def loss(projected: Mapping, numbers: Mapping, options: Mapping) -> Array:
        logits = _logits(settings, projected, numbers["softcap"])
        return settings.loss(*logits, **{**tokens["options"], **numbers["options"], **options}, **axis)

    values, pull = jax.vjp(loss, projected, shared["numbers"], _floats(tokens["options"]))
    d_projected, d_numbers, d_options = pull(jnp.where(valid, cotangent, 0).astype(values.dtype))
    d_projected = {k: jnp.where(valid[:, None], d, 0) for k, d in d_projected.items()}
    d_hidden, d_head, d_bias = {}, {}, {}
    for side, d in d_projected.items():
        if side in shared["bias"]:
            d_bias[side] = jnp.sum(d, axis=0)
        d = d.astype(hidden[side].dtype)
        transposed = side in settings.transposed
        d_hidden[side] = _matmul("nv,vd->nd" if transposed else "nv,dv->nd", d, heads[side])
        d_head[side] = _matmul("nd,nv->dv", hidden[side], d)
    by_tokens = _needed({"hidden": d_hidden, "options": d_options}, needs[0])
    by_shared = _needed({"head": d_head, "bias": d_bias, "numbers": d_numbers}, needs[1])
    return jnp.where(valid, values, 0), by_tokens, by_shared


def _needed(gradients: PyTree, needs: PyTree) -> PyTree:
    """Returns the gradients that are needed, None for the others (integer options have none at all)."""
    return {
        k: _needed(gradients.get(k, {}), n) if isinstance(n, Mapping) else (gradients[k] if n else None)
        for k, n in needs.items()
    }


def _scan(
    settings: Settings, needs: tuple, tokens: PyTree, shared: PyTree, valid: Array, cotangent: Array
) -> tuple[Array, PyTree, PyTree]:
    """Runs _chunk over all tokens, or over those of one shard; collectives over shards come at the end."""
    number = valid.shape[0]
    steps = max(-(-number // settings.chunk), 1)
    size = -(-number // steps)

    def split(x: Array) -> Array:
        x = jnp.pad(x, [(0, steps * size - number)] + [(0, 0)] * (x.ndim - 1), mode="edge")
        return x.reshape(steps, size, *x.shape[1:])

    chunks = jax.tree.map(split, (tokens, valid, cotangent))
    real = split(jnp.ones_like(valid)).reshape(-1).at[number:].set(False).reshape(steps, size)
    chunks = (chunks[0], chunks[1] & real, chunks[2])
    shared = shared | {
        "numbers": _varying(shared["numbers"], settings.token_axes),
        "head": {k: w.astype(tokens["hidden"][k].dtype) for k, w in shared["head"].items()},  # once, not in each chunk
    }

    def step(sums: PyTree, chunk: tuple) -> tuple[PyTree, tuple]:
        values, by_tokens, by_shared = _chunk(settings, needs, shared, *chunk)
        return jax.tree.map(jnp.add, sums, by_shared), (values, by_tokens)

    like = jax.eval_shape(lambda c: _chunk(settings, needs, shared, *c)[2], jax.tree.map(lambda x: x[0], chunks))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
    by_class = (*settings.token_axes, *([settings.vocabulary_axis] if settings.vocabulary_axis else []))
    zeros = {k: _varying(z, settings.token_axes if k == "numbers" else by_class) for k, z in zeros.items()}
    sums, rows = jax.lax.scan(step, zeros, chunks)
    sums["head"] = {k: g.T if k in settings.transposed and g is not None else g for k, g in sums["head"].items()}
    values, by_tokens = jax.tree.map(lambda x: x.reshape(steps * size, *x.shape[2:])[:number], rows)
    if settings.token_axes:
        sums = jax.lax.psum(sums, settings.token_axes)
    if settings.vocabulary_axis:
        by_tokens["hidden"] = jax.lax.psum(by_tokens["hidden"], settings.vocabulary_axis)
    return values, by_tokens, sums


def _varying(tree: PyTree, axes: tuple[str, ...]) -> PyTree:
    """Marks values as differing between devices, so that only we sum their gradients over devices, and once."""
    return jax.tree.map(lambda x: jax.lax.pcast(x, axes, to="varying"), tree) if axes else tree


def _run(
    settings: Settings, needs: tuple, tokens: PyTree, shared: PyTree, valid: Array, cotangent: Array
) -> tuple[Array, PyTree, PyTree]:
    """Runs _scan; where the settings name mesh axes, on every device over its tokens and classes."""
    scan = functools.partial(_scan, settings, needs)
    if not settings.token_axes and settings.vocabulary_axis is None:
        return scan(tokens, shared, valid, cotangent)
    rows, classes = PartitionSpec(settings.token_axes), settings.vocabulary_axis
    by_side = {s: PartitionSpec(classes) if s in settings.transposed else PartitionSpec(None, classes) for s in SIDES}
    specs = {
        "head": {s: by_side[s] for s in shared["head"]},
        "bias": {s: PartitionSpec(classes) for s in shared["bias"]},
        "numbers": jax.tree.map(lambda _: PartitionSpec(), shared["numbers"]),
    }
    token_specs = jax.tree.map(lambda _: rows, tokens)
    return jax.shard_map(
        scan, in_specs=(token_specs, specs, rows, rows), out_specs=(rows, rows, _needed(specs, needs[1]))
    )(tokens, shared, valid, cotangent)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def chunked_loss(settings: Settings, tokens: PyTree, shared: PyTree, valid: Array) -> Array:
    """Computes the loss at every token [tokens] (0 where not valid).

    tokens: {"hidden": {side: [tokens, D]}, "options": {name: [tokens]}}, shared: {"head": {side: [D, V]}, "bias":
    {side: [V]}, "numbers": {"softcap": {side: []}, "options": {name: []}}}, valid: bool [tokens]; side is "student" or
    "teacher".
    """
    nothing = jax.tree.map(lambda _: False, (tokens, shared))
    return _run(settings, nothing, tokens, shared, valid, jnp.ones(valid.shape, jnp.float32))[0]


def _forward(settings: Settings, tokens: PyTree, shared: PyTree, valid: Any) -> tuple[Array, tuple]:
    needs = jax.tree.map(lambda x: x.perturbed, (tokens, shared))
    tokens, shared, valid = jax.tree.map(lambda x: x.value, (tokens, shared, valid))
    values, by_tokens, sums = _run(settings, needs, tokens, shared, valid, jnp.ones(valid.shape, jnp.float32))
    by_tokens = {k: _map(lambda g, x: g.astype(x.dtype), by_tokens[k], tokens[k]) for k in by_tokens}
    return values, (by_tokens, sums, tokens, shared, valid)


def _backward(settings: Settings, residuals: tuple, cotangent: Any) -> tuple:
    by_tokens, sums, tokens, shared, valid = residuals
    if isinstance(cotangent, jax.custom_derivatives.SymbolicZero):
        return None, None, None

    def scaled(rows: Array, like: Array) -> Array:
        scale = jnp.where(valid, cotangent, 0).reshape(valid.shape + (1,) * (rows.ndim - 1))
        return (rows * scale).astype(like.dtype)

    def again() -> PyTree:
        needs = (jax.tree.map(lambda _: False, tokens), _map(lambda g, _: g is not None, sums, sums, keep_none=True))
        return _run(settings, needs, tokens, shared, valid, cotangent)[2]

    if jax.tree.leaves(sums):
        first = cotangent[jnp.argmax(valid)]
        uniform = jnp.all(jnp.where(valid, cotangent == first, True))
        sums = jax.lax.cond(uniform, lambda: jax.tree.map(lambda x: x * first.astype(x.dtype), sums), again)
    return _map(scaled, by_tokens, tokens), _map(lambda g, x: g.astype(x.dtype), sums, shared), None


def _map(fn: Callable, gradients: PyTree, like: PyTree, keep_none: bool = False) -> PyTree:
    """Maps fn over gradients and `like`; a None among the gradients stays None (unless keep_none gives it to fn)."""
    if isinstance(gradients, Mapping):
        return {k: _map(fn, g, like[k], keep_none) for k, g in gradients.items()}
    return None if gradients is None and not keep_none else fn(gradients, like)


chunked_loss.defvjp(_forward, _backward, symbolic_zeros=True)
