"""Be Your Own Teacher: the deepest classifier of a network teaches those on its early stages, all trained at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from kd_jax.core.paths import lookup
from kd_jax.models.exits import EarlyExit
from kd_jax.schemes import offline
from kd_jax.system.cost import flops_of
from kd_jax.tasks.units import name_of, score_text
from kd_jax.types import Parts, Scheme, TrainState


def build(parts: Parts, exits: tuple[str, ...] = ("exit1",)) -> Scheme:
    """Builds offline distillation whose terms teach each `student.features:<exit>` by `student.logits`, a target.

    The student is a model with exits, such as models.exits.exits. Evaluated are the whole network, each exit (which
    runs alone as models.exits.EarlyExit), and the mean of all their probabilities. Raises ValueError for an exit that
    no term teaches. Zhang et al. 2019, arXiv 1905.08094.
    """
    paths = tuple(f"student.features:{name}" for name in exits)
    taught = {path for term in parts.terms.values() for path in term.inputs}
    if not exits or not {*paths} <= taught:
        raise ValueError(
            f"exits={tuple(exits)}: at least one, and each needs a term that has 'student.features:<exit>' as input; "
            f"the terms' inputs are {sorted(taught)}."
        )
    split = "validation" if parts.sources.get("validation") is not None else "test"
    evaluate = ("student", *paths, "+".join(("student", *paths)))

    def summary(state: TrainState, record: Mapping[str, Any]) -> list[dict[str, Any]]:
        headline = parts.task.headline
        scores, costs = record["stages"][-1][split], _costs(parts, state, exits)
        rows = [
            [name or "whole network", score_text(headline, scores[entry]), *costs[name]]
            for entry, name in zip(evaluate, ("", *exits), strict=False)
        ]
        lead = (
            "Each exit used alone (models.exits.EarlyExit): only what it depends on is stored and computed. FLOPs are "
            f"XLA's, of one example. All answers averaged: {score_text(headline, scores[evaluate[-1]])}."
        )
        columns = ["Answer of", f"{name_of(headline).capitalize()} ({split})", "Parameters", "FLOPs"]
        return [{"kind": "table", "title": "Early exits", "lead": lead, "columns": columns, "rows": rows}]

    scheme = offline.build(parts)
    return dataclasses.replace(scheme, evaluate=evaluate, stage_splits=(split,), summary=summary)


def _costs(parts: Parts, state: TrainState, exits: tuple[str, ...]) -> dict[str, tuple[int, float | None]]:
    """Returns {exit: (parameters, FLOPs of one example)}; "" is the whole network without what only exits need."""
    role, source = parts.roles["student"], parts.sources["train"]
    key = jax.random.key(0)
    batch = jax.eval_shape(lambda raw: parts.prepare(raw, key, False), source.batch(1))
    # Shapes only: the arrays of the state may lie on the devices of several processes.
    variables, extra = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype),
        ((state.params["student"]["student"], state.stats["student"]), state.extra),
    )
    inputs = tuple(lookup({"batch": batch, "extra": extra}, path) for path in role.inputs)
    costs = {}
    for name in ("", *exits):
        model = EarlyExit(role.model, name)
        needed = model.keep(*variables, *inputs)
        infer = jax.jit(lambda p, s, *x, model=model: model.apply(p, s, *x, train=False, key=key)[0].logits)
        flops = flops_of(infer.lower(*needed, *inputs).compile())
        costs[name] = sum(x.size for x in jax.tree.leaves(needed[0])), flops
    return costs
