"""Functions for searches over sub-networks: space and budget, scores, the search, the winner's first parameters."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.core.evaluate import evaluate, make_eval_step
from kd_jax.data.batches import eval_batches
from kd_jax.models.vision.supernet_costs import space_of
from kd_jax.resolve import near
from kd_jax.schemes import offline
from kd_jax.schemes.redirect import redirect
from kd_jax.system.parallel import batch_sharding, create_everywhere
from kd_jax.tasks.units import share_of
from kd_jax.types import Array, Call, Parts, Phase, Role, Scheme, Term, TrainState

Choice = tuple[int, ...]
STARTS = ("inherit", "scratch")


def space_and_budget(
    parts: Parts, network: type, cost: str, budget: float, search_steps: int, start: str
) -> tuple[Any, float]:
    """Returns the Space (models/vision/supernet_costs.py) of config.roles.supernet, and the budget.

    A budget of 0 is what config.student costs. Raises ValueError unless the supernet is a `network` of
    models/vision/supernet.py, and for an option that does not exist.
    """
    if "supernet" not in parts.roles:
        raise ValueError(f"The network to search is config.roles.supernet. {near('supernet', parts.roles)}")
    if parts.sources.get("validation") is None:
        raise ValueError(
            "Sub-networks are compared on the validation split, and there is none (config.data.validation)."
        )
    if start not in STARTS:
        raise ValueError(f"The winner's start is one of {STARTS}, not {start!r}.")
    if search_steps < 0 or budget < 0:
        raise ValueError(f"search_steps and budget are 0 or more, not {search_steps} and {budget}.")
    shape = parts.sources["train"].image_shape
    space = space_of(parts.roles["supernet"].model, shape, cost)
    if not isinstance(space.model, network):
        raise ValueError(
            f"This search is one over models.vision.supernet.{network.__name__}; the supernet is a "
            f"{type(space.model).__name__}."
        )
    if not budget:
        plain = space_of(parts.roles["student"].model, shape, cost)
        budget = plain.cost((0,) * len(plain.options))
    return space, float(budget)


def watched(parts: Parts, *names: str, of: str = "batch") -> dict[str, Term]:
    """Returns what the task shows live of these networks, as metrics of a phase."""
    several = len(names) > 1
    each = [offline.watched(parts, f"{n}.logits", of, n if several else "") for n in names]
    return {name: term for terms in each for name, term in terms.items()}


def plain_phase(parts: Parts, teachers: tuple[Call, ...]) -> Phase:
    """Returns the phase that trains the network of config.student, the role and group "plain", on the same terms."""
    terms = redirect(parts.terms, {"student": "plain"}, "plain_")
    forward = (Call("plain", parts.roles["student"].inputs), *teachers)
    return Phase("plain", forward, terms, parts.make_tx(parts.steps, "plain"), watched(parts, "plain"))


def started(state: TrainState, start: str) -> TrainState:
    """Copies the supernet's parameters and averages into the student; with start="scratch" changes nothing."""
    if start == "scratch":
        return state
    # Copies: a step donates its state, and one buffer cannot be given away twice.
    params, stats = jax.tree.map(jnp.copy, (state.params["supernet"]["supernet"], state.stats["supernet"]))
    student = {**state.params["student"], "student": params}
    return state.replace(params={**state.params, "student": student}, stats={**state.stats, "student": stats})


def placed(value: Any, like: Array) -> Array:
    """Returns `value` with the type and the sharding of `like`."""
    return jax.device_put(np.asarray(value, like.dtype), like.sharding)


def scorer(parts: Parts, name: str, role: Role) -> Callable[[TrainState, Choice], float]:
    """Returns (state, choice) -> headline on validation of the role `name`, with this `extra.choice`."""
    metric = share_of(parts.task.headline, "A search for architectures")
    mesh = jax.sharding.get_mesh()
    scheme = Scheme({name: role}, (), evaluate=(name,), prepare=parts.prepare, task=parts.task)
    step = jax.jit(make_eval_step(scheme))
    sharding = batch_sharding(mesh)
    key = create_everywhere(lambda: jax.random.key(0), mesh)
    source = parts.sources["validation"]
    size = mesh.size * math.ceil(min(len(source), 1024) / mesh.size)
    batches = list(eval_batches(source, batch_size=size, sharding=sharding))

    def score(state: TrainState, choice: Choice) -> float:
        state = dataclasses.replace(state, opt={}, frozen={}, extra={"choice": placed(choice, state.extra["choice"])})
        return evaluate(step, parts.task, state, batches, key)[name][metric]

    return score


def search(
    space: Any, score: Callable[[Choice], float], budget: float, exponents: tuple[float, float], count: int
) -> dict[str, np.ndarray]:
    """Scores `count` sub-networks; returns {choices [count, blocks], accuracy, cost, reward [count]} in that order.

    reward = accuracy * (cost / budget) ** exponents[cost > budget]. If the space has `count`, all are scored, else
    evolution chooses: a quarter at random, then crossings and mutants of the best sqrt(count). The random numbers are
    the same in every run.
    """
    sizes, rng = [len(options) for options in space.options], np.random.default_rng(0)
    first, best = max(2, count // 4), max(2, round(math.sqrt(count)))
    scores: dict[Choice, tuple[float, float, float]] = {}

    def add(choice: Choice) -> None:
        hits, price = score(choice), space.cost(choice)
        scores[choice] = hits, price, hits * (price / budget) ** exponents[price > budget]

    def draw() -> Choice:
        return tuple(int(rng.integers(n)) for n in sizes)

    def child() -> Choice:
        parents = sorted(scores, key=lambda c: (-scores[c][2], scores[c][1]))[:best]
        origins = (draw(), *(parents[int(rng.integers(len(parents)))] for _ in range(2)))
        return tuple(origins[rng.choice(3, p=(0.2, 0.2, 0.6))][i] for i in range(len(sizes)))

    if count == math.prod(sizes):
        for choice in itertools.product(*map(range, sizes)):
            add(choice)
    while len(scores) < count:
        # One in ten is new: the children of a few parents may all have been scored.
        choice = draw() if len(scores) < first or rng.random() < 0.1 else child()
        if choice not in scores:
            add(choice)
    hits, price, reward = (np.asarray(column, np.float32) for column in zip(*scores.values(), strict=True))
    return {"choices": np.asarray(list(scores), np.int32), "accuracy": hits, "cost": price, "reward": reward}


def front(cost: Sequence[float], score: Sequence[float]) -> list[int]:
    """Returns the positions on the Pareto front, cheapest first: nothing of the same or less cost has their score."""
    best, positions = -math.inf, []
    for i in sorted(range(len(cost)), key=lambda i: (cost[i], -score[i])):
        if score[i] > best:
            best, positions = score[i], [*positions, i]
    return positions


def tidy(cost: float) -> int | float:
    """Returns a cost as a table shows it: from 1 on a whole number."""
    return round(cost) if cost >= 1 else float(cost)
