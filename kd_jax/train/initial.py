"""Where a network starts if not at random: an export, pretrained weights, or layers of its teacher."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from kd_jax import prng
from kd_jax.core.paths import lookup
from kd_jax.data.source import Source
from kd_jax.files import path_of
from kd_jax.models.adapters import name_of
from kd_jax.models.started import differing
from kd_jax.models.streamed import Reading
from kd_jax.models.variables import variables_from
from kd_jax.resolve import check_kwargs, resolve
from kd_jax.system.checkpoint import load_tree
from kd_jax.train.finish import exported
from kd_jax.train.jobs import Job
from kd_jax.train.scores import seen_shapes
from kd_jax.types import Array, Model, PyTree, Scheme, Variables


def checkpoint(model: Model, key: Array, *, shapes: Variables, path: str) -> Variables:
    """Returns the (params, stats) that an export (<workdir>/student/export/last/student) holds.

    `shapes` are those of the model. Raises ValueError where there is no export, a damaged one or one of another model.
    """
    tree = load_tree(path_of(path, "initial.name"), exported(*shapes))
    return tree["params"], tree.get("stats", {})


def _named(fields: Mapping[str, Any]) -> tuple[Callable[..., Variables], dict[str, Any]]:
    """The function that {name, kwargs} names and its kwargs; a name with a "/" is the path of an export."""
    if "/" in fields["name"]:
        return checkpoint, {"path": fields["name"], **fields["kwargs"]}
    return resolve(fields["name"]), dict(fields["kwargs"])


def takes_teacher(fields: Mapping[str, Any]) -> bool:
    """Returns whether the function that {name, kwargs} names starts a network from its teacher."""
    return bool(fields["name"]) and "teacher" in inspect.signature(_named(fields)[0]).parameters


def first_variables(
    fields: Mapping[str, Any],
    role: str,
    model: Model,
    seed: int,
    teacher: Variables | None = None,
    shapes: Variables | None = None,
    source: Source | None = None,
    reading: Reading | None = None,
) -> Variables | None:
    """Returns (params, stats) of `model` by {name, kwargs}: fn(model, key, **kwargs), or of the export that is named.

    `teacher`, the `shapes` of the model's variables, the `source` that the student trains on (a closed form is fitted
    to it) and the `reading`, where they shall lie, go to a function that takes them. None where nothing is named.
    Raises ValueError for an argument that it does not take or a missing teacher.
    """
    if not fields["name"]:
        return None
    (fn, kwargs), key = _named(fields), prng.stream(jax.random.key(seed), f"initial/{role}", 0)
    check_kwargs(fields["name"], fn, kwargs)
    taken = inspect.signature(fn).parameters
    offered = {"shapes": shapes, "source": source, "reading": reading}
    kwargs |= {name: value for name, value in offered.items() if name in taken}
    if "teacher" not in taken:
        return fn(model, key, **kwargs)
    if teacher is None:
        raise ValueError(f"config.{role}.initial={fields['name']!r} starts from a teacher, and there is none.")
    return fn(model, key, teacher=teacher, **kwargs)


def starting_at(scheme: Scheme, role: str, variables: Variables | None) -> Scheme:
    """Returns the scheme whose role starts at `variables`, the scheme as it is where they are None."""
    if variables is None:
        return scheme
    return dataclasses.replace(
        scheme, roles={**scheme.roles, role: dataclasses.replace(scheme.roles[role], initial=variables)}
    )


def check_initial(
    fields: Mapping[str, Any],
    role: str,
    model: Model,
    inputs: tuple[PyTree, ...],
    teacher: Variables | None = None,
    source: Source | None = None,
) -> None:
    """Raises ValueError where what `fields` name is not of the shapes of `model`; `inputs` and `teacher` are shapes."""
    if not fields["name"]:
        return
    wanted = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    reading = Reading(shapes_only=True)
    offered = jax.eval_shape(lambda t: first_variables(fields, role, model, 0, t, wanted, source, reading), teacher)
    if lines := differing((offered[0], {}), (wanted[0], {})):
        raise ValueError(f"config.{role}.initial gives parameters that the model has not:\n  " + "\n  ".join(lines))


def check_baseline(config: ConfigDict, student: Variables, plain: Variables) -> None:
    """Raises ValueError where the network that a scheme makes of the student (SimKD) is not that of the baseline.

    Both are shapes; config.student.initial is of one of them.
    """
    if jax.tree.structure(student) != jax.tree.structure(plain):
        raise ValueError(
            f"config.student.initial={config.student.initial.name!r} is of the network that {config.scheme.name} makes "
            "of the student; the baseline, the plain network, cannot start there. Set config.baseline=False."
        )


def handed_over(variables: Any, job: Job, name: str = "teacher") -> Variables:
    """Returns the (params, stats) of a teacher in the student's `job` from what the caller of the run has of it.

    Raises ValueError, before anything is trained, where they are not those of the teacher's model.
    """
    role = job.caches[name].role if name in job.caches else job.scheme.roles[name]
    context = {"batch": seen_shapes(job), "extra": job.scheme.extra}
    inputs = [lookup(context, p) for p in role.inputs]
    wanted = jax.eval_shape(role.model.init, jax.random.key(0), *inputs)
    try:
        return variables_from(variables, wanted)
    except ValueError as e:
        what = "teacher_variables" if name == "teacher" else "its variables"
        raise ValueError(f"{what} are not those of the {name} ({name_of(role.model)}): {e}") from e
