"""Born-again networks: generations of one architecture, each taught by the one before it, and their ensemble."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from kd_jax.schemes import offline
from kd_jax.schemes.redirect import reading
from kd_jax.types import Array, Call, Parts, Scheme, Stage, Term, TrainState

_SLOTS = "generations"


def build(parts: Parts, generations: int = 3) -> Scheme:
    """Builds one stage of config.train.steps for each of `generations` networks of the student's architecture.

    The first network learns from the terms that do not read "previous". Each later one starts from new initial values
    and learns from all terms, where `previous.logits` is of the finished network before it; connectors keep their
    parameters. All networks are in the state, so they are saved: "student" is the one that learns (in the end the
    last), "gen0", "gen1", ... hold the initial values of the networks to come, then the finished networks.
    Evaluated are all of them and the mean of their probabilities. The best step is one of the last generation, since
    before it the ensemble has untrained networks.
    Furlanello, Lipton, Tschannen, Itti, Anandkumar, "Born-Again Neural Networks" (BAN), 2018, arXiv 1805.04770.
    """
    taught = reading("previous", parts.terms)
    if generations < 2:
        raise ValueError(f"generations={generations}: born-again networks are at least 2.")
    if not taught or len(taught) == len(parts.terms):
        raise ValueError(
            f"Born-again networks need terms with and without 'previous.logits': the first generation has nobody to "
            f"learn from. Of {sorted(parts.terms)} these read it: {sorted(taught)}."
        )
    names = tuple(f"gen{i}" for i in range(generations - 1))
    if clash := {"previous", *names} & {*parts.roles}:
        raise ValueError(f"The roles {sorted(clash)} are made by the scheme: config.roles needs other names.")
    student = parts.roles["student"]
    finished = {name: dataclasses.replace(student, group=_SLOTS, initial=None) for name in names}
    previous = dataclasses.replace(student, group="previous", initial="student")
    terms = {name: _restarting(term, parts.steps) for name, term in parts.terms.items()}

    def phase(terms: Mapping[str, Term]) -> Any:
        return offline.build(dataclasses.replace(parts, terms=terms)).stages[0].phases[0]

    first = phase({name: term for name, term in terms.items() if name not in taught})
    later = phase(terms)
    later = dataclasses.replace(later, forward=(*later.forward, Call("previous", student.inputs, train=False)))
    phases = (later,)  # one object for all later generations: their step compiles once
    stages = [Stage(parts.steps, (first,), name=names[0], selects=False)]
    for i, name in enumerate(names):
        entering, last = _entering(name, later.tx), i + 1 == len(names)
        stages.append(
            Stage(parts.steps, phases, on_enter=entering, name="student" if last else names[i + 1], selects=last)
        )
    return Scheme(
        {**parts.roles, "previous": previous, **finished},
        tuple(stages),
        evaluate=("student", *names, "+".join((*names, "student"))),
        reference="teacher" if "teacher" in parts.roles else None,
        task=parts.task,
    )


def _entering(name: str, tx: Any) -> Callable[[TrainState], TrainState]:
    """Returns an `on_enter`: the student becomes "previous" and `name`, and takes the initial values of `name`."""

    def enter(state: TrainState) -> TrainState:
        params, stats = state.params, state.stats
        old, new = params["student"]["student"], params[_SLOTS][name]
        learning = {**params["student"], "student": new}
        return state.replace(
            params={
                **params,
                "student": learning,
                "previous": {"previous": jax.tree.map(jnp.copy, old)},
                _SLOTS: {**params[_SLOTS], name: old},
            },
            stats={
                **stats,
                "student": stats[name],
                "previous": jax.tree.map(jnp.copy, stats["student"]),
                name: stats["student"],
            },
            # The optimizer object is that of the generation before, so nobody else would start it afresh.
            opt={**state.opt, "student": tx.init(learning)},
        )

    return jax.jit(enter)


def _restarting(term: Term, steps: int) -> Term:
    """Returns the term with schedules that start anew every `steps` steps."""

    def again(value: Any) -> Any:
        if not callable(value):
            return value

        def schedule(step: Array) -> Array:
            return value(step % steps)

        return schedule

    return dataclasses.replace(term, weight=again(term.weight), kwargs={k: again(v) for k, v in term.kwargs.items()})
