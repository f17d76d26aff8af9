"""Any network with rounded weights and activations: symmetric integers of 8, 4 or 2 bits, gradients straight through.

The bits are an input of the network, so that a stage of training changes them without compiling again. `pack` stores
the same integers as bytes.

Why not qwix (0.1.8, the maintained JAX library, whose rounding tests/models/test_rounding.py compares with this one):
there the type is static, so every number of bits is a program of its own; it takes Linen and NNX modules alone, and
replaces the code of JAX's own functions while they run; and what it calls int2 it stores as int4.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Generator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.models.intercept import Layer, first_input, intercepted
from kd_jax.resolve import pattern_of
from kd_jax.types import Array, Model, Outputs, PyTree

FLOAT = 32  # this number of bits, or more, leaves a value as it is
KEPT = 8  # bits of the kernels that `keep` names
PACKED = (2, 4, 8)
# Where the range of a channel is cut, as fractions of its largest weight; 1.0 cuts nothing.
CUTS = tuple(np.linspace(0.2, 1.0, 17).tolist())


@dataclasses.dataclass(frozen=True, eq=False)
class Quantised:
    """`model` with w -> step * clip(round(w / step), -top, top), top = 2^(bits-1) - 1; 2 bits are -1, 0 and 1.

    The last input is [bits of the weights, bits of the activations], any number >= 2; 32 is float. Rounded are the
    parameters whose path matches `pattern`, with one step an output channel (the last axis), the one of CUTS with the
    least squared error; biases and norms stay float, and the kernels that match `keep` have 8 bits where others have
    fewer. With `activations`, what every layer with such a kernel reads is rounded too, with one step an example, from
    its largest value: nothing has to be calibrated, and a batch's other rows do not matter.
    The gradient of a rounded value is that of the value. params and stats are those of `model`.
    Errors: ValueError if `pattern` matches nothing, or no layer of Linen or NNX reads what `activations` would round.
    Bengio, Leonard, Courville, "Estimating or Propagating Gradients Through Stochastic Neurons", 2013, arXiv 1308.3432;
    Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2017,
    arXiv 1712.05877, where steps of activations are running averages and BatchNorm is folded in. Ternary weights: Li,
    Zhang, Liu, "Ternary Weight Networks", 2016, arXiv 1605.04711, whose step assumes a distribution.
    """

    model: Model
    pattern: str = "kernel$"
    keep: str = ""
    activations: bool = False

    def init(self, key: Array, *inputs: Array) -> tuple[PyTree, PyTree]:
        return self.model.init(key, *inputs[:-1])

    def apply(
        self, params: PyTree, stats: PyTree, *inputs: Array, train: bool, key: Array, taps: tuple[str, ...] = ()
    ) -> tuple[Outputs, PyTree]:
        inputs, bits = inputs[:-1], inputs[-1]
        rounded = rounded_params(params, bits[0], self.pattern, self.keep)
        with _rounded_inputs(bits[1], self.pattern) if self.activations else contextlib.nullcontext():
            return self.model.apply(rounded, stats, *inputs, train=train, key=key, taps=taps)


def rounded_params(params: PyTree, bits: Array, pattern: str = "kernel$", keep: str = "") -> PyTree:
    """Rounds the parameters that match; the gradient passes as if they were not rounded."""

    def rounded(path: tuple, value: Array) -> Array:
        path_bits = bits_of(path, bits, pattern, keep)
        if path_bits is None:
            return value
        step = step_sizes(value, path_bits)
        return jnp.where(path_bits < FLOAT, _straight(value, levels(value, step, path_bits) * step), value)

    check_pattern(params, pattern)
    return jax.tree_util.tree_map_with_path(rounded, params)


def step_sizes(kernel: Array, bits: Array | int, cuts: tuple[float, ...] = CUTS) -> Array:
    """Returns [1, ..., out]: for each output channel the step, of those that `cuts` give, with the least squared error.

    A cut range reaches half a step beyond the top integer, so that this one is used as much as the others.
    """
    kernel = jax.lax.stop_gradient(kernel.astype(jnp.float32))
    axes = tuple(range(kernel.ndim - 1))
    largest = jnp.abs(kernel).max(axes, keepdims=True)
    fractions = jnp.asarray(cuts, jnp.float32).reshape(-1, *(1,) * kernel.ndim)
    steps = jnp.where(largest > 0, largest, 1.0)[None] * fractions / (_top(bits) + 0.5)
    errors = ((kernel[None] - levels(kernel[None], steps, bits) * steps) ** 2).sum([a + 1 for a in axes], keepdims=True)
    return jnp.take_along_axis(steps, errors.argmin(0, keepdims=True), axis=0)[0]


def _top(bits: Array | int) -> Array:
    return 2.0 ** (jnp.asarray(bits, jnp.float32) - 1) - 1


def levels(value: Array, step: Array, bits: Array | int) -> Array:
    return jnp.clip(jnp.round(value / step), -_top(bits), _top(bits))


def _straight(value: Array, rounded: Array) -> Array:
    """Exactly `rounded`, with the gradient of `value`: the difference of a number from itself is 0."""
    return jax.lax.stop_gradient(rounded) + (value - jax.lax.stop_gradient(value))


def rounded_input(x: Array, bits: Array) -> Array:
    largest = jnp.abs(jax.lax.stop_gradient(x)).max(tuple(range(1, x.ndim)), keepdims=True)
    step = jnp.where(largest > 0, largest, 1.0) / _top(bits)
    return jnp.where(bits < FLOAT, _straight(x, levels(x, step, bits) * step), x)


@contextlib.contextmanager
def _rounded_inputs(bits: Array, pattern: str) -> Generator[None]:
    layers = []

    def intercept(layer: Layer, /, *args: Any, **kwargs: Any) -> Any:
        if layer.parameter("kernel") is not None and _fits(pattern, f"{layer.path}/kernel".lstrip("/")):
            layers.append(layer.path)
            args = (rounded_input(first_input(layer, args), bits), *args[1:])
        return layer.call(*args, **kwargs)

    with intercepted(intercept):
        yield
    if not layers:
        raise ValueError(
            f"Activations are rounded where a Linen or NNX layer has a 'kernel' matching {pattern!r}: none has."
        )


def bits_of(path: tuple, bits: Any, pattern: str, keep: str) -> Any:
    """Returns the bits of the parameter at a path of the tree, None where it stays float."""
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    if not _fits(pattern, name):
        return None
    return jnp.maximum(bits, KEPT) if keep and _fits(keep, name) else bits


def _fits(pattern: str, name: str) -> bool:
    return pattern_of(pattern, "quantised: pattern or keep").search(name) is not None


def check_pattern(params: PyTree, pattern: str) -> None:
    """Raises ValueError where the pattern finds no parameter."""
    names = [jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in jax.tree.leaves_with_path(params)]
    if not any(_fits(pattern, name) for name in names):
        raise ValueError(f"No parameter matches {pattern!r}, so none would be rounded. There is: {', '.join(names)}.")


def pack(params: PyTree, bits: int, pattern: str = "kernel$", keep: str = "") -> dict[str, np.ndarray]:
    """Returns {path: array} as it is shipped; np.savez writes it, and the nbytes are what the network weighs.

    `<path>:codes` is uint8, 8 / bits integers in a byte, `<path>:step` float32, one an output channel; all other
    parameters are as they were. ValueError for other numbers of bits than PACKED, or if nothing matches.
    """
    if bits not in PACKED:
        raise ValueError(f"Integers of {', '.join(map(str, PACKED))} bits are packed into bytes, not of {bits}.")
    check_pattern(params, pattern)
    packed = {}
    for path, value in jax.tree.leaves_with_path(params):
        name, path_bits = jax.tree_util.keystr(path, simple=True, separator="/"), bits_of(path, bits, pattern, keep)
        if path_bits is None:
            packed[name] = np.asarray(value)
            continue
        step, path_bits = step_sizes(value, path_bits), int(path_bits)
        codes = np.asarray(levels(value, step, path_bits), np.int8).reshape(-1).view(np.uint8) & (2**path_bits - 1)
        slots = np.pad(codes, (0, -len(codes) % (8 // path_bits))).reshape(-1, 8 // path_bits)
        shifts = np.arange(8 // path_bits, dtype=np.uint8) * path_bits
        packed[f"{name}:codes"] = np.bitwise_or.reduce(slots << shifts, axis=1).astype(np.uint8)
        packed[f"{name}:step"] = np.asarray(step).reshape(-1)
    return packed


def unpack(
    packed: Mapping[str, np.ndarray], like: PyTree, bits: int, pattern: str = "kernel$", keep: str = ""
) -> PyTree:
    """Returns the float parameters that `pack` stored, in the tree and shapes of `like`; they need no `Quantised`."""

    def value(path: tuple, leaf: Any) -> Array:
        name, path_bits = jax.tree_util.keystr(path, simple=True, separator="/"), bits_of(path, bits, pattern, keep)
        if path_bits is None:
            return jnp.asarray(packed[name])
        path_bits = int(path_bits)
        shifts = np.arange(8 // path_bits, dtype=np.uint8) * path_bits
        slots = (packed[f"{name}:codes"][:, None] >> shifts) & (2**path_bits - 1)
        codes = slots.reshape(-1)[: int(np.prod(leaf.shape))].astype(np.int16)
        codes = np.where(codes >= 2 ** (path_bits - 1), codes - 2**path_bits, codes).reshape(leaf.shape)
        return jnp.asarray(codes.astype(np.float32) * packed[f"{name}:step"])

    return jax.tree_util.tree_map_with_path(value, like)


def packed_bytes(params: PyTree, bits: int, pattern: str = "kernel$", keep: str = "") -> int:
    """Returns the bytes of the parameters when they are packed; from 32 bits on as they are."""
    if bits >= FLOAT:
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(params))
    return sum(array.nbytes for array in pack(params, bits, pattern, keep).values())
