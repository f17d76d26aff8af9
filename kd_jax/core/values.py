"""What the loss of a term returns, tried on shapes: float values, the batch first, that training can change."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Var

from kd_jax.core.microbatch import Tried
from kd_jax.core.paths import Path, lookup
from kd_jax.core.terms import name_of, term_values
from kd_jax.types import Phase, Role, Term


@dataclasses.dataclass(frozen=True)
class Returned:
    """The shape of a loss' values, and those of its inputs, for a batch of `size` examples."""

    term: str
    loss: str
    size: int
    values: tuple[int, ...]
    inputs: tuple[tuple[int, ...], ...]

    @property
    def certain(self) -> bool:
        """Tells whether the first axis can only be the batch, since no other axis of the inputs is as long."""
        return self.values[0] == self.size and not any(self.size in shape[1:] for shape in self.inputs)


def check_values(name: str, term: Term, tried: Tried, size: int) -> Returned:
    """Returns the shapes of a loss; ValueError unless it returns float values that have a gradient.

    `tried` is microbatch.alone of the term on a batch of `size` examples.
    """
    alone, read = tried
    leaves, structure = jax.tree.flatten([lookup(read, path) for path in alone.inputs])
    kwargs = {k: v(jnp.int32(0)) if callable(v) else v for k, v in term.kwargs.items()}
    places = [(where.kind, where.owner) for where in map(Path.parse, alone.inputs)]
    others = {kind: {k: v for k, v in held.items() if (kind, k) not in places} for kind, held in read.items()}

    def values(inputs: list[Any], others: Mapping[str, Any]) -> jax.Array:
        context = {kind: dict(held) for kind, held in others.items()}
        for (kind, owner), value in zip(places, jax.tree.unflatten(structure, inputs), strict=True):
            context[kind][owner] = value
        return term_values(name, alone, context, kwargs)[0]

    made, loss = jax.eval_shape(values, leaves, others), name_of(term.fn)
    shapes = tuple(leaf.shape for leaf in leaves)
    returned = Returned(name, loss, size, made.shape, shapes)
    if not jnp.issubdtype(made.dtype, jnp.floating):
        raise ValueError(f"Term {name!r}: a loss returns float values, {loss} returned {made.dtype}{list(made.shape)}.")
    floats = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]

    def gradients(inputs: list[Any], others: Mapping[str, Any], cotangent: jax.Array) -> list[jax.Array]:
        def of_floats(changed: list[jax.Array]) -> jax.Array:
            new = dict(zip(floats, changed, strict=True))
            return values([new.get(i, leaf) for i, leaf in enumerate(inputs)], others)

        return jax.vjp(of_floats, [inputs[i] for i in floats])[1](cotangent)[0]

    try:
        learned = bool(floats) and _reads_last(gradients, leaves, others, made)
    except (TypeError, ValueError) as e:  # the values could be computed: it is the way back that fails
        raise ValueError(f"Term {name!r}: {loss} cannot be differentiated: {e}") from e
    if not learned:
        raise ValueError(
            f"Term {name!r}: {loss} has no gradient: its value does not change with {', '.join(term.inputs)} (an "
            "argmax, a rounding or a stop_gradient?), so nothing would be learned from it."
        )
    return returned


def check_rows(few: Mapping[str, Returned], many: Mapping[str, Returned]) -> None:
    """Raises ValueError for a loss whose first axis is not the batch, by its shapes for two sizes of a batch.

    It grows as the batch does, or as that of an input (the views of a batch). A loss of what is no batch (parameters,
    all nodes of a graph) may have any.
    """
    for name, one in few.items():
        other = many[name]
        pairs = {(a[0], b[0]) for a, b in zip(one.inputs, other.inputs, strict=True) if a and b}
        growing = {pair for pair in pairs if len({*pair}) == 2}
        if growing and (one.values[0], other.values[0]) not in {*growing, (one.size, other.size)}:
            raise _not_by_row(one)


def check_learned(phase: Phase, roles: Mapping[str, Role]) -> None:
    """Raises ValueError for a term whose inputs all come from elsewhere than the networks that the phase trains."""
    learning: set[str] = set()

    def learns(paths: Iterable[str]) -> bool:
        parsed = [Path.parse(path) for path in paths]
        trained = (p.kind == "params" and p.owner in roles and roles[p.owner].group == phase.group for p in parsed)
        return any(p.call in learning for p in parsed) or any(trained)

    for call in phase.forward:
        if roles[call.role].group == phase.group or learns(call.inputs):
            learning.add(call.name or call.role)
    for name, term in phase.terms.items():
        if not learns(term.inputs):
            raise ValueError(
                f"Term {name!r}: no input of {', '.join(term.inputs)} comes from a network that is trained here "
                f"({', '.join(sorted(learning))}), so nothing would be learned from it. Inputs are differentiated, "
                "targets are not."
            )


def _not_by_row(returned: Returned) -> ValueError:
    return ValueError(
        f"Term {returned.term!r}: a loss returns one value an example, the batch as first axis; {returned.loss} "
        f"returned {list(returned.values)} for inputs of {', '.join(map(str, map(list, returned.inputs)))}."
    )


def _reads_last(function: Any, *shapes: Any) -> bool:
    """Tells whether what a function returns depends on its last argument, an array, as far as its equations show."""
    jaxpr = jax.make_jaxpr(function)(*shapes).jaxpr
    reached = {jaxpr.invars[-1]}
    for equation in jaxpr.eqns:
        if any(isinstance(v, Var) and v in reached for v in equation.invars):
            reached.update(equation.outvars)
    return any(isinstance(v, Var) and v in reached for v in jaxpr.outvars)
