"""Losses over a large vocabulary from hidden states: neither pass ever holds the logits of all tokens.

Each equals the loss of the same name in response.py or task.py on the logits `hidden @ head + bias`, in value and
gradient:

    fused_kd_loss(student_hidden, student_head, teacher_hidden, teacher_head, temperature=2.0)

hidden [..., D]; a head is the matrix [D, V], or the parameters of a Flax layer as a model has them: those of Dense,
{"kernel": [D, V], "bias": [V]}, or of an Embed whose table is the head too (tied), {"embedding": [V, D]}. Student and
teacher have the same leading shape; their widths D may differ. Returns float32 [...], 0 where `where` (bool, of the
leading shape or its first axes) is False, whatever is there (NaN too). Options are a number or an array [...]. Only the
gradients that are asked for are computed. Raises ValueError that names shapes that do not fit.

Products are taken in the dtype of the hidden states (the head is cast to it) and summed in float32, in which the loss
is computed: with bfloat16 inputs the value is that of the same numbers in float32, and the gradients differ by their
rounding to bfloat16, 1e-2 of the largest.

The gradient is taken while a chunk's logits exist, as in Liger-Kernel's fused linear losses (Hsu et al., "Liger Kernel:
Efficient Triton Kernels for LLM Training", 2024, arXiv 2410.10989); those return the mean, these a loss at every token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypedDict, Unpack

import jax
import jax.numpy as jnp

from kd_jax.losses import response, task
from kd_jax.losses._chunked import Settings, chunked_loss
from kd_jax.losses._projection import (
    Head,
    check_division,
    check_shapes,
    common_classes,
    heads_to_shard,
    mesh_axes_here,
    on_auto_axes,
    read_head,
    split_options,
    valid_tokens,
)
from kd_jax.ranges import BelowOne, Count, Positive, Share

Array = jax.Array
# The divergence is infinite where this side lacks a class that the other side has.
_INFINITE_WITHOUT = {response.kd_loss: "student", response.reverse_kl_loss: "teacher"}


class Projection(TypedDict, total=False):
    """Options of the projection from hidden states to logits.

    chunk: tokens whose logits exist at the same time (on each device).
    student_bias, teacher_bias: [V], added to the product.
    student_transposed, teacher_transposed: the head is a matrix [V, D], as the table of a tied embedding is.
    student_softcap, teacher_softcap: c, the logits are c tanh(z / c) (Gemma 2).
    vocabulary: what to do where the heads have different numbers of classes; "same": ValueError (the default);
        "slice": the classes that both have, counted from 0; "pad": the logits of the missing classes are -inf, for
        losses that are finite then (a KL whose second argument lacks classes is a ValueError).
    token_axes: mesh axes that share the tokens; axes that jax.set_mesh's mesh does not have are left out.
    vocabulary_axis: the axis of that mesh that shards the classes of the heads; the logits are never gathered.
    """

    chunk: int
    student_bias: Array | None
    teacher_bias: Array | None
    student_transposed: bool
    teacher_transposed: bool
    student_softcap: Array | float | None
    teacher_softcap: Array | float | None
    vocabulary: str
    token_axes: tuple[str, ...]
    vocabulary_axis: str | None


def fused_kd_loss(
    student_hidden: Array,
    student_head: Head,
    teacher_hidden: Array,
    teacher_head: Head,
    *,
    temperature: Positive[Array | float] = 4.0,
    where: Array | None = None,
    **projection: Unpack[Projection],
) -> Array:
    """Computes response.kd_loss of projected hidden states: T^2 KL(p_t, p_s)."""
    sides = (student_hidden, student_head, teacher_hidden, teacher_head)
    return fused_loss(response.kd_loss, *sides, {"temperature": temperature}, where=where, **projection)


def fused_reverse_kl_loss(
    student_hidden: Array,
    student_head: Head,
    teacher_hidden: Array,
    teacher_head: Head,
    *,
    temperature: Positive[Array | float] = 1.0,
    where: Array | None = None,
    **projection: Unpack[Projection],
) -> Array:
    """Computes response.reverse_kl_loss of projected hidden states: T^2 KL(p_s, p_t)."""
    sides = (student_hidden, student_head, teacher_hidden, teacher_head)
    return fused_loss(response.reverse_kl_loss, *sides, {"temperature": temperature}, where=where, **projection)


def fused_jsd_loss(
    student_hidden: Array,
    student_head: Head,
    teacher_hidden: Array,
    teacher_head: Head,
    *,
    beta: Share[Array | float] = 0.5,
    temperature: Positive[Array | float] = 1.0,
    where: Array | None = None,
    **projection: Unpack[Projection],
) -> Array:
    """Computes response.jsd_loss of projected hidden states: T^2 [beta KL(p_t, m) + (1 - beta) KL(p_s, m)] (GKD)."""
    sides = (student_hidden, student_head, teacher_hidden, teacher_head)
    options = {"beta": beta, "temperature": temperature}
    return fused_loss(response.jsd_loss, *sides, options, where=where, **projection)


def fused_skew_kl_loss(
    student_hidden: Array,
    student_head: Head,
    teacher_hidden: Array,
    teacher_head: Head,
    *,
    alpha: BelowOne[Array | float] = 0.1,
    temperature: Positive[Array | float] = 1.0,
    where: Array | None = None,
    **projection: Unpack[Projection],
) -> Array:
    """Computes response.skew_kl_loss of projected hidden states: T^2 KL(p_t, alpha p_t + (1 - alpha) p_s)."""
    sides = (student_hidden, student_head, teacher_hidden, teacher_head)
    options = {"alpha": alpha, "temperature": temperature}
    return fused_loss(response.skew_kl_loss, *sides, options, where=where, **projection)


def fused_skew_reverse_kl_loss(
    student_hidden: Array,
    student_head: Head,
    teacher_hidden: Array,
    teacher_head: Head,
    *,
    alpha: BelowOne[Array | float] = 0.1,
    temperature: Positive[Array | float] = 1.0,
    where: Array | None = None,
    **projection: Unpack[Projection],
) -> Array:
    """Computes response.skew_reverse_kl_loss of projected hidden states: T^2 KL(p_s, (1 - alpha) p_t + alpha p_s)."""
    sides = (student_hidden, student_head, teacher_hidden, teacher_head)
    options = {"alpha": alpha, "temperature": temperature}
    return fused_loss(response.skew_reverse_kl_loss, *sides, options, where=where, **projection)


def fused_total_variation_loss(
    student_hidden: Array,
    student_head: Head,
    teacher_hidden: Array,
    teacher_head: Head,
    *,
    temperature: Positive[Array | float] = 1.0,
    where: Array | None = None,
    **projection: Unpack[Projection],
) -> Array:
    """Computes response.total_variation_loss of projected hidden states: T^2 / 2 sum |p_t - p_s|."""
    sides = (student_hidden, student_head, teacher_hidden, teacher_head)
    return fused_loss(response.total_variation_loss, *sides, {"temperature": temperature}, where=where, **projection)


def fused_cross_entropy_loss(
    student_hidden: Array,
    student_head: Head,
    labels: Array,
    *,
    smoothing: BelowOne[Array | float] = 0.0,
    where: Array | None = None,
    **projection: Unpack[Projection],
) -> Array:
    """Computes task.cross_entropy_loss of projected hidden states; labels are integers [...]."""
    options = {"labels": labels, "smoothing": smoothing}
    return fused_loss(
        task.cross_entropy_loss, student_hidden, student_head, None, None, options, where=where, **projection
    )


def fused_loss(
    loss: Callable[..., Array],
    student_hidden: Array,
    student_head: Head,
    teacher_hidden: Array | None,
    teacher_head: Head | None,
    options: Mapping[str, Array | float],
    *,
    where: Array | None = None,
    chunk: Count[int] = 256,
    student_bias: Array | None = None,
    teacher_bias: Array | None = None,
    student_transposed: bool = False,
    teacher_transposed: bool = False,
    student_softcap: Positive[Array | float | None] = None,
    teacher_softcap: Positive[Array | float | None] = None,
    vocabulary: str = "same",
    token_axes: tuple[str, ...] = ("data", "fsdp"),
    vocabulary_axis: str | None = None,
) -> Array:
    """Computes loss(student_logits, teacher_logits, **options) of projected hidden states, for any loss of logits.

    The value of `loss` at a token may depend on the logits and options of that token alone. Without a teacher (both
    None) the call is loss(student_logits, **options). With `vocabulary_axis` it gets a device's classes, and that axis
    as `axis_name`. The other arguments are those of `Projection`.
    """
    name = getattr(loss, "__name__", "fused_loss")
    hidden = {"student": jnp.asarray(student_hidden)}
    heads = {"student": read_head(name, "student", student_head, student_bias, student_transposed)}
    if (teacher_hidden is None) != (teacher_head is None):
        raise ValueError(f"{name}: a teacher has hidden states and a head, or neither is there; one of the two is None")
    if teacher_hidden is not None and teacher_head is not None:
        hidden["teacher"] = jnp.asarray(teacher_hidden)
        heads["teacher"] = read_head(name, "teacher", teacher_head, teacher_bias, teacher_transposed)
    sizes = check_shapes(name, hidden, heads)
    token_axes, vocabulary_axis = mesh_axes_here(name, token_axes, vocabulary_axis)
    classes = common_classes(name, sizes, vocabulary)
    side = _INFINITE_WITHOUT.get(loss)
    if side is not None and sizes.get(side, classes) < classes:
        raise ValueError(f'{name} is infinite where the {side} lacks classes {sizes}: use "slice"')
    if vocabulary_axis:
        heads = heads_to_shard(name, heads, sizes, classes, vocabulary_axis)
    leading = hidden["student"].shape[:-1]
    check_division(name, leading, token_axes)
    softcap = {"student": student_softcap, "teacher": teacher_softcap}
    caps = {k: jnp.asarray(softcap[k], jnp.float32) for k in hidden if softcap[k] is not None}
    transposed = frozenset(k for k, h in heads.items() if h.transposed)
    settings = Settings(loss, chunk, transposed, classes, token_axes, vocabulary_axis)

    def compute(hidden: Mapping, heads: Mapping, biases: Mapping, options: Mapping, where: Array | None) -> Array:
        numbers, by_token = split_options(name, options, leading)
        rows = {k: h.reshape(math.prod(leading), h.shape[-1]) for k, h in hidden.items()}
        shared = {"head": heads, "bias": biases, "numbers": {"softcap": caps, "options": numbers}}
        tokens = {"hidden": rows, "options": by_token}
        return chunked_loss(settings, tokens, shared, valid_tokens(name, where, leading)).reshape(leading)

    compute = on_auto_axes(compute, hidden["student"], len(leading), lambda spec: spec)
    matrices = {k: h.matrix for k, h in heads.items()}
    biases = {k: h.bias for k, h in heads.items() if h.bias is not None}
    return compute(hidden, matrices, biases, dict(options), where)


# The losses whose arguments are hidden states and a head of each side: core/heads.py holds them against the networks.
FUSED = frozenset(
    {
        *(fused_kd_loss, fused_reverse_kl_loss, fused_jsd_loss, fused_skew_kl_loss, fused_skew_reverse_kl_loss),
        *(fused_total_variation_loss, fused_cross_entropy_loss),
    }
)
