"""The one training step: for each phase run its calls, sum its terms, differentiate, update. Nothing else does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from kd_jax import prng
from kd_jax.core import chunked, microbatch
from kd_jax.core.paths import Path, lookup
from kd_jax.core.terms import options_of, term_value
from kd_jax.core.walk import call_taps
from kd_jax.resolve import near
from kd_jax.system import precision
from kd_jax.types import Array, Call, Outputs, Phase, PyTree, Scheme, Stage, TrainState

Metrics = dict[str, tuple[Array, Array]]
Answers = Mapping[str, Outputs]  # what frozen networks said to the batch, by the call of a phase


@dataclasses.dataclass(frozen=True)
class _Feed:
    """What an update reads beside the state: a prepared batch, answers to it, the phase's hyper-parameters, a key."""

    batch: Mapping[str, Array]
    answers: Answers
    hyper: Mapping[str, Any]
    key: Array


def make_train_step(scheme: Scheme, stage: Stage, accumulate: int = 1) -> Callable[..., tuple[TrainState, Metrics]]:
    """Returns (state, batch, hyper, key) -> (state, {name: (sum, count)}), pure and jittable, of a bound scheme.

    `key` is the root of the seed, or a prng.Keys where the pictures have another.

    With `accumulate` = n every phase runs n microbatches one after the other and adds their gradients: the memory of
    one, the update of the whole batch. A term is a ratio sum / count, so the sums are divided by the counts of the
    whole batch, which are added up first: masks may leave each microbatch another number of examples. What differs by
    its nature: BatchNorm averages over a microbatch (and its running averages move n times a step), and every
    microbatch has random numbers of its own for dropout. A term that relates examples (a relation, a contrast, a
    memory) would be another loss: `bind` refuses it.
    """
    step = make_prepared_step(scheme, stage, accumulate)

    def train_step(state: TrainState, batch: Mapping, hyper: Mapping, key: Array | prng.Keys):
        root, view = key if isinstance(key, prng.Keys) else (key, key)
        return step(state, prepared(scheme, batch, view), hyper, root)

    return train_step


def make_prepared_step(scheme: Scheme, stage: Stage, accumulate: int = 1) -> Callable[..., tuple[TrainState, Metrics]]:
    """Returns (state, prepared batch, hyper, key, answers) -> (state, metrics), the step after its preparation.

    `answers`, as `answered` gives them, has a mapping for each phase: calls that are in it are not made again.
    """

    def train_step(state: TrainState, batch: Mapping, hyper: Mapping, key: Array, answers: Sequence[Answers] = ()):
        if stage.pre_update is not None:
            with jax.named_scope("pre_update"):
                batch = replaced(batch, stage.pre_update(state, batch, prng.stream(key, "pre_update", state.step)))
        metrics: Metrics = {}
        context: dict[str, Any] = {}
        for phase, said in zip(stage.phases, answers or [{}] * len(stage.phases), strict=True):
            feed = _Feed(batch, said, hyper[phase.group], key)
            state, values, context = _update(scheme, stage, phase, state, feed, accumulate)
            prefix = f"{phase.group}/" if len(stage.phases) > 1 else ""
            for name, value in values.items():  # several phases of a group: the mean over them
                before = metrics.get(prefix + name)
                metrics[prefix + name] = value if before is None else jax.tree.map(jnp.add, before, value)
        if stage.post_update is not None:
            state = stage.post_update(state, context)
        return state.replace(step=state.step + 1), metrics

    return train_step


def prepared(scheme: Scheme, batch: Mapping[str, Array], key: Array) -> Mapping[str, Array]:
    """Returns the batch as the calls read it."""
    if scheme.prepare is None:
        return batch
    with jax.named_scope("prepare"):
        # The same key in every step: one view of one example is one picture, whose answer can be kept.
        return scheme.prepare(batch, prng.stream(key, "prepare", 0), True)


def answered(
    scheme: Scheme, stage: Stage, state: TrainState, batch: Mapping[str, Array], key: Array
) -> tuple[Mapping[str, Array], tuple[Answers, ...]]:
    """Prepares the batch and runs the frozen networks that read it alone, once for all runs that share this step."""
    batch, answers = prepared(scheme, batch, key), []
    outputs: dict[tuple, Outputs] = {}  # phases that make the same call share its answer
    for phase in stage.phases if stage.pre_update is None else ():
        said = {}
        for call in phase.forward:
            name = call.name or call.role
            of_batch = all(Path.parse(p).kind == "batch" for p in call.inputs)
            if scheme.roles[call.role].group is None and of_batch:
                same = (call.role, call.inputs, call_taps(phase, name))
                if same not in outputs:
                    outputs[same] = _answer(scheme, phase, call, state, batch, key)
                said[name] = outputs[same]
        answers.append(said)
    return batch, tuple(answers)


def _answer(
    scheme: Scheme, phase: Phase, call: Call, state: TrainState, batch: Mapping[str, Array], key: Array
) -> Outputs:
    name, (params, stats), role = call.name or call.role, state.frozen[call.role], scheme.roles[call.role]
    inputs = (lookup({"batch": batch}, p) for p in call.inputs)
    key, taps = prng.stream(key, name, state.step), call_taps(phase, name)
    with jax.named_scope(name):
        params = precision.restored(params)
        outputs, _ = role.model.apply(params, stats, *inputs, train=role.training, key=key, taps=taps)
        return chunked.without_built(outputs)


def replaced(batch: Mapping[str, Array], entries: Mapping[str, Array]) -> dict[str, Array]:
    """Returns the batch with other values under the same names; ValueError where a name, shape or type differs."""
    for name, value in entries.items():
        old = batch.get(name)
        if old is None or (old.shape, old.dtype) != (value.shape, value.dtype):
            wanted = near(name, batch) if old is None else f"{old.dtype}{old.shape}, not {value.dtype}{value.shape}"
            raise ValueError(f"pre_update replaces entries of the prepared batch; {name!r}: {wanted}")
    return {**batch, **entries}


def _update(
    scheme: Scheme, stage: Stage, phase: Phase, state: TrainState, feed: _Feed, accumulate: int
) -> tuple[TrainState, Metrics, dict[str, Any]]:
    """(the state after one phase, its metrics, its context)."""
    if accumulate == 1:
        differentiated = jax.value_and_grad(_loss_of(scheme, phase, state, feed), has_aux=True)
        (loss, (metrics, stats, extra, context)), grads = differentiated(state.params[phase.group])
    else:
        (loss, (metrics, stats, extra, context)), grads = _accumulated(scheme, stage, phase, state, feed, accumulate)
    with jax.named_scope(f"update_{phase.group}"):
        params = state.params[phase.group]
        updates, opt = phase.tx.update(grads, state.opt[phase.group], params)
        updates = jax.tree.map(lambda u: u * feed.hyper["learning_rate_scale"].astype(u.dtype), updates)
        params = optax.apply_updates(params, updates)
    metrics["loss"] = (loss, jnp.float32(1.0))
    metrics["gradient_norm"] = (optax.tree.norm(grads), jnp.float32(1.0))
    changed = {"params": {**state.params, phase.group: params}, "opt": {**state.opt, phase.group: opt}}
    return state.replace(**changed, stats=stats, extra=extra), metrics, context


def _loss_of(
    scheme: Scheme, phase: Phase, state: TrainState, feed: _Feed, counts: Mapping[str, Array] | None = None
) -> Callable[[PyTree], tuple]:
    """parameters of the group -> (loss, (metrics, stats, extra, context)) of a batch.

    With the `counts` of the terms over a whole batch, the share of a microbatch in its loss.
    """

    def loss_of(group_params: PyTree) -> tuple:
        context, stats = forward(scheme, phase, state, group_params, feed.batch, feed.key, feed.answers)
        loss, metrics, extra, pieces = jnp.float32(0.0), {}, dict(state.extra), []
        for name, term in phase.terms.items():
            weight, kwargs = options_of(term, feed.hyper["terms"][name], state.step)
            if chunked.is_fused(term, context):
                count = None if counts is None else counts[name]
                pieces.append(chunked.piece_of(name, term, context, kwargs, weight, count))
                metrics[name] = None  # keeps the order of the terms
                continue
            with jax.named_scope(name):
                total, count, inputs = term_value(name, term, context, kwargs)
            loss += weight * total / jnp.maximum(count if counts is None else counts[name], 1.0)
            metrics[name] = (total, count)
            if term.memory is not None:
                extra[name] = jax.lax.stop_gradient(term.memory.update(extra[name], inputs, context))
        for name, metric in phase.metrics.items():
            if chunked.is_fused(metric, context):
                pieces.append(chunked.piece_of(name, metric, context, metric.kwargs))
            else:
                metrics[name] = term_value(name, metric, context, metric.kwargs)[:2]
        if pieces:
            with jax.named_scope("chunked_terms"):
                share, sums = chunked.sums_of(pieces)
            loss, metrics = loss + share, metrics | sums
        return loss, (metrics, stats, extra, context)

    return loss_of


def _accumulated(
    scheme: Scheme, stage: Stage, phase: Phase, state: TrainState, feed: _Feed, parts: int
) -> tuple[tuple[Array, tuple], PyTree]:
    """((loss, (metrics, stats, extra, context)), gradients) of a whole batch in microbatches."""
    calls = [call.name or call.role for call in phase.forward] if stage.post_update else []

    def part(number: Array, rows: Mapping, stats: PyTree, counts: Mapping | None) -> Callable[[PyTree], tuple]:
        fed = dataclasses.replace(feed, **rows, key=prng.stream(feed.key, "microbatch", number))
        loss_of = _loss_of(scheme, phase, state.replace(stats=stats), fed, counts)

        def reduced(params: PyTree) -> tuple:  # of the context only what a hook after the step may read
            loss, (metrics, stats, _, context) = loss_of(params)
            return loss, (metrics, stats, {name: context[name] for name in calls})

        return reduced

    rows, size = {"batch": dict(feed.batch), "answers": dict(feed.answers)}, len(feed.batch["index"])
    variables = (state.params[phase.group], state.stats)
    (loss, metrics, stats, outputs), grads = microbatch.gradients(part, *variables, rows, size, parts)
    context = {"batch": feed.batch, "extra": state.extra, "step": state.step, **outputs}
    return (loss, (metrics, stats, dict(state.extra), context)), grads


def forward(
    scheme: Scheme,
    phase: Phase,
    state: TrainState,
    group_params: PyTree,
    batch: Mapping[str, Array],
    key: Array,
    answers: Answers | None = None,
) -> tuple[dict[str, Any], dict[str, PyTree]]:
    """Runs the calls of the phase; returns (context, new stats). Only roles that the phase trains change stats."""
    answers = answers or {}
    variables = _variables(scheme, state, phase.group, group_params)
    context: dict[str, Any] = {
        "batch": batch,
        "extra": state.extra,
        "params": {name: params for name, (params, _) in variables.items()},
        "stats": {name: stats for name, (_, stats) in variables.items()},
        "step": state.step,
    }
    new_stats = dict(state.stats)
    for call in phase.forward:
        name, role = call.name or call.role, scheme.roles[call.role]
        if name in answers:
            context[name] = answers[name]
            continue
        inputs = tuple(lookup(context, p) for p in call.inputs)
        with jax.named_scope(name):
            outputs, stats = role.model.apply(
                variables[call.role][0],
                new_stats.get(call.role, variables[call.role][1]),
                *inputs,
                train=call.train if role.group is not None else role.training,
                key=prng.stream(key, name, state.step),
                taps=call_taps(phase, name),
            )
            context[name] = chunked.without_built(outputs)
        if call.train and role.group == phase.group:
            new_stats[call.role] = stats
    return context, new_stats


def _variables(scheme: Scheme, state: TrainState, group: str, group_params: PyTree) -> dict[str, tuple[PyTree, PyTree]]:
    """{role: (params, stats)}, with the parameters that are being differentiated in place of the state's."""
    variables = {}
    for name, role in scheme.roles.items():
        if role.group is None:
            params, stats = state.frozen[name]
            variables[name] = (jax.lax.stop_gradient(precision.restored(params)), stats)
        else:
            params = group_params if role.group == group else state.params[role.group]
            variables[name] = (params[name], state.stats[name])
    return variables


def make_train_steps(step: Callable, batch_of: Callable[[PyTree, Array], Mapping[str, Array]]) -> Callable:
    """Makes (state, data, rows [n, ...], hyper, key) -> (state, {name: (sums [n], counts [n])}): n steps in a program.

    `batch_of(data, rows[i])` is the batch of step i; the data stay on the device. The result equals n calls of `step`.
    """

    def train_steps(
        state: TrainState, data: PyTree, rows: Array, hyper: Mapping, key: Array
    ) -> tuple[TrainState, Metrics]:
        def one(state: TrainState, row: Array) -> tuple[TrainState, Metrics]:
            return step(state, batch_of(data, row), hyper, key)

        return jax.lax.scan(one, state, rows, unroll=microbatch.unroll(rows.shape[0]))

    return train_steps
