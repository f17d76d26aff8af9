"""The parameters of a network as its users hold them, as the (params, stats) of its Model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx
from flax.core import meta

from kd_jax.types import PyTree, Variables

_OF_TRAIN_STATE = ("batch_stats", "stats", "model_state")  # what users call a network's state beside `params`
_NOT_STATE = ("intermediates", "perturbations")  # collections of Linen that are no state of a network
FORMS = "(params, stats), the dict of a Linen module's init, a TrainState, an NNX module, or its state or split states"


def variables_from(source: Any, wanted: Variables) -> Variables:
    """Returns (params, stats) of the structure and shapes of `wanted` from any of FORMS.

    Stats may be left out where a network has none, and a Linen module's without the name of their only collection.
    Raises ValueError that names what is missing, left over, or of another shape.
    """
    for form in (tuple(source), (source, {})) if isinstance(source, (tuple, list)) else ((source, {}),):
        pair = meta.unbox(form)
        if jax.tree.structure(pair) == jax.tree.structure(wanted):
            _check_shapes(_by_path(pair), _by_path(wanted))
            return pair
    values = _values(source)
    places = {path: _origin(path, values) for path in _by_path(wanted)}
    _check_names(places, values)
    _check_shapes({path: values[origin] for path, origin in places.items()}, _by_path(wanted))
    leaves = [values[places[path]] for path in _by_path(wanted)]
    return jax.tree.unflatten(jax.tree.structure(wanted), leaves)


def _by_path(variables: PyTree) -> dict[str, Any]:
    """{"0/dense/kernel": value} of params, {"1/...": value} of stats."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in jax.tree.leaves_with_path(variables)
    }


def _values(source: Any) -> dict[str, Any]:
    """Everything that was given by its path, whatever holds it; the state of random streams is no part of a network."""
    if isinstance(source, nnx.Module):
        source = nnx.state(source)
    if dataclasses.is_dataclass(source) and hasattr(source, "params"):
        return _of_train_state(source)
    if isinstance(source, nnx.GraphDef):
        return {}
    if isinstance(source, nnx.State):
        flat = [(path, v) for path, v in nnx.to_flat_state(source) if not isinstance(v, nnx.RngState)]
        return {"/".join(map(str, path)): v.get_value() if isinstance(v, nnx.Variable) else v for path, v in flat}
    if isinstance(source, (tuple, list)):
        return {path: value for part in source for path, value in _values(part).items()}
    if isinstance(source, Mapping):
        return _by_path(meta.unbox(source))
    raise ValueError(f"they are a {type(source).__name__}; expected {FORMS}")


def _of_train_state(source: Any) -> dict[str, Any]:
    """Those of a TrainState of Flax, or of one derived from it."""
    fields = {f.name: getattr(source, f.name) for f in dataclasses.fields(source)}
    state = {k: v for k, v in fields.items() if k in _OF_TRAIN_STATE and isinstance(v, Mapping)}
    return _values({"params": source.params} if "params" not in source.params else source.params) | _values(state)


def _origin(path: str, values: Mapping[str, Any]) -> str:
    """The path among `values` of what is wanted at "0/..." (params) or "1/<collection>/..." (stats)."""
    number, _, rest = path.partition("/")
    further = f"params/{rest}" if number == "0" else rest.partition("/")[2]
    return further if rest not in values and further in values else rest


def _check_names(places: Mapping[str, str], values: Mapping[str, Any]) -> None:
    missing = [_shown(path) for path, origin in places.items() if origin not in values]
    left = [path for path in values if path not in places.values() and path.split("/")[0] not in _NOT_STATE]
    if missing or left:
        lines = [f"{what} {_some(names)}" for what, names in (("without", missing), ("and beside it", left)) if names]
        raise ValueError(f"they are {' '.join(lines)}; expected {FORMS}")


def _check_shapes(values: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    wrong = [
        f"{_shown(path)} is {jax.numpy.shape(values[path])}, not {x.shape}"
        for path, x in wanted.items()
        if jax.numpy.shape(values[path]) != x.shape
    ]
    if wrong:
        raise ValueError(f"of other shapes: {_some(wrong)}")


def _shown(path: str) -> str:
    return path.partition("/")[2]


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
