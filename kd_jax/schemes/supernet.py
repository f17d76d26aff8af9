"""Search by supernet: the teacher teaches a slimmable network, and its best sub-network within a budget is trained."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from kd_jax.losses.response import kd_loss
from kd_jax.models.vision.supernet import SlimCNN
from kd_jax.ranges import NotNegative, Positive
from kd_jax.schemes import offline
from kd_jax.schemes.redirect import redirect
from kd_jax.schemes.subnetworks import (
    front,
    placed,
    plain_phase,
    scorer,
    search,
    space_and_budget,
    started,
    tidy,
    watched,
)
from kd_jax.tasks.units import score_text
from kd_jax.types import Call, Headline, Parts, Phase, Role, Scheme, Stage, Term, TrainState


def build(
    parts: Parts,
    cost: str = "parameters",
    budget: NotNegative[float] = 0.0,
    exponents: tuple[float, float] = (0.0, -1.0),
    candidates: int = 256,
    randoms: NotNegative[int] = 2,
    temperature: Positive[float] = 1.0,
    search_steps: NotNegative[int] = 0,
    start: str = "inherit",
) -> Scheme:
    """Builds two stages: the training of a supernet, then that of its sub-network with the highest reward.

    Stage "supernet": every step trains the largest, the smallest and `randoms` random sub-networks of the role
    "supernet" (models.vision.supernet.slim_cnn with widths to choose from). The largest learns from the terms of the
    config, the others from its outputs at `temperature`, behind a stop_gradient.
    Stage "winner": at its start sub-networks are scored on the validation split: all if there are at most `candidates`,
    else `candidates` chosen by evolution. The student becomes the one with the highest
        reward = accuracy * (cost / budget) ** exponents[cost > budget]
    with the supernet's parameters (start="inherit") or new ones ("scratch"), and learns from the terms for
    config.train.steps. So does "plain", the network of config.student; with budget=0 its cost is the budget.
    `cost` is "parameters", "flops" or "latency"; `search_steps` is the length of the first stage, 0 = as the second.
    TrainState.extra holds the winner ("choice") and all that was scored ("search").
    Yu, Huang, "Universally Slimmable Networks and Improved Training Techniques" (sandwich rule, in-place distillation),
    2019, arXiv 1903.05134; reward: Tan et al., "MnasNet", 2018, arXiv 1807.11626, by default with its hard constraint
    (the soft one is (-0.07, -0.07)); evolution: Cai et al., "Once-for-All", 2019, arXiv 1908.09791.
    """
    space, budget = space_and_budget(parts, SlimCNN, cost, budget, search_steps, start)
    count = min(candidates, math.prod(len(o) for o in space.options))
    if count < 2 or randoms < 0:
        raise ValueError(f"candidates are 2 or more, randoms 0 or more; got {count} and {randoms}.")
    search_steps = search_steps or parts.steps
    model, image = parts.roles["supernet"].model, parts.roles["student"].inputs
    roles = {
        **parts.roles,
        "supernet": dataclasses.replace(parts.roles["supernet"], inputs=(*image, "extra.largest"), group="supernet"),
        "student": Role(model, (*image, "extra.choice"), "student"),
        "plain": dataclasses.replace(parts.roles["student"], group="plain"),
    }
    scheme = offline.build(dataclasses.replace(parts, roles=roles))
    phase = scheme.stages[0].phases[0]
    names = ("smallest", *(f"random{i}" for i in range(randoms)))
    calls = [Call("supernet", (*image, f"extra.{name.rstrip('0123456789')}"), name=name) for name in names]
    terms = redirect(parts.terms, {"student": "supernet"}, "supernet_") | {
        name: Term(kd_loss, (f"{name}.logits",), ("supernet.logits",), kwargs={"temperature": float(temperature)})
        for name in names
    }
    sandwich = Phase(
        "supernet",
        (Call("supernet", roles["supernet"].inputs), *calls, *phase.forward[1:]),
        terms,
        parts.make_tx(search_steps, "supernet"),
        watched(parts, "supernet", *names),
    )

    def enter(state: TrainState) -> TrainState:
        score = scorer(parts, "supernet", Role(model, roles["student"].inputs, "supernet"))
        scores = search(space, lambda choice: score(state, choice), budget, exponents, count)
        best = scores["choices"][np.lexsort((scores["cost"], -scores["reward"]))[0]]
        extra = {**state.extra, "choice": placed(best, state.extra["choice"])}
        extra["search"] = {name: placed(value, state.extra["search"][name]) for name, value in scores.items()}
        return started(state.replace(extra=extra), start)

    blocks = len(space.options)
    fixed = {"largest": [len(o) - 1 for o in space.options], "smallest": [0] * blocks, "random": [-1] * blocks}
    table = {name: jnp.zeros(count) for name in ("accuracy", "cost", "reward")}
    extra = {name: jnp.asarray(value, jnp.int32) for name, value in fixed.items()}
    extra |= {"choice": extra["largest"], "search": {"choices": jnp.zeros((count, blocks), jnp.int32), **table}}
    first = Stage(search_steps, (sandwich,), name="supernet", selects=False)
    stages = (first, Stage(parts.steps, (phase, plain_phase(parts, phase.forward[1:])), None, enter, "winner"))
    return dataclasses.replace(
        scheme,
        roles=roles,
        stages=stages,
        evaluate=("student", "plain", "supernet"),
        extra=extra,
        stage_splits=("validation",),
        summary=lambda state, record: _summary(state, record, space, budget, parts.task.headline),
    )


def _summary(
    state: TrainState, record: Mapping[str, Any], space: Any, budget: float, headline: Headline
) -> list[dict[str, Any]]:
    scores = {name: np.asarray(value).tolist() for name, value in state.extra["search"].items()}
    chosen, largest = (np.asarray(state.extra[name]).tolist() for name in ("choice", "largest"))
    winner, on_front = scores["choices"].index(chosen), front(scores["cost"], scores["accuracy"])
    after, before = record["stages"][-1]["validation"], record["stages"][0]["validation"]

    def widths(choice: Sequence[int]) -> str:
        return "-".join(space.options[i][k] for i, k in enumerate(choice))

    def point(i: int) -> list[float]:
        return [scores["cost"][i], scores["accuracy"][i]]

    rows = [
        [
            widths(scores["choices"][i]),
            tidy(scores["cost"][i]),
            f"{100 * scores['accuracy'][i]:.2f}%",
            f"{scores['reward'][i]:.4f}",
            "winner" if i == winner else "",
        ]
        for i in sorted({*on_front, winner}, key=lambda i: scores["cost"][i])
    ]
    trained = [
        ["winner", widths(chosen), tidy(scores["cost"][winner]), score_text(headline, after["student"])],
        ["plain student", "", tidy(budget), score_text(headline, after["plain"])],
        ["supernet", widths(largest), tidy(space.cost(largest)), score_text(headline, before["supernet"])],
    ]
    title, axis = "Pareto front of the supernet", "Accuracy (validation)"
    lead = f"{len(scores['cost'])} sub-networks scored with the supernet's parameters; budget {budget:g} {space.kind}."
    curves = {"Pareto front": [point(i) for i in on_front], "winner": [point(winner)]}
    return [
        {"kind": "lines", "title": title, "lead": lead, "x_label": space.kind, "y_label": axis, "lines": curves},
        {
            "kind": "table",
            "title": title,
            "lead": lead,
            "rows": rows,
            "columns": ["Widths", space.kind, axis, "Reward", ""],
        },
        {
            "kind": "table",
            "title": "The winner, trained",
            "lead": "The supernet, its largest network, is not.",
            "rows": trained,
            "columns": ["Network", "Widths", space.kind, axis],
        },
    ]
