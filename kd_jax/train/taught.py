"""A teacher that is ready to teach, and how one is made of answers alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from kd_jax.cache.stored import StoredAnswers, has_answers
from kd_jax.core.network import Network
from kd_jax.train.jobs import Job
from kd_jax.train.scores import CACHED, check_teacher, score_teacher
from kd_jax.types import Role, Variables


@dataclasses.dataclass(frozen=True)
class Taught:
    """A teacher that is ready: its frozen role with what it answers from, its scores, and how it came to be.

    `variables()` reads (params, stats), for a student that starts from them; `network` is measured for the report;
    `finished` are the results of its training, None where it was loaded.
    """

    role: Role
    scores: Mapping[str, Any]
    variables: Callable[[], Variables]
    network: Network | None = None
    finished: dict[str, Any] | None = None


def answering(job: Job, name: str, role: Role, answers: StoredAnswers, fields: ConfigDict, mesh: Mesh) -> Taught:
    """Returns a teacher of which there are only answers, scored on the splits that it has answers to."""

    def variables() -> Variables:
        raise ValueError(f"The student starts from the {name}, and there are only its answers.")

    scores = score_teacher(job, role, (), mesh)
    if answers.store.k and scores:
        scores["of"] = CACHED
    check_teacher(job, name, fields, scores)
    shown = has_answers(job.sources["test"], role)  # the report asks all networks about test images
    network = Network(role.model, {}, {}, role, {}, f"{name}.logits", {}) if shown else None
    return Taught(role, scores, variables, network)
