"""From config.task to the Task of a run."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from kd_jax.resolve import check_kwargs, resolve
from kd_jax.tasks import classify, segment, tokens
from kd_jax.types import Task


def task_of(fields: Mapping[str, Any], source: Any) -> Task:
    """Returns the task that {name, kwargs} names: a Task, or a function that makes one and may take the `source`.

    Without a name it is that of the data: tokens where every token has a label, segmentation where every pixel has one,
    classification elsewhere. Raises
    ValueError for a name or an argument that there is not.
    """
    if not fields["name"]:
        factory = tokens.task if source.per_token else segment.task if source.per_pixel else classify.task
    else:
        factory = resolve(fields["name"])
    if isinstance(factory, Task):
        return factory
    kwargs = dict(fields["kwargs"])
    check_kwargs(fields["name"] or "config.task", factory, kwargs)
    if "source" in inspect.signature(factory).parameters:
        kwargs["source"] = source
    task = factory(**kwargs)
    if not isinstance(task, Task):
        raise ValueError(f"config.task.name={fields['name']!r} made a {type(task).__name__}, not a kd_jax.Task.")
    return task
