"""Domain adaptation: a teacher of a source domain teaches a student on unlabelled data of a target domain."""

from __future__ import annotations

import dataclasses

import jax
import optax

from kd_jax.ranges import NotNegative
from kd_jax.schemes import offline
from kd_jax.types import Call, Parts, Phase, Role, Scheme, Stage, TrainState


def build(parts: Parts, *, statistics_steps: NotNegative[int] = 50) -> Scheme:
    """Builds a stage "statistics", then offline distillation for the other steps, whose terms may read "adapted".

    The role "adapted" starts as a copy of the teacher. In the first stage it reads target batches in training mode,
    which moves the running averages of its BatchNorms; its parameters stay, since no term trains them. Afterwards it
    runs in evaluation mode. The student, "adapted" and the unchanged teacher are scored on the target domain.
    `statistics_steps` = 0 leaves the first stage and the role out.
    AdaBN: Li, Wang, Shi, Liu, Hou, "Revisiting Batch Normalization For Practical Domain Adaptation", 2016, arXiv
    1603.04779; they take the statistics of the whole target set, we the running average.
    Raises ValueError without a teacher, where no steps are left for the student and, before the first step, for a
    teacher that keeps no statistics.
    """
    if "teacher" not in parts.roles:
        raise ValueError("Domain adaptation starts from a teacher of the source domain, and there is none.")
    if not 0 <= statistics_steps < parts.steps:
        raise ValueError(
            f"statistics_steps={statistics_steps} is not from 0 to below the {parts.steps} steps of the run."
        )
    if not statistics_steps:
        return dataclasses.replace(offline.build(parts), evaluate=("student", "teacher"))
    teacher = parts.roles["teacher"]
    adapted = Role(teacher.model, teacher.inputs, group="adapted", initial="teacher")
    steps = parts.steps - statistics_steps
    scheme = offline.build(dataclasses.replace(parts, roles={**parts.roles, "adapted": adapted}, steps=steps))
    moves = Phase("adapted", (Call("adapted", teacher.inputs),), {}, optax.set_to_zero())
    learns = scheme.stages[0].phases[0]
    learns = dataclasses.replace(learns, forward=(*learns.forward, Call("adapted", teacher.inputs, train=False)))

    def require_statistics(state: TrainState) -> TrainState:
        if not jax.tree.leaves(state.stats["adapted"]):
            raise ValueError("The teacher keeps no statistics (BatchNorm) that could move to the target domain.")
        return state

    stages = (
        Stage(statistics_steps, (moves,), on_enter=require_statistics, name="statistics"),
        Stage(steps, (learns,), name="learn"),
    )
    return dataclasses.replace(scheme, stages=stages, evaluate=("student", "adapted", "teacher"))
