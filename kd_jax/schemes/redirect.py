"""Terms of one network rewritten for another, and the terms that read a network, for schemes that train several."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from kd_jax.core.paths import Path, connector_of
from kd_jax.core.terms import paths_of
from kd_jax.types import Term


def redirect(terms: Mapping[str, Term], names: Mapping[str, str], prefix: str = "", batch: str = "") -> dict[str, Term]:
    """Returns the terms with the networks in their paths replaced (`names`, as in {"student": "peer"}).

    A `prefix` gives each term and its connector a name of its own, so that two phases do not share them; a term with a
    memory, which another network must not write into, is then refused with ValueError. `batch` names the entry of the
    batch in which the terms find theirs.
    """
    if prefix and (remembering := [name for name, term in terms.items() if term.memory is not None]):
        raise ValueError(
            f"The terms {remembering} keep a memory, and this scheme gives the same terms to several networks."
        )
    names = {**names, **{name: prefix + name for name in terms}}
    return {prefix + name: renamed(term, names, batch) for name, term in terms.items()}


def renamed(term: Term, names: Mapping[str, str], batch: str = "") -> Term:
    """Returns the term with every network, connector's term and memory in its paths under the name `names` has."""

    def new(text: str) -> str:
        path = Path.parse(text)
        if path.kind == "batch":
            return str(path.within(batch) if batch else path)
        owner = owner_of(path)
        name = names.get(owner, owner)
        return str(dataclasses.replace(path, owner=connector_of(name) if path.connected else name))

    return dataclasses.replace(
        term,
        inputs=tuple(map(new, term.inputs)),
        targets=tuple(map(new, term.targets)),
        options={k: new(path) for k, path in term.options.items()},
        where=new(term.where) if term.where else None,
    )


def owner_of(path: Path) -> str:
    """Returns the network or term whose value a path leads to; "" for the batch, the term's own memory and the step."""
    return path.connected or (path.owner if path.kind not in ("batch", "memory", "step") else "")


def reading(role: str, terms: Mapping[str, Term]) -> set[str]:
    """Returns the terms that read a role, directly or through the connector of an earlier term that reads it."""
    readers = {role}
    for name, term in terms.items():
        if readers & {owner_of(Path.parse(path)) for path in paths_of(term)}:
            readers.add(name)
    return readers - {role}
