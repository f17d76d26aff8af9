"""Linen modules, NNX modules and plain functions as the `Model` of kd_jax.types; the user's network is never changed.

Taps are exact paths of modules ("stage1", "block3/attention"). All adapters answer an unknown tap with an error that
lists the near names, since a tap that silently matches nothing trains a student on nothing.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import zlib
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import flax.linen as nn
import jax
from flax import nnx, traverse_util

from kd_jax.models.intercept import intercept_calls, runs_again
from kd_jax.models.torch_variance import unbiased_running_variance
from kd_jax.models.training_flags import flags_of
from kd_jax.types import Array, Model, Outputs, PyTree

# Linen collections that are no state: what was sown in this call, and zeros that only a gradient of an output needs.
_NOT_STATE = ("params", "intermediates", "perturbations")


@dataclasses.dataclass(frozen=True, eq=False)
class LinenModel:
    """A Flax Linen module: params = the "params" collection, stats = all other lasting collections by name.

    The module is called as `module(*inputs)`, with the flags of models.training_flags.FLAGS that its `__call__` has.
    It may return an array (or any pytree), `Outputs`, or a pair (main output, mapping name -> array).
    In training every random stream ("dropout" and others) is drawn from the step's key. Values that the module
    sows into "intermediates" are taps too, by the path of the module and the name. With `torch_variance` the running
    variances of BatchNorm are those of PyTorch (kd_jax/models/torch_variance.py).
    Errors: ValueError for a tap that does not exist, ran twice or is not one array.
    """

    module: nn.Module
    torch_variance: bool = False

    def init(self, key: Array, *inputs: Array) -> tuple[PyTree, PyTree]:
        variables = self.module.init(key, *inputs, **flags_of(self.module.__call__, train=False))
        return variables["params"] if "params" in variables else {}, _without(variables, _NOT_STATE)

    def apply(
        self, params: PyTree, stats: PyTree, *inputs: Array, train: bool, key: Array, taps: tuple[str, ...] = ()
    ) -> tuple[Outputs, PyTree]:
        def tapped(module: nn.Module, method: str) -> bool:
            path = "/".join(module.path)
            return method == "__call__" and ("*" in taps or path in taps) and not runs_again(path)

        rngs = None
        if train:
            # Linen draws a stream that is not named here from "params", so modules with streams of their own work.
            dropout, other = jax.random.split(key)
            rngs = {"dropout": dropout, "params": other}
        with unbiased_running_variance() if self.torch_variance and train else nullcontext():
            result, updated = self.module.apply(
                {"params": params, **stats},
                *inputs,
                rngs=rngs,
                mutable=[*(stats if train else ()), *(["intermediates"] if taps else ())],
                capture_intermediates=tapped if taps else False,
                **flags_of(self.module.__call__, train=train),
            )
        features = {}
        for path, value in traverse_util.flatten_dict(dict(updated.get("intermediates") or {})).items():
            features["/".join(path[:-1] if path[-1] == "__call__" else path)] = value
        outputs = _select(result, features, taps, lambda: _existing(self, params, stats, inputs, train, key))
        return outputs, _same_structure(stats, _without(updated, _NOT_STATE)) if train else stats


@dataclasses.dataclass(frozen=True, eq=False)
class NNXModel:
    """A Flax NNX module, made by `build(rngs)`: params = nnx.Param, stats = every other variable but random state.

    Both are nested dicts of arrays. Random state is no part of stats: in every call each stream gets its key from the
    step's key and its own path and starts at count 0, so nothing stores a key and resuming is exact.
    `train` is given by `module.train()` and `module.eval()`, and to `__call__` if it names it.
    Taps are as for LinenModel, with list members by number ("layers/0").
    """

    build: Callable[[nnx.Rngs], nnx.Module]

    @functools.cached_property
    def _template(self) -> tuple[Any, nnx.State, nnx.State, nnx.State]:
        abstract = nnx.eval_shape(lambda: self.build(nnx.Rngs(jax.random.key(0))))
        graph, params, random, rest = nnx.split(abstract, nnx.Param, nnx.RngState, ...)
        return graph, params, random, rest

    def init(self, key: Array, *inputs: Array) -> tuple[PyTree, PyTree]:
        del inputs  # NNX modules know their input sizes
        _, params, _, stats = nnx.split(self.build(nnx.Rngs(key)), nnx.Param, nnx.RngState, ...)
        return _to_dict(params), _to_dict(stats)

    def apply(
        self, params: PyTree, stats: PyTree, *inputs: Array, train: bool, key: Array, taps: tuple[str, ...] = ()
    ) -> tuple[Outputs, PyTree]:
        graph, abstract_params, abstract_random, abstract_stats = self._template
        random = [(path, v.replace(_stream(key, path, v))) for path, v in nnx.to_flat_state(abstract_random)]
        module = nnx.merge(
            graph, _to_state(abstract_params, params), nnx.from_flat_state(random), _to_state(abstract_stats, stats)
        )
        _attach_more(module, abstract_params, params)
        module.train() if train else module.eval()
        flags = flags_of(module.__call__, train=train)
        intercept_calls(module, lambda path: path != "" and ("*" in taps or path in taps))
        result, sown = nnx.capture(_without_captures_in_lists, nnx.Intermediate)(module, *inputs, **flags)
        features = {}
        for path, variable in nnx.to_flat_state(sown):
            features["/".join(map(str, path[:-1] if path[-1] == "__call__" else path))] = variable.get_value()
        outputs = _select(result, features, taps, lambda: _existing(self, params, stats, inputs, train, key))
        if not train:
            return outputs, stats
        updated = nnx.state(module, nnx.Not(nnx.Any(nnx.Param, nnx.RngState)))
        return outputs, _same_structure(stats, _to_dict(updated))


@dataclasses.dataclass(frozen=True, eq=False)
class FunctionModel:
    """Two plain functions without state: `init_fn(key, *inputs) -> params`, `apply_fn(params, *inputs) -> output`.

    `apply_fn` also gets `key=`, and `train=` or another of FLAGS, if it names them; it returns the main output or
    `Outputs`, whose features are all the taps there are. A network with state (BatchNorm) is a class with the two
    methods of kd_jax.types.Model.
    """

    init_fn: Callable[..., PyTree]
    apply_fn: Callable[..., Any]

    def init(self, key: Array, *inputs: Array) -> tuple[PyTree, PyTree]:
        return self.init_fn(key, *inputs), {}

    def apply(
        self, params: PyTree, stats: PyTree, *inputs: Array, train: bool, key: Array, taps: tuple[str, ...] = ()
    ) -> tuple[Outputs, PyTree]:
        more = {"key": key} if "key" in inspect.signature(self.apply_fn).parameters else {}
        result = self.apply_fn(params, *inputs, **flags_of(self.apply_fn, train), **more)
        return _select(result, {}, taps, lambda: _as_outputs(result).features), stats


def as_model(network: Any) -> Model:
    """Returns a Linen module, an NNX module (which starts at the parameters that it has), a function of `rngs` that
    makes one, or an object with the methods of `Model`, as a Model; ValueError says how to wrap what is none."""
    if isinstance(network, nn.Module):
        return LinenModel(network)
    if isinstance(network, nnx.Module):
        return NNXModel(lambda rngs: nnx.clone(network))
    if callable(network) and [*inspect.signature(network).parameters] == ["rngs"]:
        return NNXModel(network)
    if isinstance(network, type):
        name = network.__name__
        raise ValueError(f"expected a network, got the class {name}: call it, as in {name}(...)")
    if isinstance(network, Model) and {"train", "key", "taps"} <= set(inspect.signature(network.apply).parameters):
        return network
    raise ValueError(
        f"expected a Linen or NNX module or an object with init(key, *inputs) and apply(params, stats, *inputs, train, "
        f"key, taps), got {type(network).__name__}; wrap plain functions with FunctionModel(init_fn, apply_fn)"
    )


def name_of(model: Model) -> str:
    """Returns the name of the network's class or function, for reports."""
    if isinstance(model, NNXModel):
        return type(nnx.eval_shape(lambda: model.build(nnx.Rngs(jax.random.key(0))))).__name__
    network = getattr(model, "module", getattr(model, "apply_fn", model))
    return getattr(network, "__name__", type(network).__name__)


def tap_shapes(network: Model | nn.Module, *inputs: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns all taps of a network and their shapes for these inputs, arrays or ShapeDtypeStruct; computes nothing."""
    model, key = as_model(network), jax.random.key(0)
    params, stats = jax.eval_shape(model.init, key, *inputs)
    return jax.eval_shape(
        lambda params, stats, *inputs: model.apply(params, stats, *inputs, train=False, key=key, taps=("*",))[0],
        params,
        stats,
        *inputs,
    ).features


def print_taps(network: Model | nn.Module, *inputs: Any) -> None:
    """Prints every tap of a Linen module or Model, its shape and type: what follows `student.features:` in a term."""
    shapes = tap_shapes(network, *inputs)
    width = max(map(len, shapes), default=0)
    for path, value in shapes.items():
        print(f"{path:<{width}}  {value.dtype}{list(value.shape)}")


def _without(mapping: Mapping[str, Any], names: Any) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if name not in names}


def _as_outputs(result: Any) -> Outputs:
    if result is None:
        raise ValueError("the network returns nothing: does its call end in `return`?")
    if isinstance(result, Outputs):
        return result
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping):
        return Outputs(result[0], dict(result[1]))
    return Outputs(result)


def _select(
    result: Any,
    captured: dict[str, Any],
    taps: tuple[str, ...],
    existing: Callable[[], dict[str, Any]],
) -> Outputs:
    """The module's own features and, of the taps, the captured values."""
    outputs = _as_outputs(result)
    features = dict(outputs.features)
    if "*" in taps:
        for path, runs in captured.items():
            if path and isinstance(runs, tuple) and len(runs) == 1 and _is_array(runs[0]):
                features.setdefault(path, runs[0])
    for tap in taps:
        if tap != "*" and tap not in features:
            features[tap] = _value_at(tap, captured, existing)
    return Outputs(outputs.logits, features)


def _value_at(tap: str, captured: dict[str, Any], existing: Callable[[], dict[str, Any]]) -> Array:
    """The one array captured at a tap, of a tuple with an entry for each time the module ran."""
    if tap not in captured:
        names = list(existing())
        near = difflib.get_close_matches(tap, names, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
        raise ValueError(f"no tap {tap!r}{hint} The taps are: {', '.join(names) or 'none'}")
    runs = captured[tap]
    if isinstance(runs, tuple) and len(runs) > 1:
        raise ValueError(f"tap {tap!r} ran {len(runs)} times in one call: give each use a module of its own")
    value = runs[0] if isinstance(runs, tuple) else runs
    if not _is_array(value):
        raise ValueError(f"tap {tap!r} is a {type(value).__name__}, not one array: tap a module inside it")
    return value


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _existing(model: Model, params: PyTree, stats: PyTree, inputs: tuple, train: bool, key: Array) -> dict[str, Any]:
    def forward(params: PyTree, stats: PyTree, *inputs: Array) -> Outputs:
        return model.apply(params, stats, *inputs, train=train, key=key, taps=("*",))[0]

    return jax.eval_shape(forward, params, stats, *inputs).features


def _same_structure(old: PyTree, new: PyTree) -> PyTree:
    """A state that grows would recompile every step and break resume, so it is refused where it happens."""
    if jax.tree.structure(old) != jax.tree.structure(new):
        was, now = ({jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(t)} for t in (old, new))
        raise ValueError(f"the network's state changed in training: {sorted(was ^ now)} appeared or vanished")
    return new


def _to_dict(state: nnx.State) -> dict[str, Any]:
    return traverse_util.unflatten_dict({tuple(map(str, path)): v.get_value() for path, v in nnx.to_flat_state(state)})


def _to_state(template: nnx.State, values: Mapping[str, Any]) -> nnx.State:
    flat = traverse_util.flatten_dict(values)
    paths = {"/".join(map(str, path)) for path, _ in nnx.to_flat_state(template)}
    if missing := paths - {"/".join(path) for path in flat}:
        raise ValueError(f"the network needs values that it was not given: {', '.join(sorted(missing))}")
    return nnx.from_flat_state([(p, v.replace(flat[tuple(map(str, p))])) for p, v in nnx.to_flat_state(template)])


def _without_captures_in_lists(module: nnx.Module, *inputs: Any, **flags: bool) -> Any:
    """Calls the module. Before flax 0.12.12, nnx.capture gives lists a key that nnx.remat cannot sort by numbers."""
    for _, child in nnx.iter_modules(module):
        if isinstance(child, nnx.List) and hasattr(child, "__captures__"):
            delattr(child, "__captures__")
    return module(*inputs, **flags)


def _attach_more(module: nnx.Module, template: nnx.State, params: Mapping[str, Any]) -> None:
    """Gives a module those entries of `params` that stand beside its own, as Linen does: an interceptor reads them."""
    own_paths = {tuple(map(str, path)) for path, _ in nnx.to_flat_state(template)}
    more = {p: value for p, value in traverse_util.flatten_dict(params).items() if p not in own_paths}
    modules = {tuple(map(str, path)): child for path, child in nnx.iter_modules(module)} if more else {}
    for path, value in more.items():
        if path[:-1] not in modules or hasattr(modules[path[:-1]], path[-1]):
            raise ValueError(f"the parameter {'/'.join(path)!r} fits no module of {type(module).__name__}")
        setattr(modules[path[:-1]], path[-1], nnx.Param(value))


def _stream(key: Array, path: tuple, variable: nnx.RngState) -> Array:
    """Key or count of one random stream: layers differ by their path, or all dropout masks would be the same."""
    if not isinstance(variable, nnx.RngKey):
        return jax.numpy.zeros(variable.shape, variable.dtype)
    key = jax.random.fold_in(key, zlib.crc32("/".join(map(str, path)).encode()))
    return jax.random.split(key, variable.shape) if variable.shape else key
