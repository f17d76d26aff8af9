"""Online distillation: networks teach one another while all of them learn; no teacher is trained first.

Deep mutual learning, KDCL, and teacher and student trained together are one scheme with different roles and terms.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.core.paths import Path, entry_paths, lookup
from kd_jax.core.terms import calls_of
from kd_jax.models.branches import stacked
from kd_jax.ranges import Count, NotNegative
from kd_jax.resolve import near
from kd_jax.schemes.offline import watched
from kd_jax.types import Array, Call, Parts, Phase, PyTree, Role, Scheme, Stage, Term, TrainState


def build(parts: Parts, peers: int = 1, inputs: tuple[str, ...] = (), leader: int = 0) -> Scheme:
    """Builds one phase for each group that is not frozen, on the terms whose first input is of that group.

    `peers` > 1 trains that many copies of the student side by side ("student.logits" is [B, peers, classes], one vmap);
    networks of another architecture are further config.roles. `inputs` gives each peer a batch path of its own
    (config.train.views). A phase runs the networks of other groups in training mode, with their newest parameters, and
    does not change them: a teacher whose terms read only labels learns only from labels. Every network is evaluated,
    and the ensemble of all; the peer `leader`, which is meant for use, comes first.
    """
    roles = dict(parts.roles)
    if peers == 1:
        if inputs:
            raise ValueError(f"inputs={tuple(inputs)} are those of several peers, and peers is 1.")
        return together(parts, roles, ("student",))
    if inputs and len(inputs) != peers:
        raise ValueError(f"{peers} peers read one input each, inputs={tuple(inputs)} names {len(inputs)}.")
    model = stacked(roles["student"].model, peers, bool(inputs))
    roles["student"] = dataclasses.replace(roles["student"], model=model)
    return together(parts, roles, peer_entries("student", peers, leader), {"student": tuple(inputs)} if inputs else {})


def peer_entries(role: str, count: int, leader: int) -> tuple[str, ...]:
    """Returns the entries of Scheme.evaluate for a role with logits [B, count, classes], number `leader` first."""
    if not 0 <= leader < count:
        raise ValueError(f"leader is one of the {count} networks 0 .. {count - 1}, not {leader}.")
    return tuple(f"{role}.logits@{i}" for i in sorted(range(count), key=lambda i: i != leader))


def together(
    parts: Parts,
    roles: Mapping[str, Role],
    student: tuple[str, ...],
    reads: Mapping[str, tuple[str, ...]] | None = None,
) -> Scheme:
    """Builds the scheme in which all groups learn at once.

    `student` are the student's entries of Scheme.evaluate; `reads` are inputs of calls that differ from those of the
    role. Raises ValueError for a term that trains nothing, and for a group that no term trains.
    """
    reads = {**{name: role.inputs for name, role in roles.items()}, **(reads or {})}
    learners = {name: role.group for name, role in roles.items() if role.group is not None}
    entries_of = {name: student if name == "student" else (name,) for name in learners}
    first = {name: entry_paths(entries[0])[0] for name, entries in entries_of.items()}
    owned = _terms_by_group(parts.terms, roles)
    phases = [_phase(parts, group, terms, roles, reads, first) for group, terms in owned.items()]
    entries = [entry for of_role in entries_of.values() for entry in of_role]
    joined = ["+".join(entries)] if len(entries) > 1 else []
    reference = "teacher" if "teacher" in roles and "teacher" not in learners else None
    return Scheme(
        roles, (Stage(parts.steps, tuple(phases)),), evaluate=(*entries, *joined), reference=reference, task=parts.task
    )


def _terms_by_group(terms: Mapping[str, Term], roles: Mapping[str, Role]) -> dict[str, dict[str, Term]]:
    """Returns the terms that train each group, in the order of the roles."""
    owned: dict[str, dict[str, Term]] = {role.group: {} for role in roles.values() if role.group is not None}
    for name, term in terms.items():
        owned[_group_of(name, terms, roles)][name] = term
    return owned


def _phase(
    parts: Parts,
    group: str,
    terms: Mapping[str, Term],
    roles: Mapping[str, Role],
    reads: Mapping[str, tuple[str, ...]],
    paths: Mapping[str, str],
) -> Phase:
    """Returns the phase of a group; `paths` are the main outputs that its metrics read, of every role that learns."""
    if not terms:
        raise ValueError(f"No term teaches {group!r}: none has it as its first input. The terms: {[*parts.terms]}.")
    named = calls_of(terms.values())
    calls = tuple(Call(n, reads[n], role.group is not None) for n, role in roles.items() if n in named)
    metrics = {}
    for name, path in paths.items():
        if name in named and roles[name].group == group:
            metrics |= watched(parts, path, name=name if len(paths) > 1 else "")
    return Phase(group, calls, terms, parts.make_tx(parts.steps, group), metrics)


def _group_of(name: str, terms: Mapping[str, Term], roles: Mapping[str, Role]) -> str:
    """Returns the group that a term trains: the group of its first input, or of the term whose connector that is."""
    first = Path.parse(terms[name].inputs[0])
    if first.connected in terms:
        return _group_of(first.connected, terms, roles)
    head = first.call or first.kind
    if head not in roles:
        raise ValueError(f"Term {name!r} has the first input {terms[name].inputs[0]!r}. {near(head, roles)}")
    group = roles[head].group
    if group is None:
        raise ValueError(f"Term {name!r} would train {head!r}, which is frozen: the first input is who learns.")
    return group


def kdcl_general(
    parts: Parts,
    peers: int = 2,
    inputs: tuple[str, ...] = (),
    leader: int = 0,
    rounds: int = 10,
    split: str = "validation",
    limit: Count[int] = 1024,
    ridge: NotNegative[float] = 1e-3,
) -> Scheme:
    """Builds `build` with "extra.peer_shares" [peers]: the weights of the ensemble of least error on held-out data.

    With C_ij the mean over the first `limit` examples of `split` of <p_i - y, p_j - y> (y one-hot), the shares are
    a = C^-1 1 / 1^T C^-1 1, measured at the start of each of `rounds` equal stages. `ridge` times the mean of the
    diagonal is added to the diagonal, and negative shares become 0 before they are normalised (both ours).
    KDCL-General of Guo et al., CVPR 2020, after Perrone, Cooper, 1993. The validation split also chooses the best step:
    unless `split` is another one, only the scores of the last step are clean.
    """
    source = parts.sources.get(split)
    if source is None or peers < 2 or not 1 <= rounds <= parts.steps:
        have = [name for name, source in parts.sources.items() if source is not None]
        raise ValueError(
            f"kdcl_general measures at least 2 peers ({peers}) on a split ({split!r}; there is: {have}) in 1 to "
            f"{parts.steps} rounds ({rounds})."
        )
    scheme = build(parts, peers, inputs, leader)
    stage, role = scheme.stages[0], scheme.roles["student"]
    held_out = source.batch(min(limit, len(source)))

    @jax.jit
    def measure(params: PyTree, stats: PyTree, batch: Mapping[str, Array], extra: Mapping[str, PyTree]) -> Array:
        context = {"batch": parts.prepare(batch, jax.random.key(0), False), "extra": extra}
        values = [lookup(context, path) for path in role.inputs]
        outputs, _ = role.model.apply(params, stats, *values, train=False, key=jax.random.key(0))
        return error_shares(outputs.logits, batch["label"], batch["labelled"], ridge)

    def enter(state: TrainState) -> TrainState:
        shares = measure(state.params["student"]["student"], state.stats["student"], held_out, state.extra)
        shares = jax.device_put(shares, state.extra["peer_shares"].sharding)
        return state.replace(extra={**state.extra, "peer_shares": shares})

    bounds = [parts.steps * i // rounds for i in range(rounds + 1)]
    lengths = enumerate(end - start for start, end in zip(bounds, bounds[1:], strict=False))
    stages = tuple(dataclasses.replace(stage, steps=n, on_enter=enter, name=f"round {i}") for i, n in lengths)
    return dataclasses.replace(scheme, stages=stages, extra={"peer_shares": np.full(peers, 1 / peers, np.float32)})


def error_shares(logits: Array, labels: Array, where: Array, ridge: float) -> Array:
    """Computes the shares [peers] of `kdcl_general` from logits [N, peers, classes], labels [N], `where` bool [N]."""
    errors = jax.nn.softmax(logits) - jax.nn.one_hot(labels, logits.shape[-1])[:, None]
    errors = jnp.where(where[:, None, None], errors, 0)
    products = jnp.einsum("nic,njc->ij", errors, errors, precision=jax.lax.Precision.HIGHEST)
    products += ridge * jnp.maximum(jnp.trace(products) / len(products), 1e-6) * jnp.eye(len(products))
    shares = jnp.maximum(jnp.linalg.solve(products, jnp.ones(len(products))), 0)
    return shares / jnp.sum(shares)
