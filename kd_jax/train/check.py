"""What can be known to fail before a training makes a step, from shapes alone."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax.errors import FlaxError
from jax.sharding import Mesh

from kd_jax.core.bind import bind, init_optimizers, init_state, variable_shapes
from kd_jax.core.evaluate import runs_of, scored_by
from kd_jax.data.batches import train_batches
from kd_jax.data.source import Source
from kd_jax.models.adapters import name_of
from kd_jax.resolve import near
from kd_jax.system import parallel
from kd_jax.train.dispatch import check_dispatch
from kd_jax.train.effect import check_effect
from kd_jax.train.jobs import Job
from kd_jax.types import Outputs, PyTree, Scheme, TrainState


def check_data(job: Job) -> None:
    """Raises ValueError for a split without examples, labels of no class, and labels of one class to learn from alone.

    Says where a batch holds examples several times.
    """
    trained = {stage.data for stage in job.scheme.stages}
    for split in sorted({*trained, "validation", "test", *job.scheme.stage_splits}):
        source = job.sources.get(split)
        if source is None:
            continue
        where, count = f"{source.name}/{split}", job.settings.batch_size
        if not len(source):
            raise ValueError(f"{job.name}: {where} has no examples.")
        if split in trained and len(source) < count:
            print(f"{job.name}: a batch of {count} holds examples of {where} twice: there are {len(source)}")
        _check_labels(job, source, where, split in trained)


def _check_labels(job: Job, source: Source, where: str, trained: bool) -> None:
    labels = source.labels
    if labels is None or labels.dtype != np.int32 or not (labels.ndim == 1 or source.per_place):
        return
    low, high = labels.min(), labels.max()
    if low < -1 or high >= source.num_classes:
        raise ValueError(
            f"{job.name}: the labels of {where} are {low}..{high}; they must be 0..{source.num_classes - 1}, -1 = none."
        )
    classes = labels[labels >= 0]
    if trained and job.name != "student" and len(classes) and classes.min() == high:
        raise ValueError(
            f"{job.name}: all labels of {where} are {high}: from one class there is nothing to learn. Other data are "
            "needed, or config.baseline=False where only the teacher's answers matter."
        )


def check_job(job: Job, batch: Mapping[str, Any], mesh: Mesh) -> dict[str, tuple[PyTree, PyTree]]:
    """Raises ValueError for all that can be known to fail before a step is made; nothing is computed or written.

    Paths, taps and shapes, the number of classes, the batch against data and mesh, sharding rules.
    Returns the shapes of every role's (params, stats).
    """
    settings = job.settings
    for field in ("batch_size", "eval_batch_size", "log_every", "eval_every"):
        if getattr(settings, field) < 1:
            raise ValueError(f"{job.name}: {field} is {getattr(settings, field)}; it must be at least 1.")
        if field.endswith("size"):
            parallel.check_batch_size(mesh, getattr(settings, field), f"{job.name}'s {field}")
    check_dispatch(job.name, settings, job.sources, {stage.data for stage in job.scheme.stages}, mesh)
    for split in {stage.data for stage in job.scheme.stages}:
        if job.sources.get(split) is None:
            existing = [name for name, source in job.sources.items() if source is not None]
            raise ValueError(f"{job.name}: a stage learns from {split!r}. {near(split, existing)}")
        train_batches(  # checks what it is given, and reads nothing for no steps
            job.sources[split],
            batch_size=settings.batch_size,
            seed=settings.seed,
            num_steps=0,
            sharding=parallel.batch_sharding(mesh),
            labelled_share=settings.labelled_share,
            repeats=settings.repeats,
        )
    for split in job.scheme.stage_splits:
        if job.sources.get(split) is None:
            raise ValueError(f"{job.name}: the scheme scores {split!r}. {near(split, job.sources)}")
    scheme, inputs = _bound(job, batch)
    create, shapes = functools.partial(init_state, scheme, inputs), variable_shapes(scheme, inputs)
    state = jax.eval_shape(create, jax.random.key(0), shapes)
    _check_answers(job, scheme, state, batch)
    later = state
    for number in range(1, len(scheme.stages)):  # an optimizer of a later stage may match no parameter
        later = jax.eval_shape(functools.partial(init_optimizers, scheme, stage=number), later)
    check_effect(job, scheme, inputs, batch)
    parallel.check_roles(settings.rules, scheme)
    parallel.state_shardings(state, settings.rules, mesh)
    return shapes


def _bound(job: Job, batch: Mapping[str, Any]) -> tuple[Scheme, dict[str, tuple[PyTree, ...]]]:
    """As core.bind.bind; an error of a teacher says so, which is the "student" of its own training."""
    try:
        return bind(job.scheme, batch, job.settings.accumulate)
    except ValueError as e:
        if job.name in ("student", "baseline"):
            raise
        network = name_of(job.scheme.roles["student"].model)
        raise ValueError(f"The training of the {job.name} ({network}), in which it is the student: {e}") from e


def _check_answers(job: Job, scheme: Scheme, state: TrainState, batch: Mapping[str, Any]) -> None:
    """All that is evaluated must answer as the task asks; a reference that does not is compared with nobody."""

    def answers(state: TrainState, batch: Mapping[str, Any]) -> dict[str, Outputs]:
        prepared = scheme.prepare(batch, jax.random.key(0), False) if scheme.prepare else batch
        return {entry: run() for entry, run in runs_of(scheme, state, prepared, jax.random.key(0)).items()}

    size, trained = job.settings.eval_batch_size, job.settings.batch_size
    batch = {k: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype) for k, x in batch.items()}
    try:
        evaluated = jax.eval_shape(answers, state, batch)
    except (TypeError, ValueError, FlaxError) as e:
        raise ValueError(
            f"{job.name}: evaluation, of {size} examples at a time (config.eval_batch_size; training has batches of "
            f"{trained}), fails: {e}"
        ) from e
    for entry, outputs in evaluated.items():
        if entry == scheme.reference and entry not in scheme.evaluate:
            continue
        called = job.name if job.name not in ("student", "baseline") else entry
        try:
            scored_by(scheme).check(outputs, batch)
        except ValueError as e:
            what = str(e).removeprefix("it ") if str(e).startswith("it ") else f"does not fit the data: {e}"
            raise ValueError(f"The {called} {what}. {_hint(called)}") from e


def _hint(called: str) -> str:
    return (
        f"config.{called}.model.kwargs.num_classes sets how many outputs it has, config.task.name what is learned; a "
        "checkpoint must be one that was trained on this data."
    )
