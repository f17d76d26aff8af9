"""A teacher that is no JAX network: a PyTorch module, scikit-learn's predict_proba, XGBoost, any function of arrays.

`host_model(fn)` is a Model without parameters. `fn` runs in Python on the host, wherever a step needs its answers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from kd_jax.types import Array, Model, Outputs, PyTree

OUTPUTS = ("logits", "probabilities")
_PROBED = 2  # examples of zeros by which the shapes of the answers are learnt
# XLA's CPU client copies up to 100 KiB at once and leaves more to its threads (kSmallDataTransferByteSize).
_AT_ONCE = 65536


@dataclasses.dataclass(frozen=True, eq=False)
class HostModel:
    """The Model of `host_model`; `failures` are the first lines of what `fn` raised, `shapes` those of its answers."""

    fn: Callable[..., Any]
    outputs: str
    floor: float
    cached: bool

    @functools.cached_property
    def failures(self) -> list[str]:
        return []

    @functools.cached_property
    def shapes(self) -> dict[Any, PyTree]:
        return {}

    def init(self, key: Array, *inputs: Array) -> tuple[PyTree, PyTree]:
        return {}, {}

    def apply(
        self, params: PyTree, stats: PyTree, *inputs: Array, train: bool, key: Array, taps: tuple[str, ...] = ()
    ) -> tuple[Outputs, PyTree]:
        size = len(inputs[0])
        one = self._probed(inputs)
        wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), jnp.float32), one)
        inputs = tuple(map(_everywhere, jax.lax.stop_gradient(inputs)))
        ask = functools.partial(self._ask, tuple(x.shape for x in inputs))
        answered = jax.pure_callback(ask, wanted, *map(_pieces, inputs), vmap_method="sequential")
        logits, features = jax.tree.map(_everywhere, answered)
        if missing := [tap for tap in taps if tap != "*" and tap not in features]:
            raise ValueError(f"no tap {missing[0]!r}. The taps are: {', '.join(features) or 'none'}")
        if self.outputs == "probabilities":
            logits = jnp.log(jnp.maximum(logits, self.floor))
        return Outputs(logits, dict(features)), stats

    def _probed(self, inputs: tuple[Array, ...]) -> PyTree:
        """The answers to a few zeros of the inputs' shapes; ValueError where `fn` cannot answer them as it should."""
        kinds = tuple((x.shape[1:], str(x.dtype)) for x in inputs)
        if kinds not in self.shapes:
            zeros = [np.zeros((_PROBED, *shape), dtype) for shape, dtype in kinds]
            shown = ", ".join(f"{dtype}{[_PROBED, *shape]}" for shape, dtype in kinds)
            try:
                logits, features = self._answers(zeros)
            except Exception as e:  # whatever the user's function raises
                raise ValueError(f"host_model: the function cannot answer zeros {shown}: {_line(e)}") from e
            if self.outputs == "logits" and _sums_to_one(logits):
                raise ValueError(
                    "host_model: the answers are probabilities, each row adds up to 1: host_model(fn, "
                    "outputs='probabilities') takes their logarithm."
                )
            self.shapes[kinds] = logits, features
        return self.shapes[kinds]

    def _ask(self, of: tuple[tuple[int, ...], ...], *inputs: Any) -> PyTree:
        """The answers to a batch, whose arrays `of` these shapes come as `_pieces`.

        What `fn` raises is kept for `failing`, since XLA would print it with its own frames. The answers are NaN then,
        which no training goes on from.
        """
        arrays = [np.concatenate([*map(np.asarray, x)]).reshape(n) for n, x in zip(of, inputs, strict=True)]
        kinds = tuple((x.shape[1:], str(x.dtype)) for x in arrays)
        expected = jax.tree.map(lambda x: (len(arrays[0]), *x.shape[1:]), self.shapes[kinds], is_leaf=_is_array)
        try:
            answers = self._answers(arrays)
            shapes = jax.tree.map(np.shape, answers, is_leaf=_is_array)
            if shapes != expected:
                raise ValueError(f"answers of shapes {shapes}, and those to zeros were {expected}")
            return answers
        except Exception as e:  # whatever the user's function raises
            self.failures.append(f"host_model: the function failed in training: {_line(e)}")
            return jax.tree.map(lambda s: np.full(s, np.nan, np.float32), expected, is_leaf=_is_shape)

    def _answers(self, arrays: list[np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        said = self.fn(*arrays)
        pair = isinstance(said, tuple) and len(said) == 2 and isinstance(said[1], Mapping)
        said, features = said if pair else (said, {})
        logits, features = _numbers(said), {str(k): _numbers(v) for k, v in features.items()}
        for name, x in {"its answer": logits, **features}.items():
            if x.shape[:1] != (len(arrays[0]),):
                raise ValueError(f"{name} is {x.shape} for {len(arrays[0])} examples: it must be [batch, ...]")
        if self.outputs == "probabilities" and not _sums_to_one(logits):
            raise ValueError(f"outputs='probabilities', and the row {logits[0]} does not lie in 0..1 and add up to 1")
        return logits, features


def host_model(
    fn: Callable[..., Any],
    *,
    outputs: Literal["logits", "probabilities"] = "logits",
    floor: float = 1e-7,
    cached: bool = True,
) -> HostModel:
    """Makes a frozen teacher of a Python function: fn(x) -> [batch, classes], or (that, {name: features [batch, ...]}).

    `fn` gets NumPy arrays [batch, ...]: the raw ones as they lie in the data, unless config.teacher.preparation says
    otherwise. It returns what NumPy can read; tensors are detached and copied. It must answer an example alike in every
    batch, since it is jax.pure_callback that calls it; a mesh of several devices sends it the whole batch, once.
    `outputs="probabilities"` (predict_proba) become logits by log(max(p, floor)): a class that a forest of 100 trees
    never voted for has p = 0. With `cached` it is asked once and its answers are stored (teacher.cache), else in every
    step. It has no parameters, and its FLOPs are not counted. The features are its taps.
    Raises ValueError for other `outputs`, for a floor outside 0..1, and, before the first step, where `fn` fails on
    zeros or answers what does not fit. `fn` must not use JAX on the devices of the run: that can wait for itself.
    """
    if not callable(fn):
        raise ValueError(f"host_model(fn): fn is a function of arrays, such as forest.predict_proba, not {fn!r:.80}")
    if outputs not in OUTPUTS:
        raise ValueError(f"host_model: outputs is 'logits' or 'probabilities', not {outputs!r}.")
    if not 0 < floor < 1:
        raise ValueError(f"host_model: floor is a probability above 0 and below 1, not {floor}.")
    return HostModel(fn, outputs, float(floor), cached)


@contextlib.contextmanager
def failing(models: Iterable[Model]) -> Generator[None]:
    """Raises ValueError with the line of what a host model's function raised inside, in place of what came of it."""
    hosts = [model for model in models if isinstance(model, HostModel)]
    try:
        yield
    except Exception:
        if lines := [line for model in hosts for line in model.failures]:
            raise ValueError(lines[0]) from None
        raise
    if lines := [line for model in hosts for line in model.failures]:
        raise ValueError(lines[0])


def _everywhere(x: Array) -> Array:
    """The whole array on every device of the mesh, if there is one: the host is asked by one device."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec())


def _pieces(x: Array) -> tuple[Array, ...]:
    """The array, flat, in pieces that the host gets at once.

    Several CPU devices share their threads. While one asks the host the others hold theirs, since they wait for it in
    the step's next sum over devices; a copy that is left to a thread then never ends, and the run hangs.
    """
    flat, count = x.reshape(-1), 1
    if jax.default_backend() == "cpu" and jax.sharding.get_abstract_mesh().size > 1:
        count = max(1, -(-x.size * x.dtype.itemsize // _AT_ONCE))
    return tuple(jnp.array_split(flat, count))


def _numbers(value: Any) -> np.ndarray:
    if callable(detach := getattr(value, "detach", None)):  # a tensor of PyTorch
        value = detach().cpu()
    return np.asarray(value, np.float32)


def _sums_to_one(rows: np.ndarray) -> bool:
    return rows.ndim > 1 and bool((rows >= 0).all() and np.allclose(rows.sum(-1), 1, atol=1e-3))


def _is_array(x: Any) -> bool:
    return isinstance(x, np.ndarray)


def _is_shape(x: Any) -> bool:
    return isinstance(x, tuple) and all(isinstance(n, int) for n in x)


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:400]
