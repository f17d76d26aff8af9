"""Shapes of what a network is made of and returns. Tracing a network takes long, and checks, binding and the first
state all ask: each answer stands while the model lives."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import jax
import jax.numpy as jnp

from kd_jax.models.training_flags import Heard, heard_in
from kd_jax.types import Array, Model, Outputs, PyTree

_traced: weakref.WeakKeyDictionary[Model, dict] = weakref.WeakKeyDictionary()


def shapes_of(tree: PyTree) -> PyTree:
    """Returns the tree with shapes in place of arrays and numbers."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), tree)


def init_shapes(model: Model, inputs: tuple) -> tuple[PyTree, PyTree]:
    """Returns the shapes of the (params, stats) that the model starts with on these inputs."""
    return _traced_once(model, ("init",), model.init, inputs)


def apply_shapes(
    model: Model, variables: tuple[PyTree, PyTree], inputs: tuple, train: bool, taps: tuple[str, ...]
) -> Outputs:
    """Returns the shapes of what the model returns."""

    def outputs(key: Array, params: PyTree, stats: PyTree, *inputs: PyTree) -> Outputs:
        return model.apply(params, stats, *inputs, train=train, key=key, taps=taps)[0]

    return _traced_once(model, (train, taps), outputs, (*variables, *inputs))


def heard_shapes(model: Model, variables: tuple[PyTree, PyTree], inputs: tuple) -> Heard:
    """Returns which layers of the model act as in training when it is called for training."""

    def trace(key: Array, params: PyTree, stats: PyTree, *inputs: PyTree) -> None:
        heard.append(heard_in(lambda: model.apply(params, stats, *inputs, train=True, key=key)))

    heard: list[Heard] = []
    jax.eval_shape(trace, jax.random.key(0), *variables, *inputs)
    return heard[0]


def _traced_once(model: Model, how: tuple, fn: Callable[..., PyTree], arguments: tuple) -> PyTree:
    """Shapes of fn(key, *arguments), which is what `how` says of `model`."""

    def trace() -> PyTree:
        return jax.eval_shape(fn, jax.random.key(0), *arguments)

    leaves, structure = jax.tree.flatten(arguments)
    try:
        traces = _traced.setdefault(model, {})
        asked = (how, structure, tuple((jnp.shape(x), getattr(x, "dtype", type(x))) for x in leaves))
        if asked not in traces:
            traces[asked] = trace()
        return traces[asked]
    except TypeError:  # a user's model that cannot be a key
        return trace()
