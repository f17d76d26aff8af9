"""Whether a loss from hidden states computes the logits that its network computes, from the network's jaxpr alone.

The losses of losses/vocabulary.py multiply the hidden states by the head themselves. What else a network does between
the two, a soft cap for example, they only do where they are told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import Literal

from kd_jax.core.paths import Path, lookup
from kd_jax.core.terms import plain_function
from kd_jax.losses.vocabulary import FUSED
from kd_jax.types import Model, Phase, PyTree, Role, Term

SIDES = ("student", "teacher")  # of such a loss, each with hidden states and a head
# What moves values or adds a bias, beside the one product with the head.
_PLAIN = {
    *("add", "convert_element_type", "reshape", "broadcast_in_dim", "transpose", "squeeze", "expand_dims", "slice"),
    *("sharding_constraint", "copy", "name", "optimization_barrier", "dot_general"),
}
_CAP = {"tanh", "mul", "div"}


class Tail(NamedTuple):
    """What a network computes between a tap and its logits: the names of the operations, and the scale of a tanh."""

    operations: tuple[str, ...]
    softcap: float | None


def check_heads(phase: Phase, roles: Mapping[str, Role], context: Mapping[str, Any]) -> None:
    """Raises ValueError where a fused loss of the phase leaves out what its network does to the logits.

    `context` has, in shapes, what the calls read, and "variables" {role: (params, stats)}.
    """
    calls = {call.name or call.role: call for call in phase.forward}
    for name, term in phase.terms.items():
        if plain_function(term.fn) not in FUSED:
            continue
        paths = [Path.parse(p) for p in (*term.inputs, *term.targets)]
        for side, hidden, head in zip(SIDES, paths[::2], paths[1::2], strict=False):
            call = calls.get(hidden.call)
            if hidden.kind == "features" and head.kind == "params" and call and call.role == head.owner:
                inputs = [lookup(context, p) for p in call.inputs]
                tail = tail_of(roles[call.role].model, context["variables"][call.role], inputs, hidden.tap)
                _check_side(name, term, side, str(hidden), tail, lookup(context, str(head)))


def _check_side(name: str, term: Term, side: str, hidden: str, tail: Tail | None, head: PyTree) -> None:
    if tail is None:  # the logits are made of something else
        return
    others, option = sorted({*tail.operations} - _PLAIN), f"{side}_softcap"
    capped = term.kwargs.get(option)
    where = f"Term {name!r}: between {hidden!r} and the logits"
    if tail.softcap is not None and {*others} <= _CAP:
        if capped is None:
            raise ValueError(
                f"{where} the network has a soft cap, and the loss is not told of it: kwargs {option}={tail.softcap}."
            )
        if isinstance(capped, (int, float)) and not np.isclose(capped, tail.softcap):
            raise ValueError(f"{where} the network has a soft cap of {tail.softcap}, and {option} is {capped}.")
    elif others:
        raise ValueError(f"{where} the network computes {', '.join(others)}, which this loss leaves out.")
    elif capped:
        raise ValueError(f"{where} the network has no soft cap, and {option} is {capped}.")
    biased = "bias" in head if isinstance(head, Mapping) else f"{side}_bias" in {**term.options, **term.kwargs}
    if "add" in tail.operations and not biased:
        raise ValueError(f"{where} the network adds a bias, and the loss gets none: {side}_bias, or the whole layer.")


def tail_of(model: Model, variables: tuple[PyTree, PyTree], inputs: Sequence[PyTree], tap: str) -> Tail | None:
    """Returns what lies between a tap and the logits of a network; None where the logits do not come from the tap.

    Shapes are enough.
    """

    def run(variables: tuple[PyTree, PyTree], *inputs: PyTree) -> Any:
        outputs, _ = model.apply(*variables, *inputs, train=False, key=jax.random.key(0), taps=(tap,))
        return outputs.logits, outputs.features[tap]

    jaxpr = jax.make_jaxpr(run)(variables, *inputs).jaxpr
    if len(jaxpr.outvars) != 2:
        return None
    jaxpr, target, source = _innermost(jaxpr, *jaxpr.outvars)
    equations: list[Any] = []
    if target not in _follow(jaxpr, {source}, {target}, equations) or target is source:
        return None
    return Tail(tuple(eqn.primitive.name for eqn in equations), _cap_of(equations))


def _innermost(jaxpr: Any, target: Any, source: Any) -> tuple[Any, Any, Any]:
    """The jaxpr in which the two values are made by different equations: a jitted part may make both."""
    for eqn in jaxpr.eqns:
        if target in eqn.outvars and source in eqn.outvars and (inner := _inner(eqn)) is not None:
            made = dict(zip(map(id, eqn.outvars), inner.outvars, strict=True))
            return _innermost(inner, made[id(target)], made[id(source)])
    return jaxpr, target, source


def _inner(eqn: Any) -> Any:
    """The jaxpr that an equation calls with its own inputs; None of loops, branches and all others."""
    if eqn.primitive.name in ("scan", "while", "cond"):
        return None
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if key in eqn.params:
            jaxpr = getattr(eqn.params[key], "jaxpr", eqn.params[key])
            return jaxpr if len(jaxpr.invars) == len(eqn.invars) else None
    return None


def _follow(jaxpr: Any, sources: set[Any], targets: Iterable[Any], equations: list[Any]) -> set[Any]:
    """Adds the equations between the sources and the targets; returns the values that depend on both."""
    needed, between = _needed(jaxpr, sources, targets)
    reached = set(sources)
    for eqn in reversed(between):
        read = [not isinstance(v, Literal) and v in reached for v in eqn.invars]
        if not any(read):
            continue
        inner = _inner(eqn)
        if inner is None:
            equations.append(eqn)
            reached |= {*eqn.outvars}
            continue
        inside = {v for v, depends in zip(inner.invars, read, strict=True) if depends}
        wanted = [v for v, out in zip(inner.outvars, eqn.outvars, strict=True) if id(out) in needed]
        made = _follow(inner, inside, wanted, equations)
        pairs = zip(inner.outvars, eqn.outvars, strict=True)
        reached |= {out for v, out in pairs if not isinstance(v, Literal) and v in made}
    return reached


def _needed(jaxpr: Any, sources: set[Any], targets: Iterable[Any]) -> tuple[set[int], list[Any]]:
    """The ids of the values that the targets depend on, and the equations that make them, the last first."""
    needed, equations = {id(v) for v in targets}, []
    for eqn in reversed(jaxpr.eqns):
        if any(id(v) in needed for v in eqn.outvars) and not any(v in sources for v in eqn.outvars):
            needed |= {id(v) for v in eqn.invars}
            equations.append(eqn)
    return needed, equations


def _cap_of(equations: Sequence[Any]) -> float | None:
    """The number by which what tanh returns is multiplied."""
    values: set[int] = set()
    for eqn in equations:
        if eqn.primitive.name == "tanh":
            values |= {id(v) for v in eqn.outvars}
        elif eqn.primitive.name == "mul" and any(id(v) in values for v in eqn.invars):
            scales = [v.val for v in eqn.invars if isinstance(v, Literal)]
            return float(scales[0]) if scales else None
    return None
