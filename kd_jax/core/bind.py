"""From a scheme and the shape of a batch to the first TrainState; every name in the scheme is checked on the way."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from kd_jax import prng
from kd_jax.core import microbatch, values
from kd_jax.core.paths import STORES, Path, entry_paths
from kd_jax.core.shapes import init_shapes
from kd_jax.core.walk import Shapes, Walk, walk_through
from kd_jax.resolve import near
from kd_jax.system import parallel, precision
from kd_jax.types import Array, PyTree, Scheme, TrainState


def prepared_shapes(scheme: Scheme, batch: Shapes) -> Shapes:
    """Returns the shapes of a training batch after `scheme.prepare`."""
    if scheme.prepare is None:
        return batch
    try:
        return jax.eval_shape(lambda b, k: scheme.prepare(b, k, True), batch, jax.random.key(0))
    except TypeError as e:  # an option that an augmentation does not have
        raise ValueError(f"A batch cannot be prepared as configured: {e}") from e


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


def _check_rows(scheme: Scheme, batch: Shapes, walk: Walk) -> None:
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


def _walk(scheme: Scheme, batch: Shapes) -> Walk:
    return walk_through(scheme, prepared_shapes(scheme, batch), next(iter(batch.values())).shape[0])


def variable_shapes(scheme: Scheme, inputs: Mapping[str, tuple[PyTree, ...]]) -> dict[str, tuple[PyTree, PyTree]]:
    """Returns {role: (params, stats)} of all roles that do not copy another: the `loaded` of init_state, as shapes."""
    new = {n: init_shapes(r.model, inputs[n]) for n, r in scheme.roles.items() if r.initial is None}
    return new | loaded_variables(scheme)


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
