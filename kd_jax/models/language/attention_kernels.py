"""Attention by kernels of accelerators: cuDNN on GPUs, splash on TPUs, and the rules by which they are chosen.

Both compute softmax(scale q k) v of a text that begins in slot 0, without the square of its scores. Neither has run on
its device here: the tests hold cuDNN's call against JAX's plain form, and splash interpreted on a CPU against
blocked_attention.py; the splash call is lowered for a TPU there too.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from kd_jax.models.language.blocked_attention import Seen
from kd_jax.models.language.decoder_parts import Options
from kd_jax.models.mesh_axes import MODEL_AXIS, row_axes
from kd_jax.types import Array

LANES, BLOCKS = 128, (512, 256, 128)  # of a TPU: lengths are multiples of the first; blocks, of which the first divides


def fused_on_gpu(o: Options, visible: Seen, window: Array | int | None) -> bool:
    """Returns whether cuDNN's attention computes this: on a GPU, 16-bit, causal, nothing hidden beside the future.

    Segments and padding would need a mask of the square, a soft cap and sinks it does not have.
    """
    plain = visible.causal and visible.valid is None and visible.segments is None and not o.attention_softcap
    heads = o.head_width <= 128 and o.head_width % 8 == 0
    return plain and heads and _static(o, window) and jax.default_backend() == "gpu"


def fused_on_tpu(o: Options, visible: Seen, window: Array | int | None) -> bool:
    """Returns whether splash attention computes this: on a TPU, 16-bit, causal; texts may be packed.

    Keys that are hidden otherwise (those of a cache), and sinks, it is not asked for.
    """
    text = visible.causal and (visible.valid is None or visible.segments is not None)
    mesh = jax.sharding.get_abstract_mesh()  # of axes that another shard_map has taken, some are left to the compiler
    return text and _static(o, window) and not mesh.manual_axes and jax.default_backend() == "tpu"


def _static(o: Options, window: Array | int | None) -> bool:
    return not o.sinks and (window is None or isinstance(window, int)) and o.dtype.itemsize == 2


def with_cudnn(queries: Array, keys: Array, values: Array, window: int | None, scale: float) -> Array:
    """Computes causal attention of [batch, heads, length, width] by cuDNN -> [batch, length, heads, width]."""
    by_token = (x.swapaxes(1, 2) for x in (queries, keys, values))
    back = None if window is None else (window - 1, 0)
    return jax.nn.dot_product_attention(
        *by_token, scale=scale, is_causal=True, local_window_size=back, implementation="cudnn"
    )


def with_splash(
    queries: Array,
    keys: Array,
    values: Array,
    segments: Array | None,
    window: int | None,
    scale: float,
    softcap: float = 0.0,
    interpret: bool = False,
) -> Array:
    """Computes causal attention of [batch, heads, length, width] by splash -> [batch, length, heads, width].

    Tokens of equal `segments` [batch, length] see each other; those of segment 0 are padding, which gives 0. On a mesh
    every device computes its rows of the batch, and its heads where the axis "model" divides those of keys. The scale
    is multiplied into the queries, in their dtype. `interpret` runs the kernel on any device, slowly.
    """
    length, more = queries.shape[2], -queries.shape[2] % LANES
    inputs = {"q": (queries * scale).astype(queries.dtype), "k": keys, "v": values}
    inputs = {name: jnp.pad(x, ((0, 0), (0, 0), (0, more), (0, 0))) for name, x in inputs.items()}
    if segments is not None:
        inputs["segments"] = jnp.pad(segments, ((0, 0), (0, more)))
    run = functools.partial(_on_device, window=window, softcap=softcap, interpret=interpret)
    rows, heads = row_axes(queries.shape[0]), _head_axis(keys.shape[1])
    if rows or heads:
        by_head = PartitionSpec(rows, heads)
        specs = {name: PartitionSpec(rows) if name == "segments" else by_head for name in inputs}
        run = jax.shard_map(run, in_specs=(specs,), out_specs=by_head, check_vma=False)
    out = run(inputs)[:, :, :length]
    return (out if segments is None else jnp.where((segments != 0)[:, None, :, None], out, 0)).swapaxes(1, 2)


def _on_device(inputs: dict[str, Array], window: int | None, softcap: float, interpret: bool) -> Array:
    from jax.experimental.pallas.ops.tpu import splash_attention as splash  # slow to import, and of TPUs alone

    heads, length = inputs["q"].shape[1:3]
    block = next(size for size in BLOCKS if length % size == 0)
    square = (length, length)
    mask = splash.CausalMask(square) if window is None else splash.LocalMask(square, (window - 1, 0), 0)
    sizes = splash.BlockSizes(block, block, None, block, block, None, block, block)
    kernel = splash.make_splash_mha_single_device(
        splash.MultiHeadMask([mask] * heads),
        block_sizes=sizes,
        attn_logits_soft_cap=softcap or None,
        interpret=interpret,
    )

    def row(q: Array, k: Array, v: Array, segments: Array | None = None) -> Any:
        return kernel(q, k, v, None if segments is None else splash.SegmentIds(segments, segments))

    return jax.vmap(row)(**inputs)


def _head_axis(kv_heads: int) -> str | None:
    """The axis of jax.set_mesh's mesh that shares the heads, where it divides those of keys."""
    size = jax.sharding.get_abstract_mesh().shape.get(MODEL_AXIS, 1)
    return MODEL_AXIS if size > 1 and kv_heads % size == 0 else None
