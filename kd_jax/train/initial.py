"""Where a network starts if not at random: pretrained weights, or layers of its teacher."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import jax

from kd_jax import prng
from kd_jax.resolve import check_kwargs, resolve
from kd_jax.types import Model, PyTree, Scheme, Variables


def takes_teacher(fields: Mapping[str, Any]) -> bool:
    """Whether the function that {name, kwargs} names starts a network from its teacher."""
    return bool(fields["name"]) and "teacher" in inspect.signature(resolve(fields["name"])).parameters


def first_variables(
    fields: Mapping[str, Any], role: str, model: Model, seed: int, teacher: Variables | None = None
) -> Variables | None:
    """(params, stats) of `model` by {name, kwargs}: fn(model, key, **kwargs), with `teacher` if it takes one.

    None where nothing is named. Raises ValueError for an argument that it does not take or a missing teacher.
    """
    if not fields["name"]:
        return None
    fn, key = resolve(fields["name"]), prng.stream(jax.random.key(seed), f"initial/{role}", 0)
    check_kwargs(fields["name"], fn, fields["kwargs"])
    if not takes_teacher(fields):
        return fn(model, key, **fields["kwargs"])
    if teacher is None:
        raise ValueError(f"config.{role}.initial={fields['name']!r} starts from a teacher, and there is none.")
    return fn(model, key, teacher=teacher, **fields["kwargs"])


def starting_at(scheme: Scheme, role: str, variables: Variables | None) -> Scheme:
    """The scheme whose role starts at `variables`; as it is where there are none."""
    if variables is None:
        return scheme
    return dataclasses.replace(
        scheme, roles={**scheme.roles, role: dataclasses.replace(scheme.roles[role], initial=variables)}
    )


def check_initial(
    fields: Mapping[str, Any], role: str, model: Model, inputs: tuple[PyTree, ...], teacher: Variables | None = None
) -> None:
    """Raises ValueError where what `fields` name is not of the shapes of `model`; `inputs` and `teacher` are shapes."""
    if not fields["name"]:
        return
    found = jax.eval_shape(lambda t: first_variables(fields, role, model, 0, t), teacher)
    wanted = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    shapes = [
        {jax.tree_util.keystr(path, simple=True, separator="/"): x.shape for path, x in jax.tree.leaves_with_path(tree)}
        for tree in (found[0], wanted[0])
    ]
    if shapes[0] != shapes[1]:
        differ = sorted(k for k in {*shapes[0], *shapes[1]} if shapes[0].get(k) != shapes[1].get(k))
        lines = [f"{k}: {shapes[0].get(k, 'nothing')}, not {shapes[1].get(k, 'nothing')}" for k in differ]
        raise ValueError(f"config.{role}.initial gives parameters that the model has not:\n  " + "\n  ".join(lines))
