"""What can be known to fail before a training makes a step, from shapes alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from kd_jax.core.bind import bind, init_state, variable_shapes
from kd_jax.core.evaluate import classifiers
from kd_jax.data.batches import train_batches
from kd_jax.resolve import near
from kd_jax.system import parallel
from kd_jax.train import dispatch
from kd_jax.train.jobs import Job
from kd_jax.types import Scheme, TrainState

Summary = Callable[[TrainState, Mapping[str, Any]], list[dict[str, Any]]]


def check(job: Job, batch: Mapping[str, Any], mesh: Mesh) -> None:
    """Raises ValueError for all that can be known to fail before a step is made; nothing is computed or written.

    Paths, taps and shapes, the number of classes, the batch against data and mesh, sharding rules.
    """
    settings = job.settings
    for field in ("batch_size", "eval_batch_size", "log_every", "eval_every"):
        if getattr(settings, field) < 1:
            raise ValueError(f"{job.name}: {field} is {getattr(settings, field)}; it must be at least 1.")
        if field.endswith("size"):
            parallel.check_batch_size(mesh, getattr(settings, field), f"{job.name}'s {field}")
    dispatch.check(job.name, settings, job.sources, {stage.data for stage in job.scheme.stages}, mesh)
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
        )
    for split in job.scheme.stage_splits:
        if job.sources.get(split) is None:
            raise ValueError(f"{job.name}: the scheme scores {split!r}. {near(split, job.sources)}")
    scheme, inputs = bind(job.scheme, batch, settings.accumulate)
    create = functools.partial(init_state, scheme, inputs)
    state = jax.eval_shape(create, jax.random.key(0), variable_shapes(scheme, inputs))
    _check_classes(job, scheme, state, batch)
    parallel.check_roles(settings.rules, scheme)
    parallel.state_shardings(state, settings.rules, mesh)


def _check_classes(job: Job, scheme: Scheme, state: TrainState, batch: Mapping[str, Any]) -> None:
    """All that is evaluated, and the teacher, must have one logit a class, at every token that has a label."""
    wanted = (*jnp.shape(batch["label"]), job.source.num_classes)
    kind = "[batch, length, vocabulary]" if job.source.per_token else "[batch, classes]"

    def logits(state: TrainState, batch: Mapping[str, Any]) -> dict[str, Any]:
        seen = scheme.prepare(batch, jax.random.key(0), False) if scheme.prepare else batch
        return classifiers(scheme, state, seen, jax.random.key(0))

    for name, found in jax.eval_shape(logits, state, batch).items():
        shape = jax.tree.map(jnp.shape, found)
        called = job.name if job.name not in ("student", "baseline") else name
        if len(shape) != len(wanted) or not isinstance(shape[0], int) or shape[:-1] != wanted[:-1]:
            raise ValueError(f"The output of the {called} has shape {shape}; on this data it is {kind}, {wanted}.")
        if shape[-1] != wanted[-1]:
            raise ValueError(
                f"The {called} has {shape[-1]} classes, {job.source.name} has {job.source.num_classes}. "
                f"Set config.{called}.model.kwargs.num_classes, or take a checkpoint that was trained on this data."
            )
