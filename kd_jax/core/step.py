"""The one training step: for each phase run its calls, sum its terms, differentiate, update. Nothing else does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from kd_jax import prng
from kd_jax.core import microbatch
from kd_jax.core.bind import call_taps
from kd_jax.core.paths import Path, lookup
from kd_jax.core.terms import options_of, term_value
from kd_jax.resolve import near
from kd_jax.system import precision
from kd_jax.types import Array, Call, Phase, PyTree, Scheme, Stage, TrainState

Metrics = dict[str, tuple[Array, Array]]
ANSWERS = "answers"  # in a batch that `answered` prepared: what frozen networks say to it, by the call


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


def forward(
    scheme: Scheme, phase: Phase, state: TrainState, group_params: PyTree, batch: Mapping[str, Array], key: Array
) -> tuple[dict[str, Any], dict[str, PyTree], Callable]:
    """Runs the calls of the phase: (context, new stats, connect). Only roles that the phase trains change stats."""
    variables = _variables(scheme, state, phase.group, group_params)
    context: dict[str, Any] = {
        "batch": batch,
        "extra": state.extra,
        "params": {name: params for name, (params, _) in variables.items()},
        "stats": {name: stats for name, (_, stats) in variables.items()},
        "step": state.step,
    }
    new_stats = dict(state.stats)

    def run(role: str, inputs: tuple, name: str, train: bool, taps: tuple[str, ...]) -> Any:
        model, group = scheme.roles[role].model, scheme.roles[role].group
        params, stats = variables[role][0], new_stats.get(role, variables[role][1])
        with jax.named_scope(name):
            outputs, stats = model.apply(
                params,
                stats,
                *inputs,
                train=train and group is not None,
                key=prng.stream(key, name, state.step),
                taps=taps,
            )
        if train and group == phase.group:
            new_stats[role] = stats
        return outputs

    answers = batch.get(ANSWERS, {})
    for call in phase.forward:
        name, known = call.name or call.role, answers.get(_signature(phase, call))
        if known is None:
            inputs = tuple(lookup(context, p) for p in call.inputs)
            known = run(call.role, inputs, name, call.train, call_taps(phase, name))
        context[name] = known

    def connect(term: str, inputs: tuple) -> PyTree:
        name = f"{term}/connector"
        context[name] = run(name, inputs, name, True, call_taps(phase, name))
        return context[name].logits

    return context, new_stats, connect


def _signature(phase: Phase, call: Call) -> str:
    return f"{call.role}{call.inputs}{call_taps(phase, call.name or call.role)}"


def prepared(scheme: Scheme, batch: Mapping[str, Array], key: Array) -> Mapping[str, Array]:
    """The batch as the calls read it."""
    if scheme.prepare is None:
        return batch
    with jax.named_scope("prepare"):
        # The same key in every step: one view of one example is one picture, whose answer can be kept.
        return scheme.prepare(batch, prng.stream(key, "prepare", 0), True)


def answered(scheme: Scheme, stage: Stage, state: TrainState, batch: Mapping[str, Array], key: Array) -> dict[str, Any]:
    """What runs that share data and frozen networks need to compute but once in a step, whatever they differ in.

    The prepared batch and, in it, the outputs of the frozen networks that read the batch alone. A train step that gets
    it computes neither again.
    """
    batch, answers = prepared(scheme, batch, key), {}
    for phase in stage.phases if stage.pre_update is None else ():
        for call in phase.forward:
            role, name, known = scheme.roles[call.role], call.name or call.role, _signature(phase, call)
            if role.group is None and known not in answers and all(Path.parse(p).kind == "batch" for p in call.inputs):
                inputs, own = (lookup({"batch": batch}, p) for p in call.inputs), prng.stream(key, name, state.step)
                with jax.named_scope(name):
                    params, stats = state.frozen[call.role]
                    answers[known], _ = role.model.apply(
                        precision.restored(params), stats, *inputs, train=False, key=own, taps=call_taps(phase, name)
                    )
    return {**batch, ANSWERS: answers}


def replaced(batch: Mapping[str, Array], entries: Mapping[str, Array]) -> dict[str, Array]:
    """The batch with other values under the same names; ValueError where a name, shape or type is another."""
    for name, value in entries.items():
        old = batch.get(name)
        if old is None or (old.shape, old.dtype) != (value.shape, value.dtype):
            wanted = near(name, batch) if old is None else f"{old.dtype}{old.shape}, not {value.dtype}{value.shape}"
            raise ValueError(f"pre_update replaces entries of the prepared batch; {name!r}: {wanted}")
    return {**batch, **entries}


def make_train_step(scheme: Scheme, stage: Stage, accumulate: int = 1) -> Callable[..., tuple[TrainState, Metrics]]:
    """(state, batch, hyper, key) -> (state, {name: (sum, count)}), pure and jittable.

    `key` is the root of the seed, or a prng.Keys where the pictures have another. `batch` is raw, or from `answered`.

    With `accumulate` = n every phase runs n microbatches one after the other and adds their gradients: the memory of
    one, the update of the whole batch. A term is a ratio sum / count, so the sums are divided by the counts of the
    whole batch, which are added up first: masks may leave each microbatch another number of examples. What differs by
    its nature: BatchNorm averages over a microbatch (and its running averages move n times a step), and every
    microbatch has random numbers of its own for dropout. A term that relates examples (a relation, a contrast, a
    memory) would be another loss: `state.bind` refuses it.
    """

    def losses(phase: Phase, state: TrainState, batch: Mapping, hyper: Mapping, key: Array, counts: Mapping | None):
        """The loss of a batch; with the counts of a whole batch, the share of a microbatch in its loss."""

        def loss_fn(group_params: PyTree):
            context, stats, connect = forward(scheme, phase, state, group_params, batch, key)
            loss, metrics, extra = jnp.float32(0.0), {}, dict(state.extra)
            for name, term in phase.terms.items():
                weight, kwargs = options_of(term, hyper[name], state.step)
                with jax.named_scope(name):
                    total, count, inputs = term_value(name, term, context, kwargs, connect)
                loss += weight * total / jnp.maximum(count if counts is None else counts[name], 1.0)
                metrics[name] = (total, count)
                if term.memory is not None:
                    extra[name] = jax.lax.stop_gradient(term.memory.update(extra[name], inputs, context))
            for name, metric in phase.metrics.items():
                metrics[name] = term_value(name, metric, context, metric.kwargs)[:2]
            return loss, (metrics, stats, extra, context)

        return loss_fn

    def accumulated(phase: Phase, state: TrainState, batch: Mapping, hyper: Mapping, key: Array):
        def part(number: Array, rows: Mapping, stats: PyTree, counts: Mapping | None) -> Callable:
            own = prng.stream(key, "microbatch", number)
            loss_fn = losses(phase, state.replace(stats=stats), rows, hyper, own, counts)

            def kept(params: PyTree) -> tuple:  # of the context only what a hook after the step may read
                loss, (metrics, stats, _, context) = loss_fn(params)
                calls = [call.name or call.role for call in phase.forward] if stage.post_update else []
                return loss, (metrics, stats, {name: context[name] for name in calls})

            return kept

        given = (state.params[phase.group], state.stats, batch)
        (loss, metrics, stats, outputs), grads = microbatch.gradients(part, *given, accumulate)
        context = {"batch": batch, "extra": state.extra, "step": state.step, **outputs}
        return (loss, (metrics, stats, dict(state.extra), context)), grads

    def update(phase: Phase, state: TrainState, batch: Mapping, hyper: Mapping, key: Array):
        if accumulate == 1:
            differentiated = jax.value_and_grad(losses(phase, state, batch, hyper, key, None), has_aux=True)
            (loss, (metrics, stats, extra, context)), grads = differentiated(state.params[phase.group])
        else:
            (loss, (metrics, stats, extra, context)), grads = accumulated(phase, state, batch, hyper, key)
        with jax.named_scope(f"update_{phase.group}"):
            params = state.params[phase.group]
            updates, opt = phase.tx.update(grads, state.opt[phase.group], params)
            updates = jax.tree.map(lambda u: u * hyper[""]["learning_rate_scale"].astype(u.dtype), updates)
            params = optax.apply_updates(params, updates)
        metrics["loss"] = (loss, jnp.float32(1.0))
        metrics["gradient_norm"] = (optax.tree.norm(grads), jnp.float32(1.0))
        state = state.replace(
            params={**state.params, phase.group: params},
            opt={**state.opt, phase.group: opt},
            stats=stats,
            extra=extra,
        )
        return state, metrics, context

    def train_step(state: TrainState, batch: Mapping, hyper: Mapping, key: Array | prng.Keys):
        key, view = key if isinstance(key, prng.Keys) else (key, key)
        if ANSWERS not in batch:
            batch = prepared(scheme, batch, view)
        if stage.pre_update is not None:
            with jax.named_scope("pre_update"):
                batch = replaced(batch, stage.pre_update(state, batch, prng.stream(key, "pre_update", state.step)))
        metrics: Metrics = {}
        context: dict[str, Any] = {}
        for phase in stage.phases:
            state, values, context = update(phase, state, batch, hyper[phase.group], key)
            prefix = f"{phase.group}/" if len(stage.phases) > 1 else ""
            for name, value in values.items():  # several phases of a group: the mean over them
                before = metrics.get(prefix + name)
                metrics[prefix + name] = value if before is None else jax.tree.map(jnp.add, before, value)
        if stage.post_update is not None:
            state = stage.post_update(state, context)
        return state.replace(step=state.step + 1), metrics

    return train_step


def make_train_steps(step: Callable, batch_of: Callable[[PyTree, Array], Mapping[str, Array]]) -> Callable:
    """(state, data, rows [n, ...], hyper, key) -> (state, {name: (sums [n], counts [n])}): n steps in one program.

    `batch_of(data, rows[i])` is the batch of step i; the data stay on the device. It equals n calls of `step`.
    """

    def train_steps(
        state: TrainState, data: PyTree, rows: Array, hyper: Mapping, key: Array
    ) -> tuple[TrainState, Metrics]:
        def one(state: TrainState, row: Array) -> tuple[TrainState, Metrics]:
            return step(state, batch_of(data, row), hyper, key)

        return jax.lax.scan(one, state, rows, unroll=microbatch.unroll(rows.shape[0]))

    return train_steps
