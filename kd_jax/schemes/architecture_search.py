"""Differentiable search with the teacher in the loop: weights and architecture learn by turns, then the winner."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.core.paths import Path
from kd_jax.models.vision.supernet import MixedCNN
from kd_jax.models.vision.supernet_costs import architecture_weights
from kd_jax.ranges import NotNegative
from kd_jax.schemes import offline
from kd_jax.schemes.redirect import redirect
from kd_jax.schemes.subnetworks import (
    front,
    placed,
    plain_phase,
    scorer,
    space_and_budget,
    started,
    tidy,
    watched,
)
from kd_jax.tasks.units import score_text
from kd_jax.types import Array, Call, Headline, Parts, Phase, Role, Scheme, Stage, Term, TrainState

HALVES = ("alpha_half", "weight_half")


def build(
    parts: Parts,
    cost: str = "parameters",
    budget: NotNegative[float] = 0.0,
    penalty: NotNegative[float] = 1.0,
    search_steps: NotNegative[int] = 0,
    start: str = "scratch",
) -> Scheme:
    """Builds two stages: a search that mixes operations by weights softmax(alpha), then the training of the winner.

    Stage "search": the role "supernet" (models.vision.supernet.mixed_cnn) is the mixture. In every step alpha (group
    "alpha") descends the terms of the config on the batch's even rows, plus
        penalty * max(0, expected cost / budget - 1),
    then the network's parameters (group "supernet") descend the terms on the odd rows. Teachers answer on both halves.
    Stage "winner": each block takes the operation with the highest weight. While that costs more than `budget`,
    operations are exchanged where it loses the least. The result is the student, with new parameters (start="scratch")
    or those of the supernet ("inherit"), and learns the terms for config.train.steps. So does "plain", the network of
    config.student; with budget=0 its cost is the budget.
    `cost` is "parameters", "flops" or "latency"; `search_steps` is the length of the first stage, 0 = as the second.
    TrainState.extra holds "choice" (one 1 a row) and "search": all networks from the highest weights to the cheapest,
    scored on the validation split with the parameters of the search. The report shows their Pareto front.
    Liu, Simonyan, Yang, "DARTS", 2018, arXiv 1806.09055 (first order); the expected cost: Cai et al., "ProxylessNAS",
    2018, arXiv 1812.00332; a teacher for the architecture: Gu, Tresp, "Search for Better Students to Learn Distilled
    Knowledge", 2020, arXiv 2001.11612. DARTS keeps two sets of examples; here each batch is cut in two.
    """
    space, budget = space_and_budget(parts, MixedCNN, cost, budget, search_steps, start)
    search_steps, table, fixed = search_steps or parts.steps, space.table(), space.cost((0,) * len(space.options))
    if penalty < 0 or fixed + table.min(1).sum() > budget:
        raise ValueError(
            f"The penalty is 0 or more, and the budget at least what the cheapest sub-network costs, "
            f"{fixed + table.min(1).sum():g} {cost}; got penalty={penalty} and budget={budget:g}."
        )
    supernet, image = parts.roles["supernet"], parts.roles["student"].inputs
    alpha = architecture_weights(space)
    roles = {
        **parts.roles,
        "supernet": dataclasses.replace(supernet, inputs=(*image, "extra.choice"), group="supernet"),
        "alpha": Role(alpha, (), "alpha"),
        "student": Role(supernet.model, (*image, "extra.choice"), "student"),
        "plain": dataclasses.replace(parts.roles["student"], group="plain"),
    }
    scheme = offline.build(dataclasses.replace(parts, roles=roles))
    phase = scheme.stages[0].phases[0]
    teachers = phase.forward[1:]
    expected = functools.partial(_expected_cost, table=table, fixed=fixed, budget=budget)
    more = {"expected_cost": Term(expected, ("alpha.logits",), weight=float(penalty))}
    halves = tuple(
        _half(parts, group, half, image, teachers, more if group == "alpha" else {}, search_steps)
        for group, half in zip(("alpha", "supernet"), HALVES, strict=True)
    )

    def enter(state: TrainState) -> TrainState:
        weights, one_hot = _weights(state), np.eye(table.shape[1])
        choices = path(weights, table, fixed)
        score = scorer(parts, "supernet", dataclasses.replace(roles["supernet"], inputs=roles["student"].inputs))
        scores = {
            "choices": choices,
            "cost": fixed + table[np.arange(len(table)), choices].sum(1),
            "accuracy": np.asarray([score(state, one_hot[choice]) for choice in choices]),
        }
        extra = {**state.extra, "choice": placed(one_hot[derive(weights, table, fixed, budget)], state.extra["choice"])}
        extra["search"] = {name: _filled(value, state.extra["search"][name]) for name, value in scores.items()}
        return started(state.replace(extra=extra), start)

    most = table.size - len(table) + 1  # every exchange on the way makes one block cheaper
    nothing = {name: jnp.zeros(most) for name in ("cost", "accuracy")}
    nothing["choices"] = jnp.zeros((most, len(table)), jnp.int32)
    stages = (
        Stage(search_steps, halves, name="search", selects=False),
        Stage(parts.steps, (phase, plain_phase(parts, teachers)), None, enter, "winner"),
    )
    return dataclasses.replace(
        scheme,
        roles=roles,
        stages=stages,
        evaluate=("student", "plain"),
        prepare=_halved(parts.prepare),
        extra={"choice": jnp.full(table.shape, 1 / table.shape[1]), "search": nothing},
        stage_splits=("validation",),
        summary=lambda state, record: _summary(state, record, space, budget, parts.task.headline),
    )


def _half(
    parts: Parts, group: str, half: str, image: tuple[str, ...], teachers: tuple[Call, ...], more: Mapping, steps: int
) -> Phase:
    """Returns the phase of one half of the batch, which trains alpha or the supernet's weights."""

    def moved(paths: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(Path.parse(path).within(half)) for path in paths)

    calls = [Call("alpha", ()), Call("supernet", (*moved(image), "alpha.logits"))]
    calls += [dataclasses.replace(call, inputs=moved(call.inputs)) for call in teachers]
    terms = redirect(parts.terms, {"student": "supernet"}, f"{group}_", half) | dict(more)
    metrics = watched(parts, "supernet", of=f"batch.{half}")
    return Phase(group, tuple(calls), terms, parts.make_tx(steps, group), metrics)


def _halved(prepare: Any) -> Any:
    """Adds to a prepared training batch its even and its odd rows.

    Labelled rows come first in a batch, so each half has its share of them.
    """

    def halved(batch: Mapping[str, Array], key: Array, train: bool) -> Mapping[str, Array]:
        prepared = prepare(batch, key, train)
        halves = {half: jax.tree.map(lambda x, i=i: x[i::2], dict(prepared)) for i, half in enumerate(HALVES)}
        return {**prepared, **halves} if train else prepared

    return halved


def _expected_cost(weights: Array, *, table: np.ndarray, fixed: float, budget: float) -> Array:
    """Computes max(0, expected cost / budget - 1), of shape [1]."""
    return jax.nn.relu((fixed + (weights * jnp.asarray(table, jnp.float32)).sum()) / budget - 1)[None]


def derive(weights: np.ndarray, table: np.ndarray, fixed: float, budget: float) -> np.ndarray:
    """Returns int [blocks]: the operation of each block.

    They are those of the highest weights. While they cost more than the budget, one is exchanged for a cheaper one: the
    exchange with the lowest (loss of log weight) / (cost saved).
    """
    chosen, rows = weights.argmax(1), np.arange(len(weights))
    while fixed + table[rows, chosen].sum() > budget:
        saved = table[rows, chosen][:, None] - table
        loss = np.log(weights[rows, chosen])[:, None] - np.log(weights)
        price = np.where(saved > 0, loss / np.where(saved > 0, saved, 1), np.inf)
        block, kind = np.unravel_index(price.argmin(), price.shape)
        chosen[block] = kind
    return chosen


def path(weights: np.ndarray, table: np.ndarray, fixed: float) -> np.ndarray:
    """Returns int [n, blocks]: the choices of `derive` as the budget falls to the least possible, the dearest first."""
    choices, rows = [weights.argmax(1)], np.arange(len(table))
    least = fixed + table.min(1).sum()
    while (cost := fixed + table[rows, choices[-1]].sum()) > least:
        choices.append(derive(weights, table, fixed, max(np.nextafter(cost, 0), least)))
    return np.asarray(choices)


def _filled(value: np.ndarray, like: Array) -> Array:
    """Returns `value` with its last row repeated until it has as many rows as `like`."""
    return placed(value[np.minimum(np.arange(len(like)), len(value) - 1)], like)


def _weights(state: TrainState) -> np.ndarray:
    return np.asarray(jax.nn.softmax(state.params["alpha"]["alpha"]["alpha"]), np.float64)


def _summary(
    state: TrainState, record: Mapping[str, Any], space: Any, budget: float, headline: Headline
) -> list[dict[str, Any]]:
    weights, chosen = _weights(state), np.asarray(state.extra["choice"]).argmax(1)
    kinds, extra = space.options[1:], space.table()
    extra = extra - extra.min(1, keepdims=True)
    blocks = [
        [
            f"block{i + 1}",
            *(f"{w:.3f} (+{c:g})" for w, c in zip(weights[i], extra[i], strict=True)),
            kinds[i][chosen[i]],
        ]
        for i in range(len(kinds))
    ]
    after = record["stages"][-1]["validation"]
    scores = {name: np.asarray(value) for name, value in state.extra["search"].items()}
    on_front = [
        [
            " ".join(k[c] for k, c in zip(kinds, scores["choices"][i], strict=True)),
            tidy(float(scores["cost"][i])),
            f"{100 * scores['accuracy'][i]:.2f}%",
            "winner" if (scores["choices"][i] == chosen).all() else "",
        ]
        for i in front(scores["cost"].tolist(), scores["accuracy"].tolist())
    ]
    results = [
        ["winner", tidy(space.cost((0, *chosen))), score_text(headline, after["student"])],
        ["plain student", tidy(budget), score_text(headline, after["plain"])],
    ]
    lead = f"Weight of each operation after the search, and its {space.kind} above the cheapest; budget {budget:g}."
    columns = ["Block", *("/".join(sorted({*names})) for names in zip(*kinds, strict=True)), "Chosen"]
    return [
        {"kind": "table", "title": "The architecture", "lead": lead, "columns": columns, "rows": blocks},
        {
            "kind": "table",
            "title": "Pareto front of the search",
            "rows": on_front,
            "lead": "Networks on the way from the highest weights to the cheapest, with the parameters of the mixture "
            "as they stand: an order, no estimate of what training each alone would reach.",
            "columns": ["Operations", space.kind, "Accuracy (validation)", ""],
        },
        {
            "kind": "table",
            "title": "The winner, trained",
            "lead": "",
            "rows": results,
            "columns": ["Network", space.kind, "Accuracy (validation)"],
        },
    ]
