"""A walk through the phases of a scheme by shapes alone: every call is made and every term tried, once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax.errors import FlaxError

from kd_jax.core import chunked, microbatch, values
from kd_jax.core.paths import Path, connector_of, lookup, roles_read
from kd_jax.core.shapes import apply_shapes, init_shapes, shapes_of
from kd_jax.core.terms import taps_of, term_value
from kd_jax.resolve import near
from kd_jax.types import Call, Model, Phase, PyTree, Role, Scheme, Stage, Term

Shapes = Mapping[str, PyTree]


def call_taps(phase: Phase, name: str) -> tuple[str, ...]:
    """Returns the taps of the network called `name` that the terms, metrics and later calls of the phase read."""
    terms = {**phase.terms, **{f"metric {k}": m for k, m in phase.metrics.items()}}
    calls = {f"call {i}": Term(lambda: None, call.inputs) for i, call in enumerate(phase.forward)}
    return taps_of({**terms, **calls}, name)


@dataclasses.dataclass
class Walk:
    """What a walk through the phases of a scheme has gathered, by shapes alone."""

    batch: Shapes  # as prepared
    size: int  # of the batch
    roles: dict[str, Role]  # those of the scheme and the connectors
    stages: tuple[Stage, ...] = ()  # with the connectors called
    inputs: dict[str, tuple[PyTree, ...]] = dataclasses.field(default_factory=dict)  # that initialise each role
    variables: dict[str, tuple[PyTree, PyTree]] = dataclasses.field(default_factory=dict)  # of each role that was run
    read: dict[str, PyTree] = dataclasses.field(default_factory=dict)  # parameters that calls have as an input
    tried: dict[str, microbatch.Tried] = dataclasses.field(default_factory=dict)  # every term, what it reads
    returned: dict[str, values.Returned] = dataclasses.field(default_factory=dict)  # of every term
    probed: set[str] = dataclasses.field(default_factory=set)  # roles that were asked for a projection


def walk_through(scheme: Scheme, batch: Shapes, size: int) -> Walk:
    """Walks through all phases with a batch as prepared, of `size` examples before; ValueError as core.bind.bind."""
    walk = Walk(batch, size, dict(scheme.roles))
    outside = {"batch": walk.batch, "extra": shapes_of(dict(scheme.extra))}
    walk.read = _read_params(scheme, outside, walk)
    bound: dict[int, tuple[Phase, ...]] = {}  # stages that share a tuple of phases share a program
    for stage in scheme.stages:
        if id(stage.phases) not in bound:
            bound[id(stage.phases)] = tuple(_bound_phase(walk, phase, outside["extra"]) for phase in stage.phases)
        walk.stages += (dataclasses.replace(stage, phases=bound[id(stage.phases)]),)
    for name, role in walk.roles.items():
        if name not in walk.inputs:  # evaluated only, or a copy of another role
            walk.inputs[name] = tuple(lookup({**outside, "params": walk.read}, p) for p in role.inputs)
    return walk


def _bound_phase(walk: Walk, phase: Phase, extra: Shapes) -> Phase:
    """The phase with the connectors of its terms among its calls; every call and term is tried on shapes."""
    phase = _as_written(walk, phase)
    memories = {n: shapes_of(t.memory.first) for n, t in phase.terms.items() if t.memory is not None}
    context = {"batch": walk.batch, "extra": {**extra, **memories}, "step": shapes_of(0), "params": walk.read}
    for call in phase.forward:
        if call.role not in walk.roles:
            raise ValueError(f"A phase calls role {call.role!r}. {near(call.role, walk.roles)}")
        _run(walk, phase, call, context)
    for i, kind in enumerate(("params", "stats")):
        context[kind] = {role: variables[i] for role, variables in walk.variables.items()}
    terms, connectors = _bound_terms(walk, phase, context)
    for name, metric in phase.metrics.items():
        if metric.connector is not None:
            raise ValueError(f"Metric {name!r} has a connector, which nothing would train: leave it out.")
        _check_term(name, metric, context)
    forward = (*phase.forward, *connectors)
    taps = _taps(walk, forward)
    terms, metrics = ({n: chunked.fused(t, taps) for n, t in some.items()} for some in (terms, phase.metrics))
    bound = dataclasses.replace(phase, forward=forward, terms=terms, metrics=metrics)
    values.check_learned(bound, walk.roles)
    return bound


def _taps(walk: Walk, calls: Iterable[Call]) -> dict[str, str]:
    """{call: tap of its projection}, of those that have one."""
    taps = {call.name or call.role: walk.roles[call.role].projection for call in calls if call.role in walk.roles}
    return {name: tap for name, tap in taps.items() if tap}


def _as_written(walk: Walk, phase: Phase) -> Phase:
    """The phase with terms that read logits again, where an earlier binding had them read projections."""
    taps = _taps(walk, phase.forward)
    if not taps:
        return phase
    terms, metrics = (chunked.with_logits(some, taps) for some in (phase.terms, phase.metrics))
    return dataclasses.replace(phase, terms=terms, metrics=metrics)


def _bound_terms(walk: Walk, phase: Phase, context: dict[str, Any]) -> tuple[dict[str, Term], list[Call]]:
    """(the terms as tried, which read the outputs of their connectors; the calls of these)."""
    terms, connectors = {}, []
    for name, term in phase.terms.items():
        if term.connector is not None:
            connectors.append(_connector(walk, phase, name, term.connector, context))
            term = _connected(term, connectors[-1], context)
        _check_term(name, term, context)
        alone = walk.tried[f"{phase.group}/{name}"] = microbatch.alone(name, term, context)
        walk.returned[f"{phase.group}/{name}"] = values.check_values(name, term, alone, walk.size)
        terms[name] = term
    return terms, connectors


def _run(walk: Walk, phase: Phase, call: Call, context: dict[str, Any]) -> None:
    """Puts the shapes of what a call returns into the context."""
    name = call.name or call.role
    inputs = tuple(lookup(context, p) for p in call.inputs)
    walk.inputs.setdefault(call.role, inputs)
    context[name] = _output_shapes(walk, call, call_taps(phase, name), inputs)
    if len(getattr(context[name].logits, "shape", ())) > 2 and call.role not in walk.probed:  # of tokens
        walk.probed.add(call.role)
        role = walk.roles[call.role]
        tap = chunked.projection_tap(role.model, walk.variables[call.role], inputs, call.train)
        walk.roles[call.role] = dataclasses.replace(role, projection=tap)


def _connector(walk: Walk, phase: Phase, name: str, connector: Callable[..., Model], context: dict[str, Any]) -> Call:
    """The call of a term's connector, which is a role from here on."""
    term, role = phase.terms[name], connector_of(name)
    if Path.parse(role).call != role:
        raise ValueError(f"Term {name!r} needs another name: '.' and '@' part the words of the path to its connector.")
    if role not in walk.roles:
        paths = (*term.inputs, *term.targets)
        try:
            model = connector(*(lookup(context, p) for p in paths))
        except TypeError as e:
            raise ValueError(
                f"Term {name!r}: its connector gets the shapes of inputs and targets ({', '.join(paths)}): {e}"
            ) from e
        walk.roles[role] = Role(model, term.inputs, phase.group)
    call = Call(role, term.inputs)
    _run(walk, phase, call, context)
    return call


def _connected(term: Term, call: Call, context: Mapping[str, Any]) -> Term:
    """The term that reads its connector's output, or the parts of it where it is a tuple."""
    output, path = context[call.role].logits, Path("logits", call.role)
    several = range(len(output)) if isinstance(output, tuple) else ()
    parts = [dataclasses.replace(path, rest=(str(i),)) for i in several] or [path]
    return dataclasses.replace(term, inputs=tuple(map(str, parts)), connector=None)


def _read_params(scheme: Scheme, context: Mapping[str, Any], walk: Walk) -> dict[str, PyTree]:
    """Shapes of the parameters that calls take as an input ("params.base"), known before any call is made."""
    calls = [call.inputs for stage in scheme.stages for phase in stage.phases for call in phase.forward]
    read = sorted(roles_read(p for paths in (*calls, *(r.inputs for r in scheme.roles.values())) for p in paths))
    for name in read:
        if name not in scheme.roles:
            raise ValueError(f"A network reads the parameters of role {name!r}. {near(name, scheme.roles)}")
        walk.inputs.setdefault(name, tuple(lookup(context, p) for p in scheme.roles[name].inputs))
        walk.variables[name] = init_shapes(scheme.roles[name].model, walk.inputs[name])
    return {name: walk.variables[name][0] for name in read}


def _output_shapes(walk: Walk, call: Call, taps: tuple[str, ...], inputs: tuple) -> PyTree:
    model = walk.roles[call.role].model
    try:
        if call.role not in walk.variables:
            walk.variables[call.role] = init_shapes(model, walk.inputs[call.role])
        return apply_shapes(model, walk.variables[call.role], inputs, call.train, taps)
    except (TypeError, ValueError, KeyError, FlaxError) as e:
        shapes = dict(zip(call.inputs, jax.tree.map(lambda x: x.shape, inputs), strict=True))
        raise ValueError(f"Role {call.role!r} cannot take {shapes}: {e}") from e


def _check_term(name: str, term: Term, context: Mapping[str, Any]) -> None:
    def value_of(context: Mapping[str, Any]) -> Any:
        kwargs = {k: v(jnp.int32(0)) if callable(v) else v for k, v in term.kwargs.items()}
        return term_value(name, term, context, kwargs)

    jax.eval_shape(value_of, context)
