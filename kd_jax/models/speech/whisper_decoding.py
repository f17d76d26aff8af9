"""How a Whisper writes: token by token with a cache, greedily for its user, by beams for a student."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from kd_jax.models.language.generation import Decoding, generate
from kd_jax.models.speech.whisper import Cache, Whisper
from kd_jax.ranges import Count
from kd_jax.types import Array, PyTree


def decoding(module: Whisper) -> Decoding:
    """Returns the functions with which generation.py and beam_search.py run a Whisper: its cache begins with `read`."""
    o = module.options

    def start(params: PyTree, batch: int, size: int) -> Cache:
        raise ValueError("Whisper generates from a recording: give cache=decoding.read(params, source, None, size)")

    def read(params: PyTree, source: Array, source_mask: Array | None, size: int) -> Cache:
        if size > o.target_positions:
            raise ValueError(f"Whisper: {size} tokens, and positions were learned for {o.target_positions}.")
        memory: Any = module.apply({"params": params}, source, method="pairs")
        empty = jnp.zeros((len(source), size, o.decoder_heads, o.width // o.decoder_heads), o.dtype)
        past = tuple((empty, empty) for _ in range(o.decoder_depth))
        return Cache(past, memory, jnp.zeros((len(source), size), bool), jnp.int32(0))

    def step(
        params: PyTree, tokens: Array, cache: Cache, mask: Array | None = None, last: bool = False
    ) -> tuple[Array, Cache]:
        return module.apply({"params": params}, tokens, cache, mask, last, method="step")  # pyrefly: ignore

    def take(cache: Cache, rows: Array) -> Cache:
        past, memory, valid = jax.tree.map(lambda x: x[rows], (cache.past, cache.memory, cache.valid))
        return Cache(past, memory, valid, cache.index)

    def rewind(cache: Cache, index: Array) -> Cache:
        raise ValueError("Whisper goes on from all rows at once: no speculative decoding.")

    return Decoding(start, step, take, rewind, read)


def transcribe(
    module: Whisper, params: PyTree, waves: Array, prompt: Sequence[int], end: int, length: Count[int] = 64
) -> Array:
    """Returns the greedy transcripts int32 [batch, length], padded with `end`, of waves [batch, samples] at 16 kHz.

    `prompt` are the tokens that begin a text. ValueError where it and `length` are more than the network's positions.
    """
    run, size = decoding(module), len(prompt) + length
    begun = jnp.tile(jnp.asarray(prompt, jnp.int32)[None], (len(waves), 1))
    assert run.read is not None  # it is an encoder-decoder
    cache = run.read(params, jnp.asarray(waves), None, size)
    options = dict(length=length, temperature=0.0, end=end, pad=end, cache=cache)
    return generate(run, params, begun, None, jax.random.key(0), **options).tokens
