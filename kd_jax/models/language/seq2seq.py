"""Encoder-decoder transformers: a source sequence in, a target sequence out (pronunciation, translation).

Vaswani et al., "Attention Is All You Need", 2017, arXiv 1706.03762, with the layers of decoder.py (norms before the
sub-layers, rotary positions). Taps: encoder/layerN, memory (what the encoder saw) [batch, source length, width],
decoder/layerN, decoder/layerN/cross, decoder/final; the head is `params.<role>.decoder.embed` (tied) or
`params.<role>.decoder.head`.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.models.language import decoder as decoders
from kd_jax.models.language.blocked_attention import Seen
from kd_jax.models.language.decoder import AttentionInputs, Decoder, run_layers
from kd_jax.models.language.decoder_parts import Cache, Matrix, Norm, Options
from kd_jax.models.language.generation import Decoding
from kd_jax.models.layers import Tap
from kd_jax.types import Array, PyTree


class Encoder(nn.Module):
    """Tokens int [batch, length], mask bool -> hidden states [batch, length, width]; real tokens see one another."""

    options: Options

    @nn.compact
    def __call__(self, tokens: Array, mask: Array, train: bool = False) -> Array:
        o = self.options
        slots = jnp.arange(tokens.shape[1])[None]
        x = Matrix(o.vocabulary, o.width, name="embed")(tokens)
        x = run_layers(o, x, slots, AttentionInputs(Seen(slots, mask, causal=False)), train)
        return Norm(o, name="norm")(x)


class Seq2Seq(nn.Module):
    """Source int [batch, source length] and target int [batch, length] -> logits [batch, length, vocabulary].

    The logits at a target token are of the one after it. `source_mask` bool is False on padding, which may be anywhere
    to the right of the source; target padding is to the right and needs no mask, since nothing real sees it.
    """

    source: Options
    target: Options

    def setup(self) -> None:
        self.encoder = Encoder(self.source)
        self.decoder = Decoder(self.target, cross_attends=True)
        self.memory = Tap()

    def __call__(self, source: Array, target: Array, source_mask: Array | None = None, train: bool = False) -> Array:
        memory, source_mask = self.encode(source, source_mask, train)
        return self.decoder(target, train=train, memory=memory, memory_mask=source_mask)

    def encode(self, source: Array, source_mask: Array | None = None, train: bool = False) -> tuple[Array, Array]:
        mask = jnp.ones(source.shape, bool) if source_mask is None else source_mask
        return self.memory(self.encoder(source, mask, train)), mask

    def decode(self, *arguments: Any) -> tuple[Array, Cache]:
        return self.decoder.decode(*arguments)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Memory:
    """The decoder's cache, and what the encoder returned, which the first step projects to keys and values of it."""

    cache: Cache
    mask: Array
    encoded: Array | None


def decoding(module: Seq2Seq) -> Decoding:
    """Returns the functions with which generation.py and its neighbours run a Seq2Seq.

    Its cache begins with `encoded` (the field `read`), given as `cache=`; prompts begin the target (a start token).
    """
    plain = decoders.decoding(Decoder(module.target, cross_attends=True))

    def start(params: PyTree, batch: int, size: int) -> Memory:
        raise ValueError("an encoder-decoder generates from a source: give cache=seq2seq.encoded(module, params, ...)")

    def step(
        params: PyTree, tokens: Array, memory: Memory, mask: Array | None = None, last: bool = False
    ) -> tuple[Array, Memory]:
        variables = {"params": params, "cache": {"decoder": memory.cache.layers}}
        arguments = (tokens, memory.cache, mask, last, memory.encoded, memory.mask)
        (logits, cache), new = module.apply(variables, *arguments, method="decode", mutable="cache")
        cache = dataclasses.replace(cache, layers=new["cache"]["decoder"])
        return logits, Memory(cache, memory.mask, None)

    def take(memory: Memory, rows: Array) -> Memory:
        encoded = None if memory.encoded is None else memory.encoded[rows]
        return Memory(plain.take(memory.cache, rows), memory.mask[rows], encoded)

    def rewind(memory: Memory, index: Array) -> Memory:
        return dataclasses.replace(memory, cache=plain.rewind(memory.cache, index))

    return Decoding(start, step, take, rewind, functools.partial(encoded, module))


def encoded(module: Seq2Seq, params: PyTree, source: Array, source_mask: Array | None, size: int) -> Memory:
    """Returns the cache of a source int [batch, source length], with room for `size` target tokens, prompt included."""
    memory, mask = module.apply({"params": params}, source, source_mask, method="encode")
    empty = decoders.decoding(Decoder(module.target, cross_attends=True)).start(params, source.shape[0], size)
    return Memory(empty, mask, memory)


def seq2seq(
    vocabulary: int,
    source_vocabulary: int,
    width: int = 128,
    depth: int = 2,
    heads: int = 4,
    hidden: int = 0,
    source_depth: int = 0,
    **options: Any,
) -> Seq2Seq:
    """Returns a Seq2Seq with RMSNorm, SwiGLU and rotary positions on both sides.

    `source_depth` defaults to `depth`, `hidden` to 8/3 of width. `options` are fields of decoder_parts.Options, of both
    sides (dropout, dtype, tied).
    """
    hidden = hidden or -(-8 * width // 96) * 32
    target = Options(vocabulary, width, depth, heads, hidden, **options)
    source = Options(source_vocabulary, width, source_depth or depth, heads, hidden, **options)
    return Seq2Seq(source, target)
