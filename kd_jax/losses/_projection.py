"""Reads and checks the arguments of the losses in vocabulary.py: heads, shapes, options, mesh axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

Array = jax.Array
PyTree = Any
Head = Array | Mapping[str, Array]


class OutputHead(NamedTuple):
    """A matrix [D, V], or [V, D] where transposed, and a bias [V]."""

    matrix: Array
    bias: Array | None
    transposed: bool

    @property
    def shape(self) -> tuple[int, int]:
        """Returns (D, V)."""
        first, second = self.matrix.shape
        return (second, first) if self.transposed else (first, second)


def read_head(name: str, side: str, head: Head, bias: Array | None, transposed: bool) -> OutputHead:
    """Returns the head from a matrix or the parameters of a Dense or Embed layer; ValueError for anything else."""
    if isinstance(head, Mapping):
        keys = set(head)
        if keys not in ({"kernel"}, {"kernel", "bias"}, {"embedding"}) or (bias is not None and "bias" in keys):
            raise ValueError(
                f"{name}: the {side}'s head is a matrix, or the parameters of a Dense (kernel, bias) or Embed "
                f"(embedding) layer, with one bias at most; got {sorted(keys)}"
                + (f" and {side}_bias" if bias is not None else "")
            )
        transposed, bias = transposed or "embedding" in head, head.get("bias", bias)
        head = head["embedding"] if "embedding" in head else head["kernel"]
    matrix = jnp.asarray(head)
    if matrix.ndim != 2:
        raise ValueError(f"{name}: the {side}'s head has shape {matrix.shape}, expected a matrix of [D, V] (or [V, D])")
    return OutputHead(matrix, None if bias is None else jnp.asarray(bias), transposed)


def check_shapes(name: str, hidden: Mapping[str, Array], heads: Mapping[str, OutputHead]) -> dict[str, int]:
    """Returns {side: number of classes}; raises ValueError where hidden states, heads and biases do not fit."""
    for side, head in heads.items():
        shape, width = hidden[side].shape, head.shape[0]
        if not shape or shape[-1] != width:
            raise ValueError(
                f"{name}: the {side}'s hidden states {shape} do not fit its head {head.matrix.shape}, which takes "
                f"vectors of {width}; {side}_transposed={not head.transposed} would read it the other way round"
            )
        if head.bias is not None and head.bias.shape != (head.shape[1],):
            raise ValueError(f"{name}: the {side}'s bias {head.bias.shape} does not fit {head.shape[1]} classes")
    if "teacher" in hidden and hidden["teacher"].shape[:-1] != hidden["student"].shape[:-1]:
        raise ValueError(
            f"{name}: hidden states of student {hidden['student'].shape} and teacher {hidden['teacher'].shape} "
            "must agree in all axes but the last"
        )
    return {side: head.shape[1] for side, head in heads.items()}


def common_classes(name: str, sizes: Mapping[str, int], how: str) -> int:
    """Returns how many classes are compared; `how` says what happens where one side has more than the other."""
    if how not in ("same", "slice", "pad"):
        raise ValueError(f'{name}: vocabulary must be "same", "slice" or "pad", got {how!r}')
    if how == "same" and len(set(sizes.values())) > 1:
        raise ValueError(
            f"{name}: the student has {sizes['student']} classes, the teacher {sizes['teacher']}. Where one vocabulary "
            'is the other with unused entries at its end: vocabulary="slice" leaves those out, "pad" gives them '
            "probability 0 on the side that lacks them. Vocabularies of different tokenizers need aligned_loss."
        )
    return max(sizes.values()) if how == "pad" else min(sizes.values())


def mesh_axes_here(
    name: str, token_axes: tuple[str, ...], vocabulary_axis: str | None
) -> tuple[tuple[str, ...], str | None]:
    """Returns those of the axes that jax.set_mesh's mesh has, and that no surrounding shard_map has taken.

    Token axes of one device are left out. Raises ValueError for a vocabulary axis that is not there.
    """
    mesh = jax.sharding.get_abstract_mesh()
    free = {a: n for a, n in mesh.shape.items() if a not in mesh.manual_axes}
    if mesh.empty:  # one device, or shapes that are only checked
        return (), None
    if vocabulary_axis is not None and vocabulary_axis not in free:
        raise ValueError(f"{name}: vocabulary_axis={vocabulary_axis!r}, but the mesh (jax.set_mesh) has {tuple(free)}")
    if vocabulary_axis in token_axes:
        raise ValueError(f"{name}: mesh axis {vocabulary_axis!r} cannot share both tokens {token_axes} and classes")
    return tuple(a for a in token_axes if free.get(a, 1) > 1), vocabulary_axis


def on_auto_axes(
    compute: Callable[..., Any], like: Array, axes: int, specs: Callable[[PartitionSpec], PyTree]
) -> Callable[..., Any]:
    """Returns `compute` with the Explicit axes of jax.set_mesh's mesh (jax's default) left to the compiler inside.

    What it returns is laid out as `specs` says of the spec of the first `axes` axes of `like`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    types = () if mesh.empty else zip(mesh.axis_names, mesh.axis_types, strict=True)
    explicit = tuple(name for name, kind in types if kind == AxisType.Explicit)
    if not explicit:
        return compute
    spec = PartitionSpec(*jax.typeof(like).sharding.spec[:axes])
    laid_out: Any = jax.sharding.auto_axes(compute, axes=explicit, out_sharding=specs(spec))
    return laid_out


def heads_to_shard(
    name: str, heads: Mapping[str, OutputHead], sizes: Mapping[str, int], classes: int, axis: str
) -> dict[str, OutputHead]:
    """Cuts both heads to the same classes, so that a device has the same classes of both."""
    ways = jax.sharding.get_abstract_mesh().shape[axis]
    if classes % ways or min(sizes.values()) < classes:
        raise ValueError(
            f"{name}: {classes} classes of {dict(sizes)} cannot be sharded {ways} ways over {axis!r}: they must "
            'divide, and vocabulary="pad" cannot be sharded'
        )

    def cut(head: OutputHead) -> OutputHead:
        if head.shape[1] == classes:
            return head
        matrix = head.matrix[:classes] if head.transposed else head.matrix[:, :classes]
        return OutputHead(matrix, None if head.bias is None else head.bias[:classes], head.transposed)

    return {side: cut(head) for side, head in heads.items()}


def split_options(
    name: str, options: Mapping[str, Array | float], leading: tuple[int, ...]
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Splits options into {name: number} and {name: [tokens]}; ValueError on other shapes."""
    numbers, by_token = {}, {}
    for key, value in options.items():
        value = jnp.asarray(value)
        if value.shape == leading:
            by_token[key] = value.reshape(-1)
        elif value.ndim == 0:
            numbers[key] = value.astype(jnp.promote_types(value.dtype, jnp.float32))
        else:
            raise ValueError(
                f"{name}: {key} has shape {value.shape}; it is a number, or has the tokens' shape {leading}"
            )
    return numbers, by_token


def valid_tokens(name: str, where: Array | None, leading: tuple[int, ...]) -> Array:
    """Returns bool [tokens] from `where`, which may have only the first of the leading axes; None: all are valid."""
    if where is None:
        return jnp.ones(math.prod(leading), bool)
    where = jnp.asarray(where)
    if where.shape != leading[: where.ndim]:
        raise ValueError(f"{name}: where {where.shape} must have the tokens' shape {leading}, or its first axes")
    where = where.reshape(where.shape + (1,) * (len(leading) - where.ndim)) != 0
    return jnp.broadcast_to(where, leading).reshape(-1)


def check_division(name: str, leading: tuple[int, ...], token_axes: tuple[str, ...]) -> None:
    """Raises ValueError unless the tokens of `leading` divide over the mesh axes."""
    number = math.prod(leading)
    ways = math.prod(jax.sharding.get_abstract_mesh().shape[a] for a in token_axes)
    if number % ways:
        raise ValueError(
            f"{name}: {number} tokens {leading} do not divide over the {ways} ways of the mesh axes {token_axes}; "
            "token_axes=() computes them on every device."
        )
