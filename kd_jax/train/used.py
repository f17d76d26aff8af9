"""Networks, views and optimizers of a config that its scheme does not use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from kd_jax.core.bind import evaluated_roles
from kd_jax.core.paths import Path, calls_in, roles_read
from kd_jax.core.terms import paths_of
from kd_jax.resolve import near
from kd_jax.types import Phase, Scheme


def check_used(config: ConfigDict, train: Mapping[str, Any], scheme: Scheme, groups: Iterable[str]) -> None:
    """Raises ValueError for roles, teachers, views and optimizers of a config that its scheme does not use.

    `groups` are those whose optimizer the scheme asked for.
    """
    paths = _paths(scheme)
    used = {call.role for phase in phases_of(scheme) for call in phase.forward}
    used |= {*evaluated_roles(scheme), *scheme.copies, *roles_read(paths), *calls_in(paths)}
    used |= {role.initial for role in scheme.roles.values() if isinstance(role.initial, str)}
    for kind in ("roles", "teachers"):
        if idle := sorted({*config[kind]} - used):
            raise ValueError(
                f"config.{kind}.{idle[0]}: the scheme {config.scheme.name} calls no such network, and no term reads "
                f"it. {near(idle[0], used)}"
            )
    if idle := sorted({*config.optimizers} - {*groups}):
        raise ValueError(f"config.optimizers.{idle[0]}: the scheme trains no such group. {near(idle[0], groups)}")
    entries = {Path.parse(p).owner for p in paths if Path.parse(p).kind == "batch"}
    entries |= {entry for role in scheme.roles.values() if role.preparation for entry in role.preparation.entries}
    if scheme.prepare is None and (idle := sorted({*train["views"]} - entries)):
        raise ValueError(f"config.train.views.{idle[0]}: no network or term reads batch.{idle[0]}.")


def phases_of(scheme: Scheme) -> list[Phase]:
    """Returns the phases of all stages."""
    return [phase for stage in scheme.stages for phase in stage.phases]


def _paths(scheme: Scheme) -> set[str]:
    """Every path that the networks and terms of a scheme read."""
    paths = {p for role in scheme.roles.values() for p in role.inputs}
    for phase in phases_of(scheme):
        paths |= {p for call in phase.forward for p in call.inputs}
        paths |= {p for term in (*phase.terms.values(), *phase.metrics.values()) for p in paths_of(term)}
    return paths
