"""Compression by a chain: the teacher is pruned, distilled, factorised, folded, rounded, in the order of the config."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from kd_jax.compress.plan import Network, Smaller, network_of
from kd_jax.core.paths import lookup
from kd_jax.core.terms import calls_of
from kd_jax.data.batches import batch_shapes
from kd_jax.resolve import call, near
from kd_jax.schemes.assistants import in_stage
from kd_jax.schemes.compress_scores import unit_scores, usable
from kd_jax.schemes.offline import watched
from kd_jax.schemes.redirect import redirect
from kd_jax.system import parallel, precision
from kd_jax.types import Call, Parts, Phase, PyTree, Role, Scheme, Stage, Term, TrainState

LEARN = "learn"
LAST = "student"


@dataclasses.dataclass(frozen=True)
class Link:
    """A step of the chain: the role of its network, that network before and after it, and what it does.

    `smaller` is None where the network learns, for `steps` steps on the terms of these names.
    """

    role: str
    before: Network
    after: Network
    label: str
    smaller: Smaller | None = None
    steps: int = 0
    terms: tuple[str, ...] = ()


def build(parts: Parts, chain: Sequence[Mapping[str, Any]] = ()) -> Scheme:
    """Builds the stages of a chain of steps, each of which makes a network of the one before; the first of the teacher.

    A step is {"step": "learn"} with "share" of config.train.steps (what the others leave, in equal parts) and "terms",
    the names of those that it learns (default: all); or {"step": the import path of a planner, and its options}, such
    as {"step": "compress.channels.prune", "share": 0.5} (kd_jax/compress/plan.py). Steps may be left out and repeated.
    Every step has a network of its own, of plain shapes known before anything is trained: the roles "step1", "step2",
    ... and, of the last, "student"; all are evaluated and exported, also those that have learned nothing yet. What
    lies before a learning step happens when its stage begins; after the last one there is a stage of one step in which
    nothing learns. Each learning step has an optimizer of its own, that of config.optimizers[its role] or else of
    config.train.optimizer, and its schedules start anew. Quantisation before a learning step is quantisation aware.
    config.student is the network of the baseline; the chain takes what it reads from there. Scheme.chain says what
    results["chain"] shows. Raises ValueError in one line for whatever a step cannot do.
    Han, Mao, Dally, "Deep Compression", 2015, arXiv 1510.00149 (prune, quantise, encode, where theirs is unstructured);
    Polino, Pascanu, Alistarh, "Model compression via distillation and quantization", 2018, arXiv 1802.05668;
    Muralidharan et al., "Compact Language Models via Pruning and Knowledge Distillation" (Minitron), 2024, arXiv
    2407.14679 (prune, then distill from the network before).
    """
    if "teacher" not in parts.roles or parts.roles["teacher"].group is not None:
        raise ValueError("A chain starts at a frozen teacher, and there is none (config.teacher.model.name).")
    links = planned(parts, chain)
    base = _reader(parts)
    roles = {name: role for name, role in parts.roles.items() if name != LAST}
    if clash := {link.role for link in links} & {*roles}:
        raise ValueError(f"The roles {sorted(clash)} are those of the chain: config.roles needs other names.")
    roles |= {link.role: _role(base, link) for link in links}
    stages = _stages(parts, base, roles, links)
    names = [link.role for link in links if link.role != LAST]
    return Scheme(
        roles,
        tuple(stages),
        evaluate=(LAST, *names),
        reference="teacher",
        copies=("teacher",),
        chain=tuple((link.role, link.label) for link in links),
        task=parts.task,
    )


def _stages(parts: Parts, base: Role, roles: Mapping[str, Role], links: Sequence[Link]) -> list[Stage]:
    """A stage for each learning step, which begins with the steps before it, and one for what follows the last."""
    stages: list[Stage] = []
    waiting: list[Link] = []
    for link in links:
        waiting.append(link)
        if link.smaller is None or link is links[-1]:
            start = sum(stage.steps for stage in stages)
            phase = _learning(parts, roles, link, start) if link.smaller is None else _resting(parts, roles, link)
            before = _role_before(links, waiting[0])
            enter = functools.partial(_enter, parts, base, tuple(waiting), before, phase if not stages else None)
            steps = max(link.steps, 1)
            stages.append(Stage(steps, (phase,), None, enter, link.label, selects=link.role == LAST))
            waiting = []
    return stages


def planned(parts: Parts, chain: Sequence[Mapping[str, Any]]) -> list[Link]:
    """Returns the steps of a chain with their networks, by shapes alone; ValueError for what a step cannot do."""
    if not chain:
        raise ValueError('chain is empty; a step is {"step": "learn"} or {"step": "compress.channels.prune", ...}.')
    network = network_of(parts.roles["teacher"].model, _inputs(parts))
    shares = _shares(chain, parts.steps)
    links: list[Link] = []
    for i, fields in enumerate(chain, start=1):
        role = LAST if i == len(chain) else f"step{i}"
        options = {name: value for name, value in dict(fields).items() if name != "step"}
        step = dict(fields).get("step", "")
        if step == LEARN:
            terms = tuple(options.get("terms") or parts.terms)
            label = _learning_label(parts, terms, shares[i])
            links.append(Link(role, network, network, label, None, shares[i], terms))
            continue
        smaller = _made(step, network, options)
        if smaller.units and smaller.score == "taylor":
            usable(parts)
        after = network_of(smaller.model, network.inputs)
        links.append(Link(role, network, after, smaller.label, smaller))
        network = after
    return links


def _made(step: Any, network: Network, options: Mapping[str, Any]) -> Smaller:
    if not isinstance(step, str) or not {".", ":"} & {*step}:
        raise ValueError(
            f"chain: there is no step {step!r}. A step is {LEARN!r}, or the import path of a planner such as "
            "'compress.channels.prune', 'compress.lowrank.factorise', 'compress.folding.fold', "
            "'compress.rounding.quantise' or 'compress.anew.anew'."
        )
    made = call(step, network, **options)
    if not isinstance(made, Smaller):
        raise ValueError(f"chain: {step!r} returned a {type(made).__name__}, and a step returns compress.plan.Smaller.")
    return made


def _shares(chain: Sequence[Mapping[str, Any]], total: int) -> dict[int, int]:
    """{position: training steps} of the steps that learn, which sum to `total`."""
    learning = {i: dict(fields) for i, fields in enumerate(chain, start=1) if dict(fields).get("step") == LEARN}
    for fields in learning.values():
        if unknown := sorted({*fields} - {"step", "share", "terms"}):
            raise ValueError(f"chain: learn has no option {unknown[0]!r}. {near(unknown[0], ('share', 'terms'))}")
    fixed = {i: float(fields["share"]) for i, fields in learning.items() if fields.get("share")}
    rest = len(learning) - len(fixed)
    left = 1 - sum(fixed.values())
    fits = left > 0 if rest else abs(left) <= 1e-6 or not fixed
    if min(fixed.values(), default=1) <= 0 or not fits:
        raise ValueError(f"chain: the shares of the learning steps sum to {1 - left:g}, not to 1.")
    ends = np.cumsum([fixed.get(i, left / max(rest, 1)) for i in learning])
    edges = [0, *(round(total * float(end)) for end in ends)]
    steps = {i: after - before for i, before, after in zip(learning, edges, edges[1:], strict=False)}
    if min(steps.values(), default=1) < 1:
        raise ValueError(f"chain: {total} steps (config.train.steps) leave a learning step none: {[*steps.values()]}.")
    return steps


def _learning_label(parts: Parts, terms: tuple[str, ...], steps: int) -> str:
    for name in terms:
        if name not in parts.terms:
            raise ValueError(f"chain: learn names the term {name!r}. {near(name, parts.terms)}")
    taught = "teacher" in calls_of(parts.terms[name] for name in terms)
    return f"{'distill' if taught else 'learn from labels'}, {steps} steps"


def _role(base: Role, link: Link) -> Role:
    """The role of a network, which is empty until its stage begins: nothing is drawn that is not used."""
    role = dataclasses.replace(base, model=link.after.model, group=link.role)
    if link.smaller is not None and link.smaller.transform is None:
        return role
    empty = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), (link.after.params, link.after.stats))
    return dataclasses.replace(role, initial=empty)


def _reader(parts: Parts) -> Role:
    """The student's role, shown what the teacher is where that has a preparation of its own: it is the same network."""
    student, teacher = parts.roles[LAST], parts.roles["teacher"]
    if teacher.preparation is None:
        return student
    return dataclasses.replace(student, inputs=teacher.inputs, preparation=teacher.preparation)


def _inputs(parts: Parts) -> tuple[PyTree, ...]:
    """The shapes of what the networks of the chain read."""
    batch = batch_shapes(parts.sources["train"], 2)
    prepared = jax.eval_shape(lambda b, k: parts.prepare(b, k, True), batch, jax.random.key(0))
    return tuple(lookup({"batch": prepared}, path) for path in _reader(parts).inputs)


def _learning(parts: Parts, roles: Mapping[str, Role], link: Link, start: int) -> Phase:
    terms = {name: _in_stage(parts.terms[name], parts.steps, start, link.steps) for name in link.terms}
    tx = parts.make_tx(link.steps, link.role)
    return Phase(
        link.role, _calls(roles, link, terms), _renamed(terms, link), tx, watched(parts, f"{link.role}.logits")
    )


def _resting(parts: Parts, roles: Mapping[str, Role], link: Link) -> Phase:
    """The phase of a stage in which nothing changes: the network is scored and saved as the step before has made it."""
    first, *rest = _calls(roles, link, parts.terms)
    forward = (dataclasses.replace(first, train=False), *rest)
    return Phase(link.role, forward, _renamed(parts.terms, link), optax.set_to_zero())


def _calls(roles: Mapping[str, Role], link: Link, terms: Mapping[str, Term]) -> tuple[Call, ...]:
    named = calls_of(terms.values())
    teachers = [name for name, role in roles.items() if role.group is None and name in named]
    return (Call(link.role, roles[link.role].inputs), *(Call(n, roles[n].inputs, train=False) for n in teachers))


def _renamed(terms: Mapping[str, Term], link: Link) -> dict[str, Term]:
    """The terms for the network of this step; names of their own, so that no step trains the connectors of another."""
    return redirect(terms, {LAST: link.role}, "" if link.role == LAST else f"{link.role}_")


def _in_stage(term: Term, total: int, start: int, count: int) -> Term:
    """The term with schedules that go over the steps of one stage."""
    kwargs = {k: in_stage(v, total, start, count) for k, v in term.kwargs.items()}
    return dataclasses.replace(term, weight=in_stage(term.weight, total, start, count), kwargs=kwargs)


def _role_before(links: Sequence[Link], link: Link) -> str:
    i = links.index(link)
    return links[i - 1].role if i else "teacher"


def _enter(
    parts: Parts, base: Role, links: tuple[Link, ...], before: str, first: Phase | None, state: TrainState
) -> TrainState:
    """Makes the arrays of the networks of a stage, each from those of the one before; in Python, on the host."""
    if before == "teacher":
        params, stats = state.frozen["teacher"]
        params = precision.restored(params)
    else:
        params, stats = state.params[before][before], state.stats[before]
    # Copies: a step donates its state, and on the CPU NumPy may look at the very buffer that it overwrites.
    params, stats = jax.tree.map(np.array, parallel.on_host((params, stats)))
    for link in links:
        smaller, role = link.smaller, link.role
        transform = smaller.transform if smaller is not None else None
        if smaller is not None and transform is None:  # the network starts anew: as the state began
            values = state.params[role][role], state.stats[role]
            params, stats = jax.tree.map(np.array, parallel.on_host(values))
        elif smaller is not None and transform is not None:
            scores = unit_scores(parts, base.inputs, link.before.model, smaller, params, stats, state)
            params, stats = transform(params, stats, scores)
        state = _placed(state, role, params, stats)
    if first is None:
        return state
    # The optimizer of the first stage was made for the values that stood there at first.
    shardings = jax.tree.map(lambda x: x.sharding, state.opt[first.group])
    opt = jax.jit(first.tx.init, out_shardings=shardings)(state.params[first.group])
    return state.replace(opt={**state.opt, first.group: opt})


def _placed(state: TrainState, role: str, params: PyTree, stats: PyTree) -> TrainState:
    """The state with copies of these values in the place, types and shardings of a role."""
    like = state.params[role][role], state.stats[role]
    if jax.tree.structure((params, stats)) != jax.tree.structure(like):
        raise ValueError(f"chain: {role} was planned with other arrays than its step has made.")
    values = jax.tree.map(lambda x, w: np.array(x, w.dtype), (params, stats), like)
    wrong = [
        (x.shape, w.shape) for x, w in zip(*map(jax.tree.leaves, (values, like)), strict=True) if x.shape != w.shape
    ]
    if wrong:
        raise ValueError(f"chain: {role} was planned with shapes {wrong[0][1]}, its step has made {wrong[0][0]}.")
    params, stats = parallel.place(values, jax.tree.map(lambda x: x.sharding, like))
    params = {**state.params, role: {**state.params[role], role: params}}
    return state.replace(params=params, stats={**state.stats, role: stats})
