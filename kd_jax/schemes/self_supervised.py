"""SSKD: the teacher's outputs on rotated images, and the similarities between them, also teach the student."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from kd_jax.core.terms import calls_of
from kd_jax.losses.self_supervised import view_matching_loss
from kd_jax.models.adapters import as_model
from kd_jax.models.projection import head
from kd_jax.models.views import Views
from kd_jax.ranges import NotNegative, Share
from kd_jax.schemes.offline import watched
from kd_jax.types import Array, Call, Parts, Phase, Role, Scheme, Stage, Term

VIEWS = ("batch.image", "batch.rotated")


def build(
    parts: Parts,
    tap: str = "embedding",
    head_steps: NotNegative[int] = 0,
    head_share: Share[float] = 0.25,
    crops: tuple[str, ...] = (),
) -> Scheme:
    """Builds two stages: the teacher's head learns to match rotated images with originals, then the student learns.

    A batch holds every image and its three rotations by 90 degrees; both networks run on all four, and both have a
    projection head on the value at `tap`. Terms of the config read `student.logits` and `teacher.logits` of the
    originals, `student.features:further_logits` [batch, 3, classes] of the rotated images, and
    `student_head.logits` and `teacher_head.logits` [batch, 4, width]: configs/contrastive.py has the published ones.
    The teacher does not change. The first stage has `head_steps` steps, or if 0 the share `head_share` of
    config.train.steps (the authors: 60 of 240 epochs); the second has config.train.steps.
    `crops` are three names of config.train.views, one for each rotation: the authors crop each rotated image anew. With
    () the one augmented picture is rotated.
    Xu, Liu, Li, Loy, "Knowledge Distillation Meets Self-Supervision", 2020, arXiv 2006.07114.
    """
    if "teacher" not in parts.roles:
        raise ValueError("SSKD needs a teacher, and there is none (config.teacher.model.name).")
    count = head_steps or round(head_share * parts.steps)
    if count < 1:
        raise ValueError(
            f"The teacher's head must make at least 1 step; got head_steps={head_steps} and head_share={head_share} "
            f"of {parts.steps} steps."
        )
    if len(crops) not in (0, 3):
        raise ValueError(
            f"SSKD rotates three pictures of each image, or the one; crops={tuple(crops)} names {len(crops)}."
        )
    roles = dict(parts.roles)
    for name, group in (("student", "student"), ("teacher", "teacher_head")):
        if roles[name].inputs != ("batch.image",):
            raise ValueError(f"SSKD rotates batch.image; the {name} reads {roles[name].inputs}.")
        roles[name] = dataclasses.replace(roles[name], model=Views(roles[name].model))
        model = as_model(head())
        roles[f"{name}_head"] = Role(model, (f"{name}.features:{tap}",), group)
    calls = {
        name: (Call(name, VIEWS, train=name == "student"), Call(f"{name}_head", (f"{name}.features:{tap}",)))
        for name in ("student", "teacher")
    }
    match = Term(view_matching_loss, ("teacher_head.logits",))
    first = Phase("teacher_head", calls["teacher"], {"match": match}, parts.make_tx(count, "teacher_head"))
    read = calls_of(parts.terms.values())
    others = [Call(n, r.inputs, train=False) for n, r in roles.items() if r.group is None and n in read - {"teacher"}]
    forward = (*calls["student"], *calls["teacher"], *others)
    second = Phase("student", forward, parts.terms, parts.make_tx(parts.steps), watched(parts))
    stages = (Stage(count, (first,), name="teacher_head", selects=False), Stage(parts.steps, (second,), name="student"))
    return Scheme(roles, stages, reference="teacher", prepare=_rotating(parts.prepare, tuple(crops)), task=parts.task)


def _rotating(prepare: Any, crops: tuple[str, ...]) -> Any:
    """Adds to a prepared training batch `rotated` [batch, 3, size, size, channels]: by 90, 180 and 270 degrees."""

    def with_rotations(batch: Mapping[str, Array], key: Array, train: bool) -> Mapping[str, Array]:
        prepared = prepare(batch, key, train)
        image = prepared["image"]
        if not train:
            return prepared
        if image.ndim != 4 or image.shape[1] != image.shape[2]:
            raise ValueError(f"SSKD rotates square images [batch, size, size, channels], these are {image.shape}.")
        if missing := [name for name in crops if name not in prepared]:
            raise ValueError(f"SSKD rotates crops={crops}, and config.train.views has no {missing}.")
        pictures = [prepared[name] for name in crops] or [image] * 3
        turned = [jnp.rot90(picture, k, axes=(1, 2)) for k, picture in enumerate(pictures, 1)]
        return {**prepared, "rotated": jnp.stack(turned, axis=1)}

    return with_rotations
