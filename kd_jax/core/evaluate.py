"""Evaluation of a whole split by the task of a scheme, as mergeable sums and what a task collects.

The last batch is padded and masked, never dropped; numbers do not depend on the batch size or the mesh.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.core.bind import evaluated_roles
from kd_jax.core.chunked import answer_of, projection_tap, stands_for
from kd_jax.core.paths import Path, calls_in, entry_paths, lookup, roles_read, taps_in
from kd_jax.models.projected import Likeliest, Projected
from kd_jax.resolve import near
from kd_jax.system import parallel, precision
from kd_jax.types import Array, Model, Outputs, PyTree, Role, Run, Scheme, Task, TrainState

Scored = tuple[dict[str, tuple[Array, Array]], dict[str, Array]]  # (sums, what is collected)


def role_variables(state: TrainState, scheme: Scheme, role: str) -> tuple[PyTree, PyTree]:
    """Returns (params, stats) of a role, wherever the state keeps them."""
    group = scheme.roles[role].group
    if group is not None:
        return state.params[group][role], state.stats[role]
    params, stats = state.frozen[role]
    return precision.restored(params), stats


def extra_inputs(role: Role, extra: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """Returns {position: value} of the inputs that a role reads from TrainState.extra (a graph, a number of bits)."""
    return _inputs_of_kind(role, "extra", extra)


def params_inputs(role: Role, params: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """Returns {position: value} of the inputs that a role reads from `params` {role: parameters} (adapters, a base)."""
    return _inputs_of_kind(role, "params", params)


def _inputs_of_kind(role: Role, kind: str, values: Mapping[str, PyTree]) -> dict[str, PyTree]:
    return {str(i): lookup({kind: values}, p) for i, p in enumerate(role.inputs) if Path.parse(p).kind == kind}


def runs_of(scheme: Scheme, state: TrainState, batch: Mapping[str, Array], key: Array) -> dict[str, Run]:
    """Returns {entry: run} of all that the scheme evaluates, and of its reference, in eval mode.

    `run()` is the Outputs of the entry on the inputs of its role in the prepared `batch`, `run(*inputs)` on others.
    `Outputs.logits` is the value at the entry's path; where several are joined by "+", the logarithm of the mean of
    their probabilities. A network of tokens that taps a `Projected` has it among the features (core.chunked.scores).
    """
    entries = dict.fromkeys((*scheme.evaluate, *([scheme.reference] if scheme.reference else [])))
    paths = [path for entry in entries for path in entry_paths(entry)]
    on_batch: dict[str, Outputs] = {}

    def role_outputs(role: str, inputs: tuple[PyTree, ...]) -> Outputs:
        if not inputs and role in on_batch:
            return on_batch[role]
        params, stats = role_variables(state, scheme, role)
        arguments = inputs
        if not inputs:
            read = roles_read(scheme.roles[role].inputs)
            others = {name: role_variables(state, scheme, name)[0] for name in read}
            context = {"batch": batch, "extra": state.extra, "params": others}
            arguments = tuple(lookup(context, p) for p in scheme.roles[role].inputs)
        model = scheme.roles[role].model

        def tapped(*more: str) -> Outputs:
            taps = {*taps_in(role, paths), *more}
            return model.apply(params, stats, *arguments, train=False, key=key, taps=tuple(sorted(taps)))[0]

        outputs = tapped()
        if len(getattr(outputs.logits, "shape", ())) > 2:  # of tokens
            tap = scheme.roles[role].projection or projection_tap(model, (params, stats), arguments)
            outputs = tapped(tap) if tap else outputs
        if not inputs:
            on_batch[role] = outputs
        return outputs

    def run_of(entry: str) -> Run:
        def run(*inputs: PyTree) -> Outputs:
            parts = [(Path.parse(p).call, p) for p in entry_paths(entry)]
            outputs = {role: role_outputs(role, inputs) for role, _ in parts}
            values = [lookup(outputs, path) for _, path in parts]
            if len(values) == 1:
                return _at_entry(values[0], outputs[parts[0][0]].features)
            return Outputs(averaged(values))

        return run

    for role in evaluated_roles(scheme):  # in this order whatever the task asks for, so that a trace is always the same
        role_outputs(role, ())
    return {entry: run_of(entry) for entry in entries}


def _at_entry(logits: PyTree, features: Mapping[str, Array]) -> Outputs:
    """The outputs of an entry; a projection is a feature of them where it stands for these very logits."""
    unbuilt = (Projected, Likeliest)
    return Outputs(logits, {t: x for t, x in features.items() if not isinstance(x, unbuilt) or stands_for(x, logits)})


def averaged(logits: Sequence[Array]) -> Array:
    """Returns the logarithm of the mean of the probabilities of several networks."""
    stacked = jnp.stack([jax.nn.log_softmax(z) for z in logits])
    return jax.nn.logsumexp(stacked, axis=0) - jnp.log(len(logits))


def answer_at(entry: str, model: Model, params: PyTree, stats: PyTree, inputs: Sequence[PyTree]) -> PyTree:
    """Returns what a single network answers in evaluation at `entry` of Scheme.evaluate, all of whose paths are its."""
    paths = entry_paths(entry)
    (role,) = calls_in(paths)
    key, taps = jax.random.key(0), taps_in(role, paths)
    outputs, _ = model.apply(params, stats, *inputs, train=False, key=key, taps=taps)
    values = [lookup({role: outputs}, path) for path in paths]
    return values[0] if len(values) == 1 else averaged(values)


def unbuilt_at(entry: str, model: Model, params: PyTree, stats: PyTree, inputs: Sequence[PyTree]) -> PyTree:
    """Returns what `answer_at` does, or what its logits are built of where the network taps it (chunked.scores)."""
    paths = entry_paths(entry)
    tap = projection_tap(model, (params, stats), inputs) if len(paths) == 1 else ""
    if not tap:
        return answer_at(entry, model, params, stats, inputs)
    (role,) = calls_in(paths)
    taps = tuple(sorted({*taps_in(role, paths), tap}))
    outputs, _ = model.apply(params, stats, *inputs, train=False, key=jax.random.key(0), taps=taps)
    return answer_of(_at_entry(lookup({role: outputs}, paths[0]), outputs.features))


def scored_by(scheme: Scheme) -> Task:
    """Returns the task of a scheme; ValueError where it has none."""
    if scheme.task is None:
        raise ValueError("The scheme has no task, so nothing says how its networks are scored: Scheme(task=...).")
    return scheme.task


def as_scored(batch: Mapping[str, Any], roles: Iterable[Role]) -> dict[str, Any]:
    """Returns the batch with the entries in place that the roles are scored by (Role.scored)."""
    return {**batch, **{name: batch[theirs] for role in roles for name, theirs in role.scored.items()}}


def make_eval_step(scheme: Scheme, collect_only: bool = False) -> Callable[..., dict[str, Scored]]:
    """Returns (state, batch, key) -> {entry: (sums, collected)} for all that the scheme evaluates.

    With `collect_only` there are no sums: for splits that are not scored themselves.
    """
    task = scored_by(scheme)

    def eval_step(state: TrainState, batch: Mapping[str, Array], key: Array) -> dict[str, Scored]:
        mask = batch["mask"]
        if scheme.prepare is not None:
            batch = scheme.prepare(batch, key, False)
        batch = {**batch, "mask": mask}
        runs = runs_of(scheme, state, batch, key)
        reference = runs[scheme.reference]() if scheme.reference else None
        scored: dict[str, Scored] = {}
        for entry in scheme.evaluate:
            compared = None if entry == scheme.reference else reference
            roles = [scheme.roles[role] for role in calls_in(entry_paths(entry)) if role in scheme.roles]
            scored_batch = as_scored(batch, roles)
            sums = {} if collect_only else dict(task.sums(runs[entry], scored_batch, compared, key))
            collected = dict(task.collect(runs[entry], scored_batch, key)) if task.collect is not None else {}
            scored[entry] = sums, collected
        return scored

    return eval_step


def evaluate(
    step: Callable[..., dict[str, Scored]],
    task: Task,
    state: TrainState,
    batches: Iterable[Mapping[str, Array]],
    key: Array,
    collected: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
) -> dict[str, dict[str, Any]]:
    """Returns {entry: {metric: value}} over all batches of a split; sums are merged in float64 on the host.

    `collected` is {entry: {split: arrays}} of the further splits that the task reads.
    """
    sums, arrays = gather(step, state, batches, key)
    scores = {
        entry: dict(task.finish(sums[entry], {"scored": arrays[entry], **(collected or {}).get(entry, {})}))
        for entry in sums
    }
    for values in scores.values():
        for what, metric in (("headline", task.headline.metric), ("headline's error", task.headline.error)):
            if metric and metric not in values:
                raise ValueError(f"The task's {what} is {metric!r}, which it does not measure. {near(metric, values)}")
    return scores


def gather(
    step: Callable[..., dict[str, Scored]], state: TrainState, batches: Iterable[Mapping[str, Array]], key: Array
) -> tuple[dict[str, Any], dict[str, dict[str, np.ndarray]]]:
    """Returns ({entry: sums}, {entry: collected arrays}) over all batches of a split, padding left out."""
    merged: Any = None
    parts: dict[str, list[dict[str, np.ndarray]]] = {}
    for batch in batches:
        scored = step(state, batch, key)
        sums = {entry: pair[0] for entry, pair in scored.items()}
        sums = jax.tree.map(lambda x: np.asarray(x, np.float64), jax.device_get(sums))
        merged = sums if merged is None else jax.tree.map(np.add, merged, sums)
        if any(pair[1] for pair in scored.values()):
            rows = parallel.on_host(batch["mask"])
            for entry, (_, arrays) in scored.items():
                parts.setdefault(entry, []).append({k: x[rows] for k, x in parallel.on_host(arrays).items()})
    if merged is None:
        raise ValueError("There is nothing to evaluate: the split is empty.")
    joined = {
        entry: {name: np.concatenate([part[name] for part in pieces]) for name in pieces[0]}
        for entry, pieces in parts.items()
    }
    return merged, {entry: joined.get(entry, {}) for entry in merged}
