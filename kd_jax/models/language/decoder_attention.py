"""The attention of a decoder's layers, of Ainslie et al., "GQA", 2023, arXiv 2305.13245, where heads share keys."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.models.language.attention_kernels import fused_on_gpu, fused_on_tpu, with_cudnn, with_splash
from kd_jax.models.language.blocked_attention import BLOCK, Seen, attend
from kd_jax.models.language.decoder_logits import softcapped
from kd_jax.models.language.decoder_parts import INIT, Norm, Options, dense, write
from kd_jax.models.language.rotary import rotated
from kd_jax.models.layers import Tap
from kd_jax.types import Array


class Attention(nn.Module):
    """Attention to the keys that are `visible`, of the sequence itself or of another (`to_memory`).

    Up to BLOCK queries have a plain softmax; more are attended in blocks (blocked_attention.py), or by a kernel of the
    accelerator (attention_kernels.py), and their scores and probabilities are computed for who reads the taps alone.
    """

    options: Options

    def setup(self) -> None:
        o = self.options
        self.query = dense(o, o.heads * o.head_width, o.qkv_bias)
        self.key, self.value = (dense(o, o.kv_heads * o.head_width, o.qkv_bias) for _ in range(2))
        self.out = dense(o, o.width, o.out_bias)
        if o.qk_norm:
            self.query_norm, self.key_norm = Norm(o), Norm(o)
        self.sinks = self.param("sinks", INIT, (o.heads,)) if o.sinks else None
        self.queries, self.keys, self.values, self.scores, self.probabilities = (Tap() for _ in range(5))

    def __call__(
        self, x: Array, visible: Seen, window: Any = None, angles: Any = None, slot: Array | None = None
    ) -> Array:
        """Maps x [batch, length, width]; `window` tokens back are seen, positions' angles, slot of the cache."""
        queries = rotated(self._normed(self.query(x), "query_norm"), angles)
        keys, values = self.project(x, angles)
        if slot is not None:
            keys, values = (self._remember(n, v, slot) for n, v in (("keys", keys), ("values", values)))
        return self.attend(queries, keys, values, visible, window)

    def project(self, x: Array, angles: Any = None) -> tuple[Array, Array]:
        """Returns keys and values [batch, length, kv_heads, head width]."""
        keys, values = self._normed(self.key(x), "key_norm"), self._heads(self.value(x))
        return rotated(keys, angles), values

    def _normed(self, x: Array, name: str) -> Array:
        """Queries or keys by head, normed a head or all together where the options say so."""
        if not self.options.qk_norm:
            return self._heads(x)
        norm = getattr(self, name)
        return self._heads(norm(x)) if self.options.qk_norm_whole else norm(self._heads(x))

    def to_memory(self, x: Array, memory: Array | None, mask: Array | None, slot: Array | None) -> Array:
        """Attends to another sequence [batch, source length, width] where `mask` is True.

        Where `memory` is None, to the sequence that the cache was made of.
        """
        if memory is None:
            keys, values = (self.get_variable("cache", name) for name in ("keys", "values"))
        else:
            keys, values = self.project(memory)
            if slot is not None:
                self.put_variable("cache", "keys", keys)
                self.put_variable("cache", "values", values)
        queries = self._normed(self.query(x), "query_norm")
        return self.attend(queries, keys, values, Seen(jnp.arange(queries.shape[1])[None], mask, causal=False))

    def attend(self, queries: Array, keys: Array, values: Array, visible: Seen, window: Any = None) -> Array:
        o, (batch, length, *_) = self.options, queries.shape
        queries, keys, values = (
            tap(v.swapaxes(1, 2)) for tap, v in ((self.queries, queries), (self.keys, keys), (self.values, values))
        )
        scale = o.attention_scale or 1 / math.sqrt(o.head_width)
        if length <= BLOCK:
            probabilities = self._probabilities(queries, keys, visible, window, scale).astype(o.dtype)
            grouped = probabilities.reshape(batch, o.kv_heads, -1, keys.shape[2])
            x = jnp.einsum("bkqs,bksd->bkqd", grouped, values)
            x = x.reshape(batch, o.heads, length, o.head_width).swapaxes(1, 2)
        else:
            if self.is_mutable_collection("intermediates"):  # for those who read the taps; the compiler drops the rest
                self._probabilities(queries, keys, visible, window, scale)
            if fused_on_gpu(o, visible, window):
                x = with_cudnn(queries, keys, values, window, scale)
            elif fused_on_tpu(o, visible, window):
                segments = visible.segments and visible.segments[0]
                x = with_splash(queries, keys, values, segments, window, scale, o.attention_softcap)
            else:
                x = attend(queries, keys, values, visible, window, scale, o.attention_softcap, self.sinks)
        return self.out(x.reshape(batch, length, o.heads * o.head_width))

    def _probabilities(self, queries: Array, keys: Array, visible: Seen, window: Any, scale: float) -> Array:
        """The probabilities [batch, heads, length, keys] in float32, with the taps."""
        o, (batch, _, length, _), size = self.options, queries.shape, keys.shape[2]
        grouped = queries.reshape(batch, o.kv_heads, -1, o.head_width)  # of all heads that share keys, one matrix
        scores = jnp.einsum("bkqd,bksd->bkqs", grouped, keys, preferred_element_type=jnp.float32) * scale
        scores = self.scores(softcapped(scores, o.attention_softcap).reshape(batch, o.heads, length, size))
        # Not -inf: a row of padding sees nothing, and its softmax must be finite.
        mask = visible.mask(jnp.arange(size), window)
        scores = jnp.where(mask[:, None], scores, jnp.finfo(jnp.float32).min)
        return self.probabilities(jax.nn.softmax(scores) if self.sinks is None else softmax_beside(scores, self.sinks))

    def _heads(self, x: Array) -> Array:
        return x.reshape(*x.shape[:2], -1, self.options.head_width)

    def _remember(self, name: str, new: Array, slot: Array) -> Array:
        whole = write(self.get_variable("cache", name), new, slot)
        self.put_variable("cache", name, whole)
        return whole


def softmax_beside(scores: Array, sinks: Array) -> Array:
    """Computes the softmax of scores [batch, heads, length, keys] and one more a head, whose share is left out.

    Xiao et al., "Efficient Streaming Language Models with Attention Sinks", 2023, arXiv 2309.17453; OpenAI, "gpt-oss",
    2025, arXiv 2508.10925.
    """
    beside = jnp.broadcast_to(sinks.astype(scores.dtype)[None, :, None, None], (*scores.shape[:-1], 1))
    return jax.nn.softmax(jnp.concatenate([scores, beside], -1))[..., :-1]
