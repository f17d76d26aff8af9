"""Whisper: an encoder of log-mel energies, and a decoder of tokens that attends to it.

Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", 2022, arXiv 2212.04356. Taps:
encoder/layerN, memory, decoder/layerN, decoder/norm; the head is the table of tokens, params.<role>.decoder.embed.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.models.hub import find_model
from kd_jax.models.layers import Tap
from kd_jax.models.safetensors_io import read_config
from kd_jax.models.speech.conformer import positions
from kd_jax.models.speech.log_mel import whisper_log_mel
from kd_jax.ranges import Count
from kd_jax.types import Array

HOP = 320  # samples at 16 kHz of a position of the encoder
# Sizes as config.json calls them.
FIELDS = {
    "vocabulary": "vocab_size",
    "width": "d_model",
    "encoder_depth": "encoder_layers",
    "decoder_depth": "decoder_layers",
    "heads": "encoder_attention_heads",
    "decoder_heads": "decoder_attention_heads",
    "hidden": "encoder_ffn_dim",
    "decoder_hidden": "decoder_ffn_dim",
    "bands": "num_mel_bins",
    "source_positions": "max_source_positions",
    "target_positions": "max_target_positions",
}
Pair = tuple[Array, Array]  # keys and values [batch, length, heads, width of a head]


@dataclasses.dataclass(frozen=True)
class Options:
    """The sizes of a Whisper, by side where they differ."""

    vocabulary: int
    width: int
    encoder_depth: int
    decoder_depth: int
    heads: int
    decoder_heads: int
    hidden: int
    decoder_hidden: int
    bands: int = 80
    source_positions: int = 1500
    target_positions: int = 448
    dropout: float = 0.0
    dtype: Any = "float32"


class Convolution(nn.Module):
    """A convolution over time with the kernel [out, in, 3] of PyTorch's Conv1d."""

    features: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=1, out_axis=0)
        kernel = self.param("kernel", init, (self.features, x.shape[-1], 3), jnp.float32).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(self.dtype)
        form = ("NWC", "OIW", "NWC")
        x = jax.lax.conv_general_dilated(x, kernel, (self.stride,), [(1, 1)], dimension_numbers=form)
        return x + bias[None, None]


class Attention(nn.Module):
    """Queries of x, keys and values of x or of another sequence; keys have no bias."""

    width: int
    heads: int
    dtype: Any

    def setup(self) -> None:
        self.query, self.value, self.out = (nn.Dense(self.width, dtype=self.dtype) for _ in range(3))
        self.key = nn.Dense(self.width, use_bias=False, dtype=self.dtype)

    def _split(self, x: Array) -> Array:
        return x.reshape(*x.shape[:2], self.heads, -1)

    def pair(self, x: Array) -> Pair:
        return self._split(self.key(x)), self._split(self.value(x))

    def __call__(self, x: Array, pair: Pair, mask: Array | None) -> Array:
        keys, values = pair
        scores = jnp.einsum("bqhd,bkhd->bhqk", self._split(self.query(x)), keys) * keys.shape[-1] ** -0.5
        scores = scores.astype(jnp.float32)
        scores = scores if mask is None else jnp.where(mask, scores, -1e30)
        shares = jax.nn.softmax(scores).astype(self.dtype)
        return self.out(jnp.einsum("bhqk,bkhd->bqhd", shares, values).reshape(x.shape))


class Layer(nn.Module):
    """Attention, of a decoder attention to the memory, and a feed-forward, each behind a LayerNorm."""

    width: int
    heads: int
    hidden: int
    cross_attends: bool
    dropout: float
    dtype: Any

    def setup(self) -> None:
        norm = lambda: nn.LayerNorm(epsilon=1e-5, dtype=self.dtype)  # noqa: E731
        self.attention, self.attention_norm = Attention(self.width, self.heads, self.dtype), norm()
        if self.cross_attends:
            self.cross, self.cross_norm = Attention(self.width, self.heads, self.dtype), norm()
        self.inner, self.outer = nn.Dense(self.hidden, dtype=self.dtype), nn.Dense(self.width, dtype=self.dtype)
        self.mlp_norm, self.drop = norm(), nn.Dropout(self.dropout)

    def __call__(
        self,
        x: Array,
        mask: Array | None,
        train: bool,
        memory: Pair | None = None,
        past: Pair | None = None,
        at: Any = 0,
    ) -> tuple[Array, Pair]:
        """Returns (x, the keys and values that it attended to): `past` with those of x written from slot `at` on."""
        h = self.attention_norm(x)
        pair = self.attention.pair(h)
        if past is not None:
            write = jax.lax.dynamic_update_slice_in_dim
            pair = write(past[0], pair[0], at, 1), write(past[1], pair[1], at, 1)
        x = x + self.drop(self.attention(h, pair, mask), deterministic=not train)
        if memory is not None:
            x = x + self.drop(self.cross(self.cross_norm(x), memory, None), deterministic=not train)
        h = self.outer(jax.nn.gelu(self.inner(self.mlp_norm(x)), approximate=False))
        return x + self.drop(h, deterministic=not train), pair


class Encoder(nn.Module):
    options: Options

    @nn.compact
    def __call__(self, mel: Array, train: bool) -> Array:
        o, dtype = self.options, jnp.dtype(self.options.dtype)
        x = jax.nn.gelu(Convolution(o.width, 1, dtype, name="conv1")(mel.astype(dtype)), approximate=False)
        x = jax.nn.gelu(Convolution(o.width, 2, dtype, name="conv2")(x), approximate=False)
        if x.shape[1] > o.source_positions:
            raise ValueError(
                f"Whisper: recordings of {x.shape[1]} positions, and it has {o.source_positions}: {HOP} samples each."
            )
        table = nn.Embed(o.source_positions, o.width, embedding_init=_sines, dtype=dtype, name="positions")
        x = x + table(jnp.arange(x.shape[1]))[None]
        for i in range(o.encoder_depth):
            layer = Layer(o.width, o.heads, o.hidden, False, o.dropout, dtype, name=f"layer{i}")
            x = Tap(name=f"layer{i}_out")(layer(x, None, train)[0])
        return nn.LayerNorm(epsilon=1e-5, dtype=dtype, name="norm")(x)


def _sines(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    del key
    return positions(*shape).astype(dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """Keys and values of each layer for `size` tokens, those of the memory, which slots hold a token, how many do."""

    past: tuple[Pair, ...]
    memory: tuple[Pair, ...]
    valid: Array
    index: Array


class Decoder(nn.Module):
    options: Options

    def setup(self) -> None:
        o, dtype = self.options, jnp.dtype(self.options.dtype)
        init = nn.initializers.normal(0.02)
        self.embed = nn.Embed(o.vocabulary, o.width, embedding_init=init, dtype=dtype)
        self.positions = nn.Embed(o.target_positions, o.width, embedding_init=init, dtype=dtype)
        self.layer = [
            Layer(o.width, o.decoder_heads, o.decoder_hidden, True, o.dropout, dtype, name=f"layer{i}")
            for i in range(o.decoder_depth)
        ]
        self.norm = nn.LayerNorm(epsilon=1e-5, dtype=dtype)

    def __call__(self, tokens: Array, memory: Array, train: bool) -> Array:
        length = tokens.shape[1]
        if length > self.options.target_positions:
            raise ValueError(
                f"Whisper: {length} tokens, and positions were learned for {self.options.target_positions}."
            )
        x = self.embed(tokens) + self.positions(jnp.arange(length))[None]
        causal = jnp.tril(jnp.ones((length, length), bool))[None, None]
        for layer in self.layer:
            x, _ = layer(x, causal, train, layer.cross.pair(memory))
        return self.embed.attend(self.norm(x))

    def pairs(self, memory: Array) -> tuple[Pair, ...]:
        return tuple(layer.cross.pair(memory) for layer in self.layer)

    def step(self, tokens: Array, cache: Cache, mask: Array | None, last: bool) -> tuple[Array, Cache]:
        batch, new = tokens.shape
        real = jnp.ones((batch, new), bool) if mask is None else mask
        valid = jax.lax.dynamic_update_slice_in_dim(cache.valid, real, cache.index, 1)
        slots = jnp.arange(valid.shape[1])
        place = jnp.cumsum(valid, 1)  # left padding has no position
        at = cache.index + jnp.arange(new)
        x = self.embed(tokens) + self.positions(jnp.maximum(place[:, at] - 1, 0))
        readable = (valid[:, None] & (slots[None] <= at[:, None])[None])[:, None]
        past = []
        for layer, before, memory in zip(self.layer, cache.past, cache.memory, strict=True):
            x, pair = layer(x, readable, False, memory, before, cache.index)
            past.append(pair)
        x = self.norm(x[:, -1:] if last else x)
        return self.embed.attend(x), Cache(tuple(past), cache.memory, valid, cache.index + new)


class Whisper(nn.Module):
    """Waves [batch, samples] at 16 kHz, or log-mel [batch, frames, bands], and tokens -> logits [batch, length, V].

    Waves are followed by silence up to as long as positions reach, 30 s of a published one; log-mel is read as it is.
    `source_mask` is there for seq2seq machinery; Whisper reads silence as it is.
    """

    options: Options

    def setup(self) -> None:
        self.encoder, self.decoder, self.memory = Encoder(self.options), Decoder(self.options), Tap()

    def __call__(self, source: Array, tokens: Array, source_mask: Array | None = None, train: bool = False) -> Array:
        del source_mask
        return self.decoder(tokens, self.encode(source, train), train)

    def encode(self, source: Array, train: bool = False) -> Array:
        longest, bands = self.options.source_positions * HOP, self.options.bands
        if source.ndim == 2 and source.shape[1] <= longest:  # it learned from recordings of this length alone
            source = jnp.pad(source, ((0, 0), (0, longest - source.shape[1])))
        mel = whisper_log_mel(source, bands=bands) if source.ndim == 2 else source
        return self.memory(self.encoder(mel, train))

    def pairs(self, source: Array) -> tuple[Pair, ...]:
        return self.decoder.pairs(self.encode(source))

    def step(self, *arguments: Any) -> tuple[Array, Cache]:
        return self.decoder.step(*arguments)


def options_of(folder: str) -> Options:
    """Returns the sizes that config.json of a folder says; ValueError for another model, and for what is not read."""
    config = read_config(find_model(folder))
    if config.get("model_type") != "whisper":
        raise ValueError(f"{folder}: the model type is {config.get('model_type')!r}, not 'whisper'.")
    for field, expected in (("activation_function", "gelu"), ("scale_embedding", False)):
        if config.get(field, expected) != expected:
            raise ValueError(f"{folder}: {field} is {config[field]!r} in config.json; {expected!r} is read.")
    if missing := [name for name in FIELDS.values() if name not in config]:
        raise ValueError(f"{folder}: config.json lacks {', '.join(missing)}.")
    return Options(**{ours: config[theirs] for ours, theirs in FIELDS.items()})


def whisper(
    vocabulary: int = 0,
    folder: str = "",
    width: Count[int] = 64,
    encoder_depth: Count[int] = 2,
    decoder_depth: int = 0,
    heads: Count[int] = 4,
    bands: Count[int] = 80,
    source_positions: Count[int] = 1500,
    target_positions: Count[int] = 448,
    dropout: float = 0.0,
    dtype: Any = "float32",
) -> Whisper:
    """Returns a Whisper of these sizes, or of those that config.json of a `folder` says, but for `decoder_depth`.

    A `decoder_depth` of 0 is that of the folder, or `encoder_depth`. ValueError for a folder that is no Whisper's, and
    where `width` is no multiple of `heads`.
    """
    if folder:
        options = options_of(folder)
        return Whisper(dataclasses.replace(options, decoder_depth=decoder_depth or options.decoder_depth, dtype=dtype))
    if width % heads:
        raise ValueError(f"models.speech.whisper: width={width} is no multiple of heads={heads}.")
    sides = dict(heads=heads, decoder_heads=heads, hidden=4 * width, decoder_hidden=4 * width)
    depths = dict(encoder_depth=encoder_depth, decoder_depth=decoder_depth or encoder_depth)
    reach = dict(bands=bands, source_positions=source_positions, target_positions=target_positions)
    return Whisper(Options(vocabulary, width, **depths, **sides, **reach, dropout=dropout, dtype=dtype))
