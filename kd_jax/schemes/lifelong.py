"""Lifelong learning: the student learns a stream of tasks, one stage each, and should not forget earlier ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.core.paths import calls_in
from kd_jax.core.terms import calls_of
from kd_jax.ranges import NotNegative
from kd_jax.resolve import near
from kd_jax.schemes import exemplars, lifelong_summary
from kd_jax.tasks.units import share_of
from kd_jax.types import Array, Call, Model, Outputs, Parts, Phase, PyTree, Role, Scheme, Stage, Term, TrainState

SCENARIOS = ("class", "task", "domain")
PAST = {"previous", "replay", "recalled"}  # outputs that exist only once a task has ended
NEVER = -1e4  # the logit of a class that is ruled out: finite, so that the loss on a class to come is a number


@dataclasses.dataclass(frozen=True, eq=False)
class Restricted:
    """Wraps `model`: inputs (label, rivals) after those of the model set its logits to NEVER where rivals[label] is 0.

    `inputs` is the number of the model's inputs; label int [batch], rivals bool [classes, classes].
    """

    model: Model
    inputs: int

    def init(self, key: Array, *inputs: Array) -> tuple[PyTree, PyTree]:
        return self.model.init(key, *inputs[: self.inputs])

    def apply(
        self, params: PyTree, stats: PyTree, *inputs: Array, train: bool, key: Array, taps: tuple[str, ...] = ()
    ) -> tuple[Outputs, PyTree]:
        images, restriction = inputs[: self.inputs], inputs[self.inputs :]
        outputs, stats = self.model.apply(params, stats, *images, train=train, key=key, taps=taps)
        if restriction:
            labels, rivals = restriction
            outputs = dataclasses.replace(outputs, logits=jnp.where(rivals[labels], outputs.logits, NEVER))
        return outputs, stats


def build(
    parts: Parts,
    scenario: str = "class",
    joint: bool = False,
    memory: NotNegative[int] = 0,
    replay: NotNegative[int] = 64,
    choose: str = "herding",
    tap: str = "embedding",
    expert_steps: NotNegative[int] = 0,
) -> Scheme:
    """Builds stage k from the source "taskK" of data.task_streams; the tasks share config.train.steps equally.

    `scenario`: "class" classifies among all classes so far; "task" among the classes of the example's task, which is
    given; "domain": every task has all classes (van de Ven, Tolias, "Three scenarios for continual learning", 2019,
    arXiv 1904.07734). The optimizer and its schedule start anew with every task.
    The terms decide what runs beside "student":

    previous.logits  the student as it was when the last task ended: learning without forgetting (Li, Hoiem, 2016,
                     arXiv 1606.09282; theirs first trains a new head alone).
    replay.logits    the student on `replay` exemplars, drawn for each step into extra.replay; when a task ends,
                     `choose` picks `memory` of each of its classes (iCaRL, 2016, arXiv 1611.07725, which classifies
                     by nearest means and drops exemplars as classes come; we do not).
    recalled.logits  the previous student on the same exemplars.
    expert.logits    a network that learns the new task alone, for `expert_steps` (0: as many as the student), in a
                     stage before the student's: Chuang, Su, Chen, "Lifelong Language Knowledge Distillation" (L2KD),
                     2020, arXiv 2010.02123. It is config.roles.expert or a twin of the student and goes on from its
                     last task (theirs starts from one pretrained model). It is trained by the terms whose first input
                     is an output of it.

    TrainState.extra has masks that terms may read: bool [classes, classes] extra.rivals (classes that are told apart
    now) and extra.mates (classes of one task); bool [groups, classes] extra.old and extra.current (the heads of the
    earlier tasks and of this one).
    `joint`: stage k learns from all tasks up to k ("uptoK"), the upper limit of a stream. Raises ValueError for an
    unknown scenario or choice, too few steps, and terms that read what does not exist.
    """
    if scenario not in SCENARIOS:
        raise ValueError(f"The scenario is one of {SCENARIOS}, not {scenario!r}. {near(scenario, SCENARIOS)}")
    count, steps = _tasks_and_steps(parts)
    classes = [_classes(parts.sources[f"task{k}"]) for k in range(count)]
    masks = [class_masks(scenario, classes, k, parts.sources["task0"].num_classes) for k in range(count)]
    named = calls_of(parts.terms.values())
    roles = _roles(parts, named, scenario)
    extra, remember, post_update = masks[0], None, None
    if {"replay", "recalled"} & named:
        held = [memory * len(c) for c in classes[:-1]]
        empty, remember, post_update = exemplars.build(parts, parts.roles["student"], held, memory, replay, choose, tap)
        extra = extra | empty

    stages = []
    for k, (phases, of_expert) in enumerate(_phases_by_task(parts, count, steps, expert_steps or steps)):
        if of_expert:
            stages.append(Stage(expert_steps or steps, of_expert, name=f"expert{k}", data=f"task{k}", selects=False))
        data = f"{'upto' if joint else 'task'}{k}"
        stage = Stage(steps, phases, name=f"task{k}", data=data, selects=k == count - 1)
        if k:
            enter = _entering(k, masks[k], phases[0], "previous" in roles, remember)
            stage = dataclasses.replace(stage, on_enter=enter, post_update=post_update)
        stages.append(stage)
    tests = tuple(f"test_task{k}" for k in range(count))
    evaluate = ("student", "initial") if "initial" in roles else ("student",)
    summary = lifelong_summary.make(classes, scenario, share_of(parts.task.headline, "A stream of tasks"))
    return Scheme(roles, tuple(stages), evaluate, extra=extra, stage_splits=tests, summary=summary, task=parts.task)


def _tasks_and_steps(parts: Parts) -> tuple[int, int]:
    """Returns the number of tasks among the sources, and the steps of each; ValueError for fewer than 2 or 1."""
    count = sum(name.startswith("task") and name[4:].isdigit() for name in parts.sources)
    steps = parts.steps // max(count, 1)
    if count < 2 or steps < 1:
        raise ValueError(f"{count} tasks (config.splits: see data.task_streams) cannot share {parts.steps} steps.")
    return count, steps


def _classes(source: Any) -> np.ndarray:
    if source.labels is None or not source.labelled.all():
        raise ValueError(f"{source.name}/{source.split}: a task of lifelong learning needs all its labels.")
    return np.unique(source.labels)


def class_masks(scenario: str, classes: Sequence[np.ndarray], task: int, total: int) -> dict[str, np.ndarray]:
    """Returns rivals, mates, old and current (see `build`) while `task` is learned; total = number of classes."""

    def rows(*groups: Sequence[int]) -> np.ndarray:
        return np.stack([np.isin(np.arange(total), group) for group in groups])

    mates = np.zeros((total, total), bool)
    for of_task in classes:
        mates[np.ix_(of_task, of_task)] = True
    if scenario == "task":
        old = rows(*(of_task if k < task else () for k, of_task in enumerate(classes)))
        return {"rivals": mates, "mates": mates, "old": old, "current": rows(classes[task])}
    before, so_far = ([c for of_task in classes[:n] for c in of_task] for n in (task, task + 1))
    rivals = np.repeat(rows(so_far), total, axis=0)
    return {"rivals": rivals, "mates": mates, "old": rows(before), "current": rows(classes[task])}


def _roles(parts: Parts, named: set[str], scenario: str) -> dict[str, Role]:
    student = parts.roles["student"]
    model = Restricted(student.model, len(student.inputs))
    judged = dataclasses.replace(student, model=model, inputs=(*student.inputs, "batch.label", "extra.rivals"))
    roles = {**parts.roles, "student": judged}
    if named & {"previous", "recalled"}:
        roles["previous"] = Role(student.model, student.inputs, "previous", "student")
    if "expert" in named and "expert" not in roles:
        roles["expert"] = Role(student.model, student.inputs, "expert")
    if scenario != "class":  # forward transfer is measured against it; unseen classes are no answer in any case
        roles["initial"] = dataclasses.replace(judged, group=None, initial="student")
    return roles


def _phases_by_task(parts: Parts, count: int, steps: int, expert_steps: int) -> list[tuple]:
    """Returns the `_phases` of every task; the first has the terms that read nothing of earlier tasks."""
    later = _phases(parts, parts.terms, steps, expert_steps)
    news = {name: term for name, term in parts.terms.items() if not PAST & calls_of([term])}
    # A tuple of phases is one program: the first task has less to run, and the first expert a state without student.
    first = _phases(parts, news, steps, expert_steps) if len(news) < len(parts.terms) or later[1] else later
    return [first, *[later] * (count - 1)]


def _phases(
    parts: Parts, terms: Mapping[str, Term], steps: int, expert_steps: int
) -> tuple[tuple[Phase, ...], tuple[Phase, ...]]:
    """Returns the phases of a task and those of its expert (there may be none) for these terms."""
    of_expert = {name: t for name, t in terms.items() if "expert" in calls_in(t.inputs[:1])}
    of_student = {name: t for name, t in terms.items() if name not in of_expert}
    reads = calls_of(of_student.values())
    if ("expert" in reads) != bool(of_expert) or not of_student:
        raise ValueError(
            "The terms train the student from the first task on, and an expert if there is one: that needs a term with "
            "'expert.logits' as its first input and one of the student that reads it, both without what only later "
            f"tasks have ({', '.join(sorted(PAST))}); the terms are {sorted(parts.terms)}."
        )
    inputs = parts.roles["student"].inputs
    forward = [Call("student", inputs)]
    forward += [Call(name, inputs, train=False) for name in ("previous", "expert") if name in reads]
    for name, role in (("replay", "student"), ("recalled", "previous")):
        if name in reads:
            forward.append(Call(role, ("extra.replay.image",), role == "student", name))
    phases = (Phase("student", tuple(forward), of_student, parts.make_tx(steps)),)
    if not of_expert:
        return phases, ()
    role = parts.roles.get("expert", Role(parts.roles["student"].model, inputs, "expert"))
    tx = parts.make_tx(expert_steps, role.group)
    return phases, (Phase(role.group, (Call("expert", role.inputs),), of_expert, tx),)


def _entering(
    task: int, masks: Mapping[str, np.ndarray], phase: Phase, snapshot: bool, remember: Callable | None
) -> Callable[[TrainState], TrainState]:
    """Returns an `on_enter` between two tasks: it stores exemplars and a snapshot, and renews masks and optimizer."""

    def like(old: PyTree, new: PyTree) -> PyTree:
        return jax.tree.map(lambda o, n: jax.device_put(n, o.sharding), old, new)

    def on_enter(state: TrainState) -> TrainState:
        extra = {**state.extra, **masks}
        if remember is not None:
            extra |= remember(state, task - 1)
        params, stats = dict(state.params), dict(state.stats)
        student = params["student"]["student"], stats["student"]
        if snapshot:  # copies: the step donates its state, and no buffer can be donated twice
            copies = jax.tree.map(jnp.copy, student)
            old = params["previous"]["previous"], stats["previous"]
            params["previous"], stats["previous"] = (lambda p, s: ({"previous": p}, s))(*like(old, copies))
        shardings = jax.tree.map(lambda x: x.sharding, state.opt["student"])
        opt = jax.jit(phase.tx.init, out_shardings=shardings)(params["student"])
        return state.replace(
            params=params, stats=stats, opt={**state.opt, "student": opt}, extra=like(state.extra, extra)
        )

    return on_enter
