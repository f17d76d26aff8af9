"""Codistillation: peers that learn from copies of one another that are some steps old.

Anil, Pereyra, Passos, Ormandi, Dahl, Hinton, "Large scale distributed neural network training through online
distillation", 2018, arXiv 1804.03235. `build` makes one peer of several, which run on devices of their own and exchange
weights through a shared folder; `in_process` trains all peers in one program.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from kd_jax.core.paths import entry_paths
from kd_jax.core.terms import calls_of
from kd_jax.files import path_of
from kd_jax.models.branches import stacked
from kd_jax.schemes.offline import watched
from kd_jax.schemes.online import peer_entries
from kd_jax.schemes.shared_folder import collect, publish
from kd_jax.types import Call, Parts, Phase, PyTree, Role, Scheme, Stage, Term, TrainState

STALE = "stale"  # the group of the copies: it has no optimizer and is saved


def build(
    parts: Parts,
    folder: str,
    index: int,
    peers: int = 2,
    every: float = 0.1,
    burn_in: float = 0.0,
    timeout: float = 600.0,
) -> Scheme:
    """Builds peer `index` of `peers`, which exchange weights through `folder` every `every` steps.

    `every` and `burn_in` are steps, or below 1 fractions of the run. The roles "stale_<j>" hold the weights of the
    other peers at the last exchange; terms read them like teachers: losses.ensemble.average_probabilities_loss from
    "student.logits" to all "stale_<j>.logits". A peer of another architecture is a config.roles entry of that name in
    the group "stale". The first `burn_in` steps (rounded up to an exchange, at least one) use only the terms that read
    no copy.

    At an exchange a peer writes its weights and waits up to `timeout` seconds for those of the others at the same step,
    so what it learns does not depend on who is faster. The files stay, so a peer that was killed and started again
    reads those that it missed. Give each peer its own workdir and config.seed. Raises ValueError for bad options and
    for a folder with another run's files, TimeoutError when a peer does not come.
    """
    if peers < 2 or not 0 <= index < peers or not folder or timeout <= 0:
        raise ValueError(
            f"codistillation needs at least 2 peers ({peers}), index 0 .. {peers - 1} ({index}), a folder ({folder!r}) "
            f"that all of them share, and a timeout in seconds above 0 ({timeout})."
        )
    student, others = parts.roles["student"], [j for j in range(peers) if j != index]
    copies = {f"stale_{j}": dataclasses.replace(student, group=STALE, initial="student") for j in others}
    roles = {**parts.roles, **{name: parts.roles.get(name, role) for name, role in copies.items()}}
    if wrong := [name for name in copies if roles[name].group != STALE]:
        raise ValueError(f"The roles {wrong} are copies of other peers: their group is {STALE!r}.")
    place = path_of(folder, "codistillation: folder")
    size, first = _intervals(parts.steps, every, burn_in)

    def exchange(state: TrainState) -> TrainState:
        step = int(state.step)
        weights = state.params["student"]["student"], state.stats["student"]
        checksum = publish(place, step, index, weights)
        params, stats = dict(state.params[STALE]), dict(state.stats)
        for j, name in zip(others, copies, strict=True):
            (params[name], stats[name]), other = collect(place, step, j, (params[name], stats[name]), timeout)
            if checksum == other:
                raise ValueError(f"Peers {index} and {j} have the same weights at step {step}: give each its own seed.")
        return state.replace(params={**state.params, STALE: params}, stats=stats)

    alone, taught = _phases(parts, roles, ("student",), tuple(copies))
    stages = [Stage(first, alone, name="alone")]
    for start in range(first, parts.steps, size):
        stages.append(Stage(min(size, parts.steps - start), taught, on_enter=exchange, name=f"from step {start}"))
    return Scheme(roles, tuple(stages), evaluate=("student",), reference=_reference(roles), task=parts.task)


def in_process(
    parts: Parts,
    peers: int = 2,
    every: float = 0.1,
    burn_in: float = 0.0,
    inputs: tuple[str, ...] = (),
    leader: int = 0,
) -> Scheme:
    """Builds all peers in one program: "student.logits" and "stale.logits" (the copies) are [B, peers, classes].

    `every`, `burn_in` as in `build`; `peers`, `inputs`, `leader` as in schemes.online.build. Terms take both stacks:
    losses.online.mutual_kl_loss from "student.logits" to "stale.logits". All peers see the same examples, where
    separate runs have an order each.
    """
    if inputs and len(inputs) != peers:
        raise ValueError(f"{peers} peers read one input each, inputs={tuple(inputs)} names {len(inputs)}.")
    size, first = _intervals(parts.steps, every, burn_in)
    student = parts.roles["student"]
    student = dataclasses.replace(student, model=stacked(student.model, peers, bool(inputs)))
    stale = dataclasses.replace(student, group=STALE, initial="student")
    roles = {**parts.roles, "student": student, "stale": stale}

    def refresh(state: TrainState, context: Mapping[str, Any]) -> TrainState:
        due = (state.step + 1) % size == 0

        def newest(new: PyTree, old: PyTree) -> PyTree:
            return jax.tree.map(lambda n, o: jnp.where(due, n, o), new, old)

        copies = {"stale": newest(state.params["student"]["student"], state.params[STALE]["stale"])}
        stats = {**state.stats, "stale": newest(state.stats["student"], state.stats["stale"])}
        return state.replace(params={**state.params, STALE: copies}, stats=stats)

    entries = peer_entries("student", peers, leader)
    alone, taught = _phases(parts, roles, entries, ("stale",), {"student": tuple(inputs), "stale": tuple(inputs)})
    stages = (
        Stage(first, alone, refresh, name="alone"),
        Stage(parts.steps - first, taught, refresh, name="codistillation"),
    )
    return Scheme(roles, stages, evaluate=(*entries, "+".join(entries)), reference=_reference(roles), task=parts.task)


def _intervals(steps: int, every: float, burn_in: float) -> tuple[int, int]:
    """Returns the steps between exchanges and those before the first; ValueError where no exchange happens."""
    size, before = (max(round(n * steps), 1) if 0 < n < 1 else int(n) for n in (every, burn_in))
    first = max(-(-before // max(size, 1)), 1) * size
    if size < 1 or before < 0 or first >= steps:
        raise ValueError(
            f"every={every} and burn_in={burn_in} are steps, or below 1 fractions of the run: with {steps} steps there "
            f"would be no exchange."
        )
    return size, first


def _phases(
    parts: Parts,
    roles: Mapping[str, Role],
    entries: tuple[str, ...],
    copies: tuple[str, ...],
    reads: Mapping[str, tuple[str, ...]] | None = None,
) -> tuple[tuple[Phase, ...], tuple[Phase, ...]]:
    """Returns the phases without the terms that read a copy, and those with all terms.

    Both have one optimizer object, so its state goes on from the first to the second.
    """
    named = {name: calls_of([term]) for name, term in parts.terms.items()}
    early = {name: term for name, term in parts.terms.items() if not named[name] & {*copies}}
    unread = [copy for copy in copies if not any(copy in names for names in named.values())]
    if not early or unread:
        raise ValueError(
            f"Codistillation needs terms that read no copy, and terms that read each of {[*copies]}: of "
            f"{sorted(parts.terms)}, {sorted(early)} read none, and nothing reads {unread}."
        )
    metrics = watched(parts, entry_paths(entries[0])[0])
    tx, group = parts.make_tx(parts.steps), roles["student"].group

    def phase(terms: Mapping[str, Term]) -> tuple[Phase, ...]:
        read = {"student"}.union(*(named[name] for name in terms))
        calls = []
        for name, role in roles.items():
            if name in read:
                inputs = (reads or {}).get(name) or role.inputs
                calls.append(Call(name, inputs, train=role.group == group))
        return (Phase(group, tuple(calls), terms, tx, metrics),)

    return phase(early), phase(parts.terms)


def _reference(roles: Mapping[str, Role]) -> str | None:
    return "teacher" if "teacher" in roles else None
