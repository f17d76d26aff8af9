"""Control: a policy acts in an environment, and is scored by the sum of its rewards."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.core import metrics
from kd_jax.core.terms import masked_sum_and_count
from kd_jax.data.environments import Environment, environment_of, episodes
from kd_jax.data.several_environments import task_of
from kd_jax.ranges import NotNegative, Portion
from kd_jax.tasks.common import means, standard_error
from kd_jax.types import Array, Headline, Outputs, Run, Shown, Task, Term

ROWS = {
    "return": ("return of an episode", ""),
    "length": ("steps of an episode", ""),
    "agreement": ("same action as the teacher", "%"),
    "kl": ("KL from the teacher", "nats"),
    "value_distance": ("squared distance from the teacher's value", ""),
}


def task(
    source: Any = None,
    clip: Portion[float] = 0.2,
    value_weight: NotNegative[float] = 0.5,
    entropy_weight: NotNegative[float] = 0.01,
) -> Task:
    """Returns the task of an environment: headline is the mean return of the episodes that the seeds of a split begin.

    The network's output is action logits [batch, actions], or {"policy": those, "value": [batch]}. It acts greedily.
    What its teacher says is compared on the split's observations, states that a random policy visits. The weights are
    those of `ppo_loss`, from which teacher and baseline learn.
    """
    environment = environment_of(source)
    return Task(
        terms=functools.partial(terms, clip=clip, value_weight=value_weight, entropy_weight=entropy_weight),
        check=functools.partial(check, actions=len(environment.actions)),
        sums=functools.partial(sums, environment=environment),
        finish=finish,
        headline=Headline("return", +1, "", "return_error"),
        rows=ROWS,
        show=functools.partial(show, tasks=environment.tasks),
        name="control",
        chance=lambda labels: float(np.mean(labels)),
        predict=best_action,
        predicts="the number of the action",
    )


def policy_of(outputs: Any) -> Array:
    """Returns the action logits of a network's output, float32 [batch, actions]."""
    return (outputs["policy"] if isinstance(outputs, Mapping) else outputs).astype(jnp.float32)


def value_of(outputs: Any) -> Array:
    """Returns the state values of a network's output, float32 [batch]; 0 where it has none."""
    if isinstance(outputs, Mapping):
        return outputs["value"].astype(jnp.float32)
    return jnp.zeros(outputs.shape[:1], jnp.float32)


def best_action(outputs: Any) -> Array:
    """Returns the number of the likeliest action, [batch]."""
    return jnp.argmax(policy_of(outputs), axis=-1)


def terms(source: Any, clip: float, value_weight: float, entropy_weight: float) -> dict[str, Term]:
    """Returns PPO's loss of what a policy did (kd_jax/schemes/experience.py collects it)."""
    del source
    weights = {"clip": clip, "value_weight": value_weight, "entropy_weight": entropy_weight}
    targets = tuple(f"batch.{name}" for name in ("action", "advantage", "log_prob", "value_target"))
    return {"ppo": Term(ppo_loss, ("student.logits",), targets, kwargs=weights)}


def ppo_loss(
    outputs: Any,
    action: Array,
    advantage: Array,
    log_prob: Array,
    value_target: Array,
    *,
    clip: Array | float = 0.2,
    value_weight: Array | float = 0.5,
    entropy_weight: Array | float = 0.01,
) -> Array:
    """Computes -min(r A, clip(r, 1 - c, 1 + c) A) + w_v (V - target)^2 - w_e H(p), r = p(action) / exp(log_prob).

    `outputs` as the task says; the rest [batch]; returns [batch]. A network without a value learns by the surrogate and
    the entropy alone. Schulman, Wolski, Dhariwal, Radford, Klimov, "Proximal Policy Optimization Algorithms", 2017,
    arXiv 1707.06347; the value is not clipped, as there.
    """
    log_p = jax.nn.log_softmax(policy_of(outputs))
    ratio = jnp.exp(jnp.take_along_axis(log_p, action[:, None], axis=1)[:, 0] - log_prob)
    surrogate = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage)
    entropy = -(jnp.exp(log_p) * log_p).sum(-1)
    error = (value_of(outputs) - value_target) ** 2 if isinstance(outputs, Mapping) else 0.0
    return -surrogate + value_weight * error - entropy_weight * entropy


def check(outputs: Outputs, batch: Mapping[str, Any], actions: int) -> None:
    """Raises ValueError unless the output is [batch, actions], or that as "policy" beside a "value" [batch]."""
    rows = jnp.shape(batch["label"])[0]
    shapes = jax.tree.map(jnp.shape, outputs.logits)
    if shapes not in ((rows, actions), {"policy": (rows, actions), "value": (rows,)}):
        raise ValueError(
            f"its output has shape {shapes}; on this data it is [batch, actions], {(rows, actions)}, or "
            f"{{'policy': {(rows, actions)}, 'value': {(rows,)}}}"
        )


def sums(
    run: Run, batch: Mapping[str, Array], reference: Outputs | None, key: Array, environment: Environment
) -> dict[str, Any]:
    """Returns sums over the episodes of the batch's seeds, and over its observations where there is a reference."""
    del key  # the seeds decide

    def choose(observations: Array, key: Array) -> Array:
        del key
        return best_action(run(observations).logits)

    def keep(step: Array, observations: Array, running: Array, first: Array) -> Array:
        del running
        return jnp.where(step == 0, observations, first)

    keys = jax.vmap(jax.random.key)(batch["seed"])
    returns, lengths, first = episodes(environment, keys, choose, jnp.zeros_like(batch["image"]), keep)
    mask, by_example = batch["mask"], {"return": returns, "length": lengths, "moments/return": returns**2}
    totals = {name: masked_sum_and_count(x.astype(jnp.float32), mask) for name, x in by_example.items()}
    if environment.tasks:
        members = jax.nn.one_hot(task_of(first, environment), len(environment.tasks))
        members *= mask[:, None]
        totals["return_by_task"] = ((members * returns[:, None]).sum(0), members.sum(0))
    if reference is not None:
        mine, theirs = policy_of(run().logits), policy_of(reference.logits)
        if mine.shape == theirs.shape:
            compared = {"agreement": metrics.agreement, "kl": metrics.kl}
            totals |= {name: masked_sum_and_count(fn(mine, theirs), mask) for name, fn in compared.items()}
        answers = run().logits, reference.logits
        if all(isinstance(answer, Mapping) for answer in answers):
            distance = value_distance(*map(value_of, answers))
            totals["value_distance"] = masked_sum_and_count(distance, mask)
    return totals


def finish(sums: Mapping[str, tuple[Any, Any]], collected: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the means over episodes, and the standard error of the return."""
    values, count = means(sums), float(sums["return"][1])
    square = float(sums["moments/return"][0]) / count if count else None
    return values | {"return_error": standard_error(values["return"], square, count)}


def value_distance(student: Array, teacher: Array) -> Array:
    """Returns (student - teacher)^2 of the values of states, [batch]."""
    return (student.astype(jnp.float32) - teacher.astype(jnp.float32)) ** 2


def show(shown: Shown, tasks: tuple[str, ...]) -> list[dict[str, Any]]:
    """Returns a table of the test return in each of several environments."""
    by_role = {role: (splits.get("test") or {}).get("return_by_task") for role, splits in shown.scores.items()}
    columns = {role: values for role, values in by_role.items() if values}
    if not tasks or not columns:
        return []
    rows = [
        [name, *("-" if values[i] is None else f"{values[i]:.1f}" for values in columns.values())]
        for i, name in enumerate(tasks)
    ]
    lead = "Mean return of the test episodes in each environment, at the last step."
    return [{"kind": "table", "title": "By environment", "lead": lead, "columns": ["", *columns], "rows": rows}]
