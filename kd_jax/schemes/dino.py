"""DINO: a network learns what the average of its own weights says of other views of an image, without labels."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from kd_jax.core.terms import calls_of
from kd_jax.models.adapters import as_model
from kd_jax.models.projection import prototype_head
from kd_jax.ranges import BelowOne, Count
from kd_jax.schemes.average_teacher import mixed
from kd_jax.types import Array, Call, Model, Parts, Phase, Role, Scheme, Stage, TrainState

STUDENT, AVERAGE = ("student", "student_head"), ("average", "average_head")


def build(
    parts: Parts,
    views: Mapping[str, str],
    crops: Mapping[str, str] | None = None,
    prototypes: Count[int] = 65536,
    hidden: Count[int] = 2048,
    bottleneck: Count[int] = 256,
    decay: BelowOne[float] = 0.996,
    center_momentum: BelowOne[float] = 0.9,
) -> Scheme:
    """Builds self-distillation: the student and its head learn, their moving averages teach; nobody needs a label.

    `views` {name: path} are further pictures of an image of which the average speaks too, {"other": "batch.other"} of
    config.train.views; `crops` are seen by the student alone (multi-crop). Terms read "student_head.logits" of the
    student's own input, "student_head_<name>.logits" of a view or crop, "average_head.logits" and
    "average_head_<name>.logits", and `extra.center` [prototypes]: losses.self_distillation.centred_views_loss.
    The student's main output is what its head reads, and what is scored; the student and its average are.
    After every step average = d average + (1 - d) student, d from `decay` to 1 along a cosine, and
    center = m center + (1 - m) mean of what the average's head said, m = `center_momentum`.
    Caron et al., "Emerging Properties in Self-Supervised Vision Transformers" (DINO), 2021, arXiv 2104.14294. Their
    average runs in training mode; ours in eval mode on averages of the student's statistics (schemes.average_teacher).
    They hold the last layer still in the first epoch and raise the teacher's temperature in the first 30: give the
    latter as a schedule of the term. Raises ValueError without a view, and for one that no term reads.
    """
    crops = crops or {}
    if taken := {*STUDENT[1:], *AVERAGE} & {*parts.roles}:
        raise ValueError(f"The roles {sorted(taken)} are made by the scheme: config.roles needs other names.")
    if not views or {*views} & {*crops}:
        raise ValueError(
            f"DINO needs a further view, and crops of other names: views={dict(views)}, crops={dict(crops)}."
        )
    read = calls_of(parts.terms.values())
    wanted = {"average_head", *(f"{who}_head_{name}" for name in views for who in ("student", "average"))}
    if missing := sorted((wanted | {f"student_head_{name}" for name in crops}) - read):
        raise ValueError(f"No term reads '{missing[0]}.logits': {sorted(parts.terms)} do not use every view.")
    roles = _with_averages(parts.roles, as_model(prototype_head(prototypes, hidden, bottleneck)))
    inputs = parts.roles["student"].inputs
    forward = [*_on_views("student", inputs, {**views, **crops}, True), *_on_views("average", inputs, views, False)]
    teachers = [n for n, r in parts.roles.items() if r.group is None and n in read]
    forward += [Call(name, parts.roles[name].inputs, train=False) for name in teachers]
    phase = Phase("student", tuple(forward), parts.terms, parts.make_tx(parts.steps))
    said = ["average_head", *(f"average_head_{name}" for name in views)]
    moving = _moving(parts.steps, decay, center_momentum, said)
    return Scheme(
        roles,
        (Stage(parts.steps, (phase,), post_update=moving),),
        evaluate=("student", "average"),
        reference="teacher" if "teacher" in parts.roles else None,
        extra={"center": jnp.zeros(prototypes)},
        task=parts.task,
    )


def _with_averages(roles: Mapping[str, Role], head: Model) -> dict[str, Role]:
    """The roles with the student's head, and with the averages of both."""
    result = {**roles, "student_head": Role(head, ("student.logits",), "student")}
    for name, start in _PAIRS:
        result[name] = dataclasses.replace(result[start], group="average", initial=start)
    result["average_head"] = dataclasses.replace(result["average_head"], inputs=("average.logits",))
    return result


def _on_views(who: str, inputs: tuple[str, ...], views: Mapping[str, str], train: bool) -> list[Call]:
    """The calls of a network and its head on its own input and on the views."""
    calls = [*_calls(who, inputs, "", train)]
    for name, path in views.items():
        calls += _calls(who, (path,), f"_{name}", train)
    return calls


def _calls(who: str, inputs: tuple[str, ...], view: str, train: bool) -> tuple[Call, Call]:
    """The calls of a network and of its head on one view."""
    call = Call(who, inputs, train, f"{who}{view}" if view else "")
    return call, Call(f"{who}_head", (f"{who}{view}.logits",), train, f"{who}_head{view}" if view else "")


def _moving(
    steps: int, decay: float, momentum: float, said: list[str]
) -> Callable[[TrainState, Mapping[str, Any]], TrainState]:
    def post_update(state: TrainState, context: Mapping[str, Any]) -> TrainState:
        keep = 1 - (1 - decay) * (1 + jnp.cos(math.pi * state.step / steps)) / 2
        student, average = state.params["student"], state.params["average"]
        params = {name: mixed(average[name], student[start], keep) for name, start in _PAIRS}
        stats = {name: mixed(state.stats[name], state.stats[start], keep) for name, start in _PAIRS}
        mean: Array = jnp.mean(jnp.stack([context[call].logits.mean(0) for call in said]), axis=0)
        center = momentum * state.extra["center"] + (1 - momentum) * mean
        return state.replace(
            params={**state.params, "average": params},
            stats={**state.stats, **stats},
            extra={**state.extra, "center": center},
        )

    return post_update


_PAIRS = tuple(zip(AVERAGE, STUDENT, strict=True))
