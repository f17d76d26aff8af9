"""What a loss or metric by token reads of a step, apart by kind, and its values of a chunk of tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kd_jax.core.terms import UNTRACED, name_of
from kd_jax.models.projected import Likeliest, Projected
from kd_jax.types import Array


class Piece(NamedTuple):
    """A function of logits by token: `fn(*arguments, **options)`, each a Projected, a Likeliest, or anything else.

    The first `inputs` arguments are differentiated if it has a `weight`: of its mean in the sum.
    """

    name: str
    fn: Callable[..., Array]
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]
    inputs: int
    where: Array | None = None
    weight: Array | float | None = None
    count: Array | None = None  # to divide by; None: that of `where`


class Reader:
    """What a piece reads, apart by kind, and its function of a chunk."""

    def __init__(self, piece: Piece, leading: tuple[int, ...], networks: dict[int, tuple[str, Projected]]) -> None:
        tree = (piece.arguments, dict(piece.options))
        leaves, self._structure = jax.tree.flatten(
            tree, is_leaf=lambda x: isinstance(x, Projected | Likeliest) or x is None
        )
        self._piece, self._kinds = piece, []
        self.rows, self.shared = [], []
        for i, leaf in enumerate(leaves):
            if isinstance(leaf, Projected):
                name = networks.setdefault(id(leaf), (f"network{len(networks)}", leaf))[0]
                if leaf.shape[:-1] != leading:
                    where = f"tokens {leading} and {leaf.shape[:-1]}"
                    raise ValueError(f"Term {piece.name!r} reads logits of {where}, which must agree.")
                self._kinds.append(("logits" if i < piece.inputs else "target", name))
            elif isinstance(leaf, Likeliest):
                if leaf.shape[:-1] != leading:
                    raise ValueError(f"Term {piece.name!r} reads {leading} tokens, and stored answers to {leaf.shape}.")
                self._kinds.append(("stored", (len(self.rows), leaf.classes)))
                self.rows += [leaf.values, leaf.ids, leaf.rest]
            elif not isinstance(leaf, jax.Array):
                self._kinds.append(("static", leaf))
            elif leaf.shape[: len(leading)] == leading:
                self._kinds.append(("rows", len(self.rows)))
                self.rows.append(leaf)
            else:
                self._kinds.append(("shared", len(self.shared)))
                self.shared.append(leaf)

    def loss(self, logits: Mapping[str, Array], rows: Sequence[Array], shared: Sequence[Array]) -> Array:
        """Returns the values of a chunk of tokens [n]."""
        places = {
            "logits": lambda name: logits[name],
            "target": lambda name: jax.lax.stop_gradient(logits[name]),
            "stored": lambda at: Likeliest(*rows[at[0] : at[0] + 3], classes=at[1]).logits(),
            "rows": lambda i: rows[i],
            "shared": lambda i: shared[i],
            "static": lambda value: value,
        }
        leaves = [places[kind](what) for kind, what in self._kinds]
        arguments, options = jax.tree.unflatten(self._structure, leaves)
        number = next(iter((*logits.values(), *rows))).shape[0]
        name = name_of(self._piece.fn)
        try:
            values = self._piece.fn(*arguments, **options)
        except (TypeError, ValueError) as e:
            why = str(e).splitlines()[0] if isinstance(e, UNTRACED) else str(e)
            shapes = [jax.tree.map(jnp.shape, x) for x in arguments]
            raise ValueError(f"Term {self._piece.name!r} ({name}) failed on {shapes}: {why}") from e
        if jnp.shape(values) != (number,):
            raise ValueError(
                f"Term {self._piece.name!r}: {name} is marked as a loss by token, and returned {jnp.shape(values)} for "
                f"{number} tokens."
            )
        return values


def by_position(piece: Piece) -> Array:
    """Returns the values [batch, length, ...] of a piece that reads stored answers and no network, by position."""
    leading = next(x for x in piece.arguments if isinstance(x, Likeliest)).shape[:-1]
    read = Reader(piece, leading, {})
    rows = [jnp.moveaxis(x, 1, 0) for x in read.rows]

    def position(rows: Sequence[Array]) -> Array:
        flat = [x.reshape(-1, *x.shape[len(leading) - 1 :]) for x in rows]
        return read.loss({}, flat, read.shared).reshape(rows[0].shape[: len(leading) - 1])

    return jnp.moveaxis(jax.lax.map(position, rows), 0, 1)
