"""Branches of one network that teach one another: ONE and OKDDip, over a student that shares its first layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from kd_jax.models.adapters import as_model
from kd_jax.resolve import check_kwargs, resolve
from kd_jax.schemes.online import peer_entries, together
from kd_jax.types import Parts, Scheme


def build(parts: Parts, model: Mapping[str, Any], branches: int = 3, leader: int = 0, ensemble: str = "") -> Scheme:
    """Builds training of all `branches` of `model` ({name, kwargs}) at once, on the terms of the config.

    config.student.model stays the single network, which the baseline trains. `model` should be the same network cut
    into trunk and branches, as models.branches.branched_cnn is for models.vision.cnn.cnn; models.branches.member takes
    one branch out. "student.logits" is [B, branches, classes]. Evaluated are the branches, first the `leader` (the one
    that is meant for use), and their ensemble: the tap `ensemble`, or with "" the mean of their probabilities.
    ONE (arXiv 1806.04606): any branch is used, ensemble="ensemble". OKDDip (arXiv 1912.00350): the last one leads.
    """
    if branches < 2 or "branches" in model["kwargs"]:
        raise ValueError(f"branches={branches} is an option of the scheme, at least 2, and not of {model['name']!r}.")
    kwargs = {"num_classes": parts.sources["train"].num_classes, **model["kwargs"], "branches": branches}
    factory = resolve(model["name"])
    check_kwargs(model["name"], factory, kwargs)
    network = as_model(factory(**kwargs))
    roles = {**parts.roles, "student": dataclasses.replace(parts.roles["student"], model=network)}
    scheme = together(parts, roles, peer_entries("student", branches, leader))
    if not ensemble:
        return scheme
    return dataclasses.replace(scheme, evaluate=(*scheme.evaluate[:-1], f"student.features:{ensemble}"))
