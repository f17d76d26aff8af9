"""Trainings whose teachers are answers alone: what of a teacher's fields they cannot use, and whom they compare."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from ml_collections import ConfigDict

from kd_jax.cache.stored import StoredAnswers, has_answers
from kd_jax.core.terms import plain_function
from kd_jax.data.moved_masks import moved
from kd_jax.data.source import Source
from kd_jax.types import Scheme


def check_unneeded(name: str, teacher: ConfigDict) -> None:
    """Raises ValueError for fields of a teacher that need a network, where there are only its answers."""
    named = {"checkpoint": teacher.checkpoint, "initial.name": teacher.initial.name, "dtype": teacher.dtype}
    named |= {"cache.directory": teacher.cache.directory, "preparation": dict(teacher.preparation)}
    for field, value in named.items():
        if value:
            raise ValueError(
                f"config.{name}.{field}={value!r} is of a network, and of the {name} there are only answers."
            )


def check_moved(name: str, scheme: Scheme) -> None:
    """Raises ValueError where pictures are moved together with their masks, and answers at every pixel are stored."""
    if plain_function(getattr(scheme.prepare, "more", None)) is moved:
        raise ValueError(
            f"config.prepare.name=data.moved_masks.moved moves pictures, and the stored answers of the {name} are to "
            "pictures that are not moved: config.prepare.name=''."
        )


def compared(
    name: str, scheme: Scheme, sources: Mapping[str, Source | None], stored: Mapping[str, StoredAnswers]
) -> Scheme:
    """Returns the scheme of a training without a reference that lacks answers to an evaluated split; says so."""
    reference = scheme.reference
    if reference not in stored:
        return scheme
    role = scheme.roles[reference]
    splits = ("validation", "test", *scheme.stage_splits)
    without = [s for s in splits if sources.get(s) is not None and not has_answers(sources[s], role)]
    if not without:
        return scheme
    print(f"{name}: the {reference} has no answers to {' and '.join(without)}: agreement with it is left out")
    return dataclasses.replace(scheme, reference=None)
