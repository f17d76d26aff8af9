"""Decoder-only transformer language models, which are options of one: Llama, Mistral, Qwen, Gemma, GPT-2 and others.

Vaswani et al., "Attention Is All You Need", 2017, arXiv 1706.03762; Touvron et al., "LLaMA", 2023, arXiv 2302.13971.
decoder_parts.py holds the layers, decoder_families.py the families by name, generation.py samples from them.

Taps: embed (tokens, with positions where they are learned), layerN, layerN/attention and in it queries, keys, values
[batch, heads, length, head width] (positions applied), scores and probabilities [batch, heads, length, length],
layerN/mlp, final (the hidden states that the head reads) [batch, length, width]. With `scan` the layers are one module:
layers, layers/attention/scores and so on, stacked along axis 1, so that `student.features:layers@3` is layer 3.

The head is {"embedding": [vocabulary, width]}, at `params.<role>.embed` where it is tied and else at
`params.<role>.head`: with the tap "final" that is what losses/vocabulary.py takes, which never builds the logits.
logits = softcap(final @ embedding.T); where nothing reads them, the compiler drops them. The tap "projected" holds both
(kd_jax.models.projected.Projected): losses and scores by token build the logits of `chunk` tokens at a time from it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from kd_jax.models.language.blocked_attention import Seen
from kd_jax.models.language.decoder_attention import Attention
from kd_jax.models.language.decoder_experts import Experts
from kd_jax.models.language.decoder_logits import built, tokens_at_once
from kd_jax.models.language.decoder_parts import (
    ALL,
    HEAD,
    Cache,
    Matrix,
    Mlp,
    Norm,
    Options,
    angles_of,
    segment_positions,
    write,
)
from kd_jax.models.language.generation import Decoding
from kd_jax.models.layers import Tap
from kd_jax.models.mesh_axes import row_axes
from kd_jax.types import Array, PyTree

KINDS = ("keys", "values")


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), with further norms before the sums where `post_norms` says so.

    With `cross`, x + cross(norm(x)) in between: attention to what an encoder saw.
    """

    options: Options
    train: bool
    cross_attends: bool = False
    sparse: bool = False  # the MLP is one of experts

    def setup(self) -> None:
        o = self.options
        if o.pre_norms:
            self.norm1, self.norm2 = Norm(o), Norm(o)
        self.attention, self.mlp = Attention(o), Experts(o) if self.sparse else Mlp(o)
        if o.post_norms:
            self.post_norm1, self.post_norm2 = Norm(o), Norm(o)
        if self.cross_attends:
            self.norm_cross, self.cross = Norm(o), Attention(o)
        self.dropout = nn.Dropout(o.dropout, deterministic=not self.train)

    def __call__(self, x: Array, window: Array | int | None, inputs: AttentionInputs) -> Array:
        o = self.options
        y = self.attention(self.norm1(x) if o.pre_norms else x, inputs.visible, window, inputs.angles, inputs.slot)
        x = x + self._added(self.post_norm1(y) if o.post_norms else y)
        if self.cross_attends:
            x = x + self.dropout(
                self.cross.to_memory(self.norm_cross(x), inputs.memory, inputs.memory_mask, inputs.slot)
            )
        y = self.mlp(self.norm2(x) if o.pre_norms else x)
        return x + self._added(self.post_norm2(y) if o.post_norms else y)

    def _added(self, y: Array) -> Array:
        multiplier = self.options.residual_multiplier
        return self.dropout(y if multiplier == 1 else y * multiplier)


class AttentionInputs(NamedTuple):
    """What every layer is told: which keys a query sees, and where the cache is written."""

    visible: Seen
    angles: tuple[Array, Array] | None = None
    slot: Array | None = None
    memory: Array | None = None  # of an encoder [batch, source length, width]; None: the cache has what it became
    memory_mask: Array | None = None  # bool [batch, source length]


class Decoder(nn.Module):
    """Tokens int [batch, length] -> logits float32 [batch, length, vocabulary].

    `segments` int [batch, length]: 0 is padding, left or right; equal numbers attend to each other, so that several
    texts packed into one row do not see one another. `positions` default to those within the segment.
    """

    options: Options
    cross_attends: bool = False  # the decoder of seq2seq.py: calls have a memory then

    def __call__(
        self,
        tokens: Array,
        segments: Array | None = None,
        positions: Array | None = None,
        train: bool = False,
        memory: Array | None = None,
        memory_mask: Array | None = None,
    ) -> Array:
        slots = jnp.arange(tokens.shape[1])[None]
        visible = Seen(slots) if segments is None else Seen(slots, segments != 0, (segments, segments))
        if positions is None:
            positions = slots if segments is None else segment_positions(segments)
        inputs = AttentionInputs(visible, memory=memory, memory_mask=memory_mask)
        return self._forward(tokens, positions, inputs, train=train)

    def decode(
        self,
        tokens: Array,
        cache: Cache,
        mask: Array | None = None,
        last: bool = False,
        memory: Array | None = None,
        memory_mask: Array | None = None,
    ) -> tuple[Array, Cache]:
        """Returns (logits of these further tokens [batch, length], the cache with them).

        The first call takes a whole prompt, later ones a token at a time. `mask` False marks padding, which is left of
        the prompt; `last` computes the logits of the last token only. The layers of the cache are the collection
        "cache": `decoding` runs this. A memory is projected to the cache.
        """
        mask = jnp.ones(tokens.shape, bool) if mask is None else mask
        slots = jnp.reshape(cache.index, (-1, 1)) + jnp.arange(tokens.shape[1])[None]  # [1 or batch, length]
        keys = jnp.arange(cache.valid.shape[1])[None]
        before = (cache.valid & (keys < slots[:, :1])).sum(1, keepdims=True)
        valid = write(cache.valid, mask, cache.index)
        positions = jnp.maximum(before + jnp.cumsum(mask, 1) - 1, 0)
        inputs = AttentionInputs(Seen(slots, valid), slot=cache.index, memory=memory, memory_mask=memory_mask)
        logits = self._forward(tokens, positions, inputs, last=last)
        return logits, dataclasses.replace(cache, valid=valid, index=cache.index + tokens.shape[1])

    @nn.compact
    def _forward(
        self, tokens: Array, positions: Array, inputs: AttentionInputs, last: bool = False, train: bool = False
    ) -> Array:
        o = self.options
        matrix = Matrix(o.vocabulary, o.width, name="embed")
        x = run_layers(o, matrix(tokens), positions, inputs, train, self.cross_attends)
        x = Norm(o, name="norm")(x[:, -1:] if last else x)
        x = Tap(name="final")(x if o.logits_scaling == 1 else x / o.logits_scaling)
        head = matrix if o.tied else Matrix(o.vocabulary, o.width, name=HEAD)
        product = head.projected(x, o.logit_softcap, o.chunk or tokens_at_once(o.vocabulary, o.width))
        logits = built(product)
        Tap(name="projected")(dataclasses.replace(product, built=logits))
        return logits


def run_layers(
    o: Options, x: Array, positions: Array, inputs: AttentionInputs, train: bool, cross_attends: bool = False
) -> Array:
    """Runs embedded tokens through all layers, which become submodules of the module that calls this."""
    x = _placed(o, x, positions, inputs)
    x = nn.Dropout(o.dropout, deterministic=not train)(Tap(name="stem")(x.astype(o.dtype)))

    windows = [(o.windows[i % len(o.windows)] if o.windows else 0) or None for i in range(o.depth)]
    slots = None if inputs.slot is None else inputs.visible.valid  # of a cache
    kinds, angles = angles_by_layer(o, positions, windows, x.shape[1] if slots is None else slots.shape[1])
    policy = getattr(jax.checkpoint_policies, o.remat) if o.remat else None
    # Inside a scan XLA cannot merge the recomputation with the first one, so nothing has to forbid it.
    block = nn.remat(Block, policy=policy, prevent_cse=not o.scan) if o.remat else Block
    if not o.scan:
        for i, window in enumerate(windows):
            of_layer = inputs._replace(angles=angles[kinds[i]] if angles else None)
            sparse = bool(o.experts) and i not in o.dense_layers
            x = block(o, train, cross_attends, sparse, name=f"layer{i}")(x, window, of_layer)
        return x

    def body(layers: nn.Module, x: Array, layer: tuple[Array | None, Array]) -> tuple[Array, None]:
        window, kind = layer
        one = angles[0] if len(angles) == 1 else None
        chosen = jax.tree.map(lambda *x: jnp.stack(x)[kind], *angles) if len(angles) > 1 else one
        return layers(x, window, inputs._replace(angles=chosen)), None

    scan = nn.scan(
        body,
        variable_axes={"params": 0, "cache": 0, "intermediates": 1},
        length=o.depth,
        split_rngs={"params": True, "dropout": True},
    )
    stacked = jnp.asarray([window or ALL for window in windows]) if any(windows) else None
    return scan(block(o, train, cross_attends, bool(o.experts), name="layers"), x, (stacked, jnp.asarray(kinds)))[0]


def _placed(o: Options, x: Array, positions: Array, inputs: AttentionInputs) -> Array:
    """Embedded tokens as the options scale them, with learned positions added where the options have these."""
    x = x * ((o.width**0.5 if o.scale_embedding else 1) * o.embedding_multiplier)
    if o.positions != "learned":
        return x
    if inputs.slot is None and x.shape[1] > o.max_length:
        raise ValueError(f"{x.shape[1]} tokens, but positions were learned for max_length={o.max_length}")
    return x + Matrix(o.max_length, o.width, name="positions")(positions)


def angles_by_layer(
    o: Options, positions: Array, windows: Sequence[int | None], room: int
) -> tuple[list[int], list[tuple[Array, Array]]]:
    """Returns the number of each layer's angles in the list of those that there are: none of learned positions.

    `room` is the number of tokens that a row has, or that its cache takes.
    """
    if o.positions == "learned":
        return [0] * o.depth, []
    kinds = [
        "none" if i in o.unplaced else "local" if window and o.local_theta else "all"
        for i, window in enumerate(windows)
    ]
    made = {}
    for kind in dict.fromkeys(kinds):
        cos, sin = angles_of(o, positions, room, local=kind == "local")
        made[kind] = (jnp.ones_like(cos), jnp.zeros_like(sin)) if kind == "none" else (cos, sin)
    return [list(made).index(kind) for kind in kinds], list(made.values())


def by_rows(x: Array, axis: int) -> Array:
    """Lays out the rows of x along `axis` as those of a batch on the mesh of jax.set_mesh, if they divide.

    Left to itself, the compiler lays a cache out as FSDP parameters would have it, and copies it along that axis.
    """
    axes = row_axes(x.shape[axis])
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*(None,) * axis, axes)) if axes else x


def decoding(module: Decoder) -> Decoding:
    """Returns the functions with which generation.py runs a decoder."""
    o = module.options

    def start(params: PyTree, batch: int, size: int) -> Cache:
        del params
        if o.positions == "learned" and size > o.max_length:
            raise ValueError(f"prompt and new tokens are {size}, positions were learned for max_length={o.max_length}")
        shape = (batch, size, o.kv_heads, o.head_width)
        stack = (o.depth,) if o.scan else ()
        layer = {"attention": {name: by_rows(jnp.zeros(stack + shape, o.dtype), len(stack)) for name in KINDS}}
        names = ["layers"] if o.scan else [f"layer{i}" for i in range(o.depth)]
        return Cache({name: layer for name in names}, jnp.zeros((batch, size), bool), jnp.int32(0))

    def step(
        params: PyTree, tokens: Array, cache: Cache, mask: Array | None = None, last: bool = False
    ) -> tuple[Array, Cache]:
        variables = {"params": params, "cache": cache.layers}
        (logits, cache), new = module.apply(variables, tokens, cache, mask, last, method="decode", mutable="cache")
        return logits, dataclasses.replace(cache, layers=new["cache"])

    def take(cache: Cache, rows: Array) -> Cache:
        layers = jax.tree.map(lambda x: jnp.take(x, rows, axis=x.ndim - 4), cache.layers)
        return Cache(layers, cache.valid[rows], cache.index if cache.index.ndim == 0 else cache.index[rows])

    def rewind(cache: Cache, index: Array) -> Cache:
        return dataclasses.replace(cache, index=index)  # slots from `index` on are not seen, and overwritten

    return Decoding(start, step, take, rewind)
