"""Losses and scores of a network's logits that build them for a chunk of tokens at a time (losses/_joint.py).

A network that taps a `Projected` (models) says how its logits are made of hidden states and a head. `bind` has
the terms read that in place of "<call>.logits" where their loss is marked by losses.needs.by_token; a step then
computes all of these terms and watched metrics in one pass, and evaluation likewise. Where nothing else reads the
logits, the compiler drops them. What a cache knows of a teacher (`Likeliest`) is read likewise, as a target.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from kd_jax.core.paths import Context, Path, lookup
from kd_jax.core.pieces import Piece, Reader, by_position
from kd_jax.core.shapes import shapes_of
from kd_jax.core.terms import masked_sum_and_count, name_of, takes_where
from kd_jax.losses._joint import Part, Settings, Side, weighted
from kd_jax.losses._projection import on_auto_axes
from kd_jax.losses.needs import is_by_token
from kd_jax.losses.two_passes import Passes, passes_of
from kd_jax.models.projected import LIKELIEST, Likeliest, Projected
from kd_jax.system.parallel import BATCH_AXES
from kd_jax.types import Array, Model, Outputs, PyTree, Term

_taps: weakref.WeakKeyDictionary[Model, dict] = weakref.WeakKeyDictionary()


def projection_tap(
    model: Model, variables: tuple[PyTree, PyTree], inputs: Sequence[PyTree], train: bool = False
) -> str:
    """Returns the tap whose `Projected` is the logits that the network returns, "" where there is none.

    Shapes are enough; `train` is how the network is called, since some draw random numbers there alone. Where a wrapper
    changes the logits, they are no longer what the network taps.
    """
    tapped: list[str] = []

    def run(variables: tuple[PyTree, PyTree], inputs: tuple[PyTree, ...]) -> None:
        key = jax.random.key(0)
        outputs, _ = model.apply(*variables, *inputs, train=train, key=key, taps=("*",))
        tapped.extend(tap for tap, value in outputs.features.items() if stands_for(value, outputs.logits))

    leaves, structure = jax.tree.flatten(shapes_of((variables, tuple(inputs))))
    asked = (structure, tuple((x.shape, x.dtype) for x in leaves), train)
    try:
        cached = _taps.setdefault(model, {})
    except TypeError:  # a user's model that cannot be a key
        cached = {}
    if asked not in cached:
        jax.eval_shape(run, *jax.tree.unflatten(structure, leaves))
        cached[asked] = tapped[0] if len(tapped) == 1 else ""
    return cached[asked]


def stands_for(value: Any, logits: Any) -> bool:
    """Returns whether a tapped value is what these logits are built of."""
    return isinstance(value, Projected | Likeliest) and value.built is logits


def fused(term: Term, taps: Mapping[str, str]) -> Term:
    """Returns the term that reads the projections at `taps` {call: tap} in place of logits, or the term as it is.

    It is as it is where its loss is not marked `by_token` or computed in two passes of such (losses/two_passes.py), or
    reads something else that is differentiated.
    """

    def projected(path: str) -> str:
        where = Path.parse(path)
        plain = where.kind == "logits" and not where.rest and where.at is None
        return f"{where.owner}.features:{taps[where.owner]}" if plain and where.owner in taps else path

    inputs = tuple(map(projected, term.inputs))
    if not _is_chunked(term.fn) or term.connector is not None or term.memory is not None:
        return term
    if not inputs or any(new == old for new, old in zip(inputs, term.inputs, strict=True)):
        return term
    if any(Path.parse(path).tap == LIKELIEST for path in inputs):  # of answers alone there is nothing to differentiate
        return term
    return dataclasses.replace(term, inputs=inputs, targets=tuple(map(projected, term.targets)))


def _is_chunked(fn: Callable) -> bool:
    return is_by_token(fn) or passes_of(fn) is not None


def with_logits(terms: Mapping[str, Term], taps: Mapping[str, str]) -> dict[str, Term]:
    """Returns the terms of a scheme that was bound before as they were: they read logits, not what is at `taps`."""

    def plain(path: str) -> str:
        where = Path.parse(path)
        projected = where.kind == "features" and where.tap == taps.get(where.owner)
        return f"{where.owner}.logits" if projected else path

    return {
        name: dataclasses.replace(term, inputs=tuple(map(plain, term.inputs)), targets=tuple(map(plain, term.targets)))
        for name, term in terms.items()
    }


def is_fused(term: Term, context: Context) -> bool:
    """Returns whether a term reads a projection in place of logits."""
    features = (p for p in map(Path.parse, term.inputs) if p.kind == "features")
    values = [context[p.owner].features.get(p.tap) for p in features if p.owner in context]
    return any(isinstance(value, Projected) for value in values)


def answer_of(outputs: Outputs) -> Any:
    """Returns the projection that stands for the logits of evaluated outputs, or the logits."""
    unbuilt: list[Any] = [value for value in outputs.features.values() if stands_for(value, outputs.logits)]
    return dataclasses.replace(unbuilt[0], built=None) if unbuilt else outputs.logits


def scores(asked: Mapping[str, tuple[Any, ...]]) -> dict[str, Array]:
    """Computes {name: metric(logits, *others)} of {name: (metric, logits or their projection, *others)}."""
    pieces = [Piece(name, metric, tuple(read), {}, 0) for name, (metric, *read) in asked.items()]
    chunked = [p for p in pieces if any(isinstance(x, Projected) for x in p.arguments)]
    values = values_of(chunked)[1] if chunked else {}
    for piece in pieces:
        if piece.name not in values:
            stored = any(isinstance(x, Likeliest) for x in piece.arguments)
            values[piece.name] = by_position(piece) if stored else piece.fn(*piece.arguments)
    return values


def piece_of(
    name: str,
    term: Term,
    context: Context,
    kwargs: Mapping[str, Any],
    weight: Array | float | None = None,
    count: Array | None = None,
) -> Piece:
    """Returns the piece of a fused term; without a weight it is only watched.

    That of a loss in two passes is the last one, and the first has been computed.
    """
    if not _is_chunked(term.fn):
        raise ValueError(
            f"Term {name!r} reads {term.inputs[0]!r}, logits that are not built, and {name_of(term.fn)} is not marked "
            "as a loss by token (losses.needs.by_token): read the logits."
        )
    where = jax.lax.stop_gradient(lookup(context, term.where)) if term.where else None
    arguments = [lookup(context, p) for p in (*term.inputs, *term.targets)]
    options = {**kwargs, **{k: lookup(context, p) for k, p in term.options.items()}}
    if where is not None and takes_where(term.fn):
        options["where"] = where
    piece = Piece(name, term.fn, tuple(arguments), options, len(term.inputs), where, weight, count)
    passes = passes_of(term.fn)
    return piece if passes is None else _last_pass(piece, passes)


def _last_pass(piece: Piece, passes: Passes) -> Piece:
    """The piece of a loss in two passes whose first values are there."""
    still = jax.lax.stop_gradient(piece.arguments)
    first = [Piece(name, fn, still, piece.options, 0, piece.where) for name, fn in passes.first.items()]
    rows = passes.between(values_of(first)[1], *still, **piece.options)
    return piece._replace(fn=passes.last, options={**piece.options, **jax.lax.stop_gradient(rows)})


def sums_of(pieces: Sequence[Piece]) -> tuple[Array, dict[str, tuple[Array, Array]]]:
    """Computes (sum of weight * mean over the pieces, {name: (sum, count)}); the means are masked ones."""
    total, values = values_of(pieces)
    return total, {p.name: masked_sum_and_count(values[p.name], p.where) for p in pieces}


def values_of(pieces: Sequence[Piece]) -> tuple[Array, dict[str, Array]]:
    """Computes (sum of weight * mean, {name: the values of every token, which have no gradient})."""
    total, values = jnp.float32(0.0), {}
    groups: dict[tuple, list[Piece]] = {}
    for piece in pieces:
        first = next(x for x in piece.arguments if isinstance(x, Projected))
        groups.setdefault((first.shape[:-1], first.chunk), []).append(piece)
    for (leading, chunk), group in groups.items():
        share, group_values = _together(group, leading, chunk)
        total += share
        values |= group_values
    return total, {p.name: values[p.name] for p in pieces}


def _together(pieces: Sequence[Piece], leading: tuple[int, ...], chunk: int) -> tuple[Array, dict[str, Array]]:
    """The pieces whose tokens are the same, in one pass."""
    networks: dict[int, tuple[str, Projected]] = {}
    read = [Reader(piece, leading, networks) for piece in pieces]
    rows = tuple(tuple(jax.lax.stop_gradient(x) for x in r.rows) for r in read)
    shared = tuple(tuple(jax.lax.stop_gradient(x) for x in r.shared) for r in read)
    masks = [None if p.where is None else jnp.broadcast_to(_spread(p.where, leading), leading) for p in pieces]
    where = tuple(None if m is None else m != 0 for m in masks)
    weights = tuple(_weight(p, m, leading) for p, m in zip(pieces, masks, strict=True))
    sides = {n: {"hidden": p.hidden, "heads": p.heads, "bias": p.bias} for n, p in networks.values()}
    settings = Settings(
        {n: Side(p.by_class, p.softcap) for n, p in networks.values()},
        tuple(Part(r.loss, p.weight is not None) for r, p in zip(read, pieces, strict=True)),
        chunk,
        len(leading),
        _token_axes(leading),
    )
    compute = functools.partial(weighted, settings)
    like = next(iter(sides.values()))["hidden"][0]
    compute = on_auto_axes(compute, like, len(leading), lambda spec: (PartitionSpec(), (spec,) * len(pieces)))
    total, values = compute(sides, (rows, where, weights), shared)
    return total, {p.name: jax.lax.stop_gradient(v) for p, v in zip(pieces, values, strict=True)}


def _spread(mask: Array, leading: tuple[int, ...]) -> Array:
    if mask.shape != leading[: mask.ndim]:
        raise ValueError(f"The mask has shape {mask.shape}, the logits have tokens {leading}: leading axes must agree.")
    return mask.reshape(mask.shape + (1,) * (len(leading) - mask.ndim))


def _weight(piece: Piece, mask: Array | None, leading: tuple[int, ...]) -> Array | None:
    """The weight of every token of a piece in the sum: of a masked mean."""
    if piece.weight is None:
        return None
    every = jnp.ones(leading, jnp.float32) if mask is None else mask.astype(jnp.float32)
    count = every.sum() if piece.count is None else piece.count
    return every * (piece.weight / jnp.maximum(count, 1.0))


def _token_axes(leading: tuple[int, ...]) -> tuple[str, ...]:
    """The axes of jax.set_mesh's mesh that share the rows of a batch, where they divide them."""
    mesh = jax.sharding.get_abstract_mesh()
    axes = () if mesh.empty else tuple(a for a in BATCH_AXES if mesh.shape.get(a, 1) > 1 and a not in mesh.manual_axes)
    return axes if leading[0] % math.prod(mesh.shape[a] for a in axes) == 0 else ()


def without_built(outputs: Outputs) -> Outputs:
    """Returns the outputs whose projections no longer hold the logits, so that nothing keeps these by accident."""
    features = {
        tap: dataclasses.replace(value, built=None) if isinstance(value, Projected | Likeliest) else value
        for tap, value in outputs.features.items()
    }
    return Outputs(outputs.logits, features)
