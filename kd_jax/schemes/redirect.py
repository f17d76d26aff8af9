"""Which terms read a network, and the terms of one network written for another, for schemes that train several."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from kd_jax.core.terms import paths_of
from kd_jax.types import Term

# "student.logits", "params.student.head", "kd/connector", "extra.kd": the owner of the value is the middle group.
_PATH = re.compile(r"((?:params|stats|extra)\.)?([^./]+)(.*)")


def redirect(terms: Mapping[str, Term], names: Mapping[str, str], prefix: str = "") -> dict[str, Term]:
    """The terms with every path of `names` (the owner, as in {"student": "peer"}) and the terms' names rewritten.

    A `prefix` gives each term and its connector a name of its own, so that two phases do not share them; a term with a
    memory, which knows its own name, is then refused with ValueError.
    """
    if prefix and (kept := [name for name, term in terms.items() if term.memory is not None]):
        raise ValueError(f"The terms {kept} keep a memory, and this scheme gives the same terms to several networks.")
    names = {**names, **{name: prefix + name for name in terms}}
    return {prefix + name: renamed(term, names) for name, term in terms.items()}


def renamed(term: Term, names: Mapping[str, str]) -> Term:
    """The term with every path's owner replaced by what `names` has for it."""

    def new(path: str) -> str:
        kind, owner, rest = _PATH.fullmatch(path).groups()
        return f"{kind or ''}{names.get(owner, owner)}{rest}"

    return dataclasses.replace(
        term,
        inputs=tuple(map(new, term.inputs)),
        targets=tuple(map(new, term.targets)),
        options={k: new(path) for k, path in term.options.items()},
        where=new(term.where) if term.where else None,
    )


def reading(role: str, terms: Mapping[str, Term]) -> set[str]:
    """The terms that read a role, or the connector of a term that does (terms come after those that they read)."""
    found = {role}
    for name, term in terms.items():
        if found & {_PATH.fullmatch(path)[2] for path in paths_of(term)}:
            found.add(name)
    return found - {role}
