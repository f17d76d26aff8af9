"""From a scheme and the shape of a batch to the first TrainState; every name in the scheme is checked on the way."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax.errors import FlaxError

from kd_jax import prng
from kd_jax.core import chunked, microbatch, values
from kd_jax.core.paths import STORES, Path, connector_of, entry_paths, lookup, roles_read
from kd_jax.core.shapes import apply_shapes, init_shapes, shapes_of
from kd_jax.core.terms import taps_of, term_value
from kd_jax.resolve import near
from kd_jax.system import parallel, precision
from kd_jax.types import Array, Call, Model, Phase, PyTree, Role, Scheme, Stage, Term, TrainState

Shapes = Mapping[str, PyTree]


def prepared_shapes(scheme: Scheme, batch: Shapes) -> Shapes:
    """Returns the shapes of a training batch after `scheme.prepare`."""
    if scheme.prepare is None:
        return batch
    try:
        return jax.eval_shape(lambda b, k: scheme.prepare(b, k, True), batch, jax.random.key(0))
    except TypeError as e:  # an option that an augmentation does not have
        raise ValueError(f"A batch cannot be prepared as configured: {e}") from e


def call_taps(phase: Phase, name: str) -> tuple[str, ...]:
    """Returns the taps of the network called `name` that the terms, metrics and later calls of the phase read."""
    terms = {**phase.terms, **{f"metric {k}": m for k, m in phase.metrics.items()}}
    calls = {f"call {i}": Term(lambda: None, call.inputs) for i, call in enumerate(phase.forward)}
    return taps_of({**terms, **calls}, name)


def evaluated_roles(scheme: Scheme) -> tuple[str, ...]:
    """Returns the roles that evaluation runs, that of the first entry first."""
    entries = (*scheme.evaluate, *([scheme.reference] if scheme.reference else []))
    return tuple(dict.fromkeys(Path.parse(path).call for entry in entries for path in entry_paths(entry)))


def bind(scheme: Scheme, batch: Shapes, accumulate: int = 1) -> tuple[Scheme, dict[str, tuple[PyTree, ...]]]:
    """Returns (the scheme with connectors as roles that its phases call, the input shapes that initialise each role).

    Walks every phase with shapes only. Raises ValueError for an unknown role, group, path or tap, for shapes
    that a loss or a model does not take, and for terms that relate examples where gradients are accumulated.
    """
    _check_names(scheme)
    if accumulate > 1:
        rows = (microbatch.ROWS, microbatch.ROWS // 2)
        few = [{k: jax.ShapeDtypeStruct((n, *x.shape[1:]), x.dtype) for k, x in batch.items()} for n in rows]
        microbatch.check_terms(*(_walk(scheme, shapes).tried for shapes in few))
    walk = _walk(scheme, batch)
    _check_rows(scheme, batch, walk)
    return dataclasses.replace(scheme, roles=walk.roles, stages=walk.stages), walk.inputs


def _check_rows(scheme: Scheme, batch: Shapes, walk: _Walk) -> None:
    """A loss has one value a row. Where another axis is as long by chance, a batch twice as large tells both apart."""
    if all(returned.certain for returned in walk.returned.values()):
        return
    twice = {k: jax.ShapeDtypeStruct((2 * x.shape[0], *x.shape[1:]), x.dtype) for k, x in batch.items()}
    try:
        larger = _walk(scheme, twice)
    except (TypeError, ValueError):  # a network that takes this size alone: there is nothing to compare with
        return
    values.check_rows(walk.returned, larger.returned)


def _check_names(scheme: Scheme) -> None:
    if taken := {*STORES} & {*scheme.roles}:
        raise ValueError(f"The roles {sorted(taken)} need other names: {', '.join(STORES)} are what else a step has.")
    groups = {r.group for r in scheme.roles.values() if r.group}
    for stage in scheme.stages:
        for phase in stage.phases:
            if phase.group not in groups:
                raise ValueError(f"A phase trains group {phase.group!r}, no role is in it. {near(phase.group, groups)}")
    for name in evaluated_roles(scheme):
        if name not in scheme.roles:
            raise ValueError(f"The scheme evaluates role {name!r}. {near(name, scheme.roles)}")


@dataclasses.dataclass
class _Walk:
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
    seen: set[str] = dataclasses.field(default_factory=set)  # roles that were asked for a projection


def _walk(scheme: Scheme, batch: Shapes) -> _Walk:
    size = next(iter(batch.values())).shape[0]
    walk = _Walk(prepared_shapes(scheme, batch), size, dict(scheme.roles))
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


def _bound_phase(walk: _Walk, phase: Phase, extra: Shapes) -> Phase:
    """The phase with the connectors of its terms among its calls; every call and term is tried on shapes."""
    memories = {n: shapes_of(t.memory.first) for n, t in phase.terms.items() if t.memory is not None}
    context = {"batch": walk.batch, "extra": {**extra, **memories}, "step": shapes_of(0), "params": walk.read}
    for call in phase.forward:
        if call.role not in walk.roles:
            raise ValueError(f"A phase calls role {call.role!r}. {near(call.role, walk.roles)}")
        _run(walk, phase, call, context)
    for i, kind in enumerate(("params", "stats")):
        context[kind] = {role: variables[i] for role, variables in walk.variables.items()}
    connectors, terms, size = [], {}, walk.size
    for name, term in phase.terms.items():
        if term.connector is not None:
            connectors.append(_connector(walk, phase, name, term.connector, context))
            term = _connected(term, connectors[-1], context)
        _check_term(name, term, context)
        alone = walk.tried[f"{phase.group}/{name}"] = microbatch.alone(name, term, context)
        walk.returned[f"{phase.group}/{name}"] = values.check_values(name, term, alone, size)
        terms[name] = term
    for name, metric in phase.metrics.items():
        if metric.connector is not None:
            raise ValueError(f"Metric {name!r} has a connector, which nothing would train: leave it out.")
        _check_term(name, metric, context)
    forward = (*phase.forward, *connectors)
    taps = {call.name or call.role: tap for call in forward if (tap := walk.roles[call.role].projection)}
    terms, metrics = ({n: chunked.fused(t, taps) for n, t in some.items()} for some in (terms, phase.metrics))
    bound = dataclasses.replace(phase, forward=forward, terms=terms, metrics=metrics)
    values.check_learned(bound, walk.roles)
    return bound


def _run(walk: _Walk, phase: Phase, call: Call, context: dict[str, Any]) -> None:
    """Puts the shapes of what a call returns into the context."""
    name = call.name or call.role
    inputs = tuple(lookup(context, p) for p in call.inputs)
    walk.inputs.setdefault(call.role, inputs)
    context[name] = _output_shapes(walk, call, call_taps(phase, name), inputs)
    if len(getattr(context[name].logits, "shape", ())) > 2 and call.role not in walk.seen:  # of tokens
        walk.seen.add(call.role)
        role = walk.roles[call.role]
        tap = chunked.projection_tap(role.model, walk.variables[call.role], inputs)
        walk.roles[call.role] = dataclasses.replace(role, projection=tap)


def _connector(walk: _Walk, phase: Phase, name: str, connector: Callable[..., Model], context: dict[str, Any]) -> Call:
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


def _read_params(scheme: Scheme, context: Mapping[str, Any], walk: _Walk) -> dict[str, PyTree]:
    """Shapes of the parameters that calls take as an input ("params.base"), known before any call is made."""
    calls = [call.inputs for stage in scheme.stages for phase in stage.phases for call in phase.forward]
    read = sorted(roles_read(p for paths in (*calls, *(r.inputs for r in scheme.roles.values())) for p in paths))
    for name in read:
        if name not in scheme.roles:
            raise ValueError(f"A network reads the parameters of role {name!r}. {near(name, scheme.roles)}")
        walk.inputs.setdefault(name, tuple(lookup(context, p) for p in scheme.roles[name].inputs))
        walk.variables[name] = init_shapes(scheme.roles[name].model, walk.inputs[name])
    return {name: walk.variables[name][0] for name in read}


def variable_shapes(scheme: Scheme, inputs: Mapping[str, tuple[PyTree, ...]]) -> dict[str, tuple[PyTree, PyTree]]:
    """Returns {role: (params, stats)} of all roles that do not copy another: the `loaded` of init_state, as shapes."""
    new = {n: init_shapes(r.model, inputs[n]) for n, r in scheme.roles.items() if r.initial is None}
    return new | loaded_variables(scheme)


def _output_shapes(walk: _Walk, call: Call, taps: tuple[str, ...], inputs: tuple) -> PyTree:
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


def loaded_variables(scheme: Scheme) -> dict[str, tuple[PyTree, PyTree]]:
    """Returns {role: (params, stats)} of the roles that come with values.

    They are an argument of `init_state`, since a jitted function would hold them as constants.
    """
    return {n: r.initial for n, r in scheme.roles.items() if r.initial is not None and not isinstance(r.initial, str)}


def _first_variables(
    scheme: Scheme, inputs: Mapping[str, tuple[PyTree, ...]], key: Array, loaded: Mapping[str, tuple]
) -> dict[str, tuple]:
    """{role: (params, stats)} at step 0: loaded, or initialised from a stream of `key` of its own, or copied."""
    variables = dict(loaded)
    for name, role in scheme.roles.items():
        if role.initial is None and name not in variables:
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), inputs[name])
            variables[name] = role.model.init(prng.stream(key, f"init/{name}", 0), *zeros)
    for name, role in scheme.roles.items():
        if isinstance(role.initial, str):
            if role.initial not in variables:
                raise ValueError(f"Role {name!r} starts as a copy of {role.initial!r}. {near(role.initial, variables)}")
            variables[name] = jax.tree.map(jnp.copy, variables[role.initial])
    return variables


def init_state(
    scheme: Scheme, inputs: Mapping[str, tuple[PyTree, ...]], key: Array, loaded: Mapping[str, tuple]
) -> TrainState:
    """Returns the TrainState at step 0 (pure; run it under jit to create it sharded)."""
    params: dict[str, dict[str, PyTree]] = {}
    stats, frozen = {}, {}
    for name, (p, s) in _first_variables(scheme, inputs, key, loaded).items():
        role = scheme.roles[name]
        if role.group is None:
            frozen[name] = (precision.stored(p, role.dtype), s)
        else:
            params.setdefault(role.group, {})[name] = p
            stats[name] = s
    terms = {n: t for s in scheme.stages for p in s.phases for n, t in p.terms.items()}
    extra = dict(scheme.extra) | {n: t.memory.first for n, t in terms.items() if t.memory is not None}
    state = TrainState(jnp.int32(0), params, stats, {}, frozen, jax.tree.map(jnp.asarray, extra))
    return init_optimizers(scheme, state, 0)


def create_state(
    scheme: Scheme, first: Callable[[Array, Mapping], TrainState], abstract: TrainState, key: Array
) -> TrainState:
    """Creates the state at step 0 in its shards: no device ever holds a whole network that the rules cut.

    `first(key, loaded)` makes it, `abstract` has its shapes and shardings. A loaded frozen network is not copied where
    its arrays already have the right type and sharding.
    """
    loaded, shardings = loaded_variables(scheme), jax.tree.map(lambda x: x.sharding, abstract)

    def as_loaded(role: str) -> bool:
        """Tells whether the step gets these very arrays, cast to no other type."""
        pairs = zip(jax.tree.leaves(loaded.get(role, ())), jax.tree.leaves(abstract.frozen.get(role, ())), strict=False)
        return role in loaded and role in abstract.frozen and all(a.dtype == b.dtype for a, b in pairs)

    shared = {role: parallel.place(loaded[role], shardings.frozen[role]) for role in abstract.frozen if as_loaded(role)}

    def others(frozen: Mapping) -> dict:
        return {role: v for role, v in frozen.items() if role not in shared}

    def make(key: jax.Array, loaded: Mapping) -> TrainState:
        state = first(key, loaded)
        return state.replace(frozen=others(state.frozen))

    make = jax.jit(make, out_shardings=shardings.replace(frozen=others(shardings.frozen)))
    state = make(key, loaded)
    return state.replace(frozen={**state.frozen, **shared})


def init_optimizers(scheme: Scheme, state: TrainState, stage: int) -> TrainState:
    """Returns the state with new optimizer states for the groups whose optimizer is not that of the stage before."""
    before = {p.group: p.tx for p in scheme.stages[stage - 1].phases} if stage else {}
    opt = dict(state.opt)
    for phase in scheme.stages[stage].phases:
        if before.get(phase.group) is not phase.tx:
            opt[phase.group] = phase.tx.init(state.params[phase.group])
    return state.replace(opt=opt)
