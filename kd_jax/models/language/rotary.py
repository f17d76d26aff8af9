"""Rotary positions: the frequencies of every published form, and how queries and keys are turned by them.

Su et al., "RoFormer", 2021, arXiv 2104.09864. For texts longer than those of the training:
linear    all frequencies divided: Chen et al., "Extending Context Window of Large Language Models via Positional
          Interpolation", 2023, arXiv 2306.15595
dynamic   a larger base, the longer the text ("NTK-aware", which the YaRN paper describes)
yarn      long waves divided, short ones kept: Peng et al., "YaRN", 2023, arXiv 2309.00071
longrope  a divisor of each frequency, of one list or of another for long texts: Ding et al., "LongRoPE", 2024, arXiv
          2402.13753
llama3    long waves divided, between two lengths: Llama Team, "The Llama 3 Herd of Models", 2024, arXiv 2407.21783

Deviation: "dynamic" and "longrope" depend on how long a text is, and `length` is the room that a row has: its tokens,
or the slots of the cache while a text is written. `transformers` looks at the largest position of the batch so far, so
that a text's numbers depend on its neighbours, and change while it is written, for texts that cross the limit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from kd_jax.resolve import near
from kd_jax.types import Array

# What each form needs beside its name; the lengths are those that config.json of Hugging Face tells.
TRAINED, REACH = "original_max_position_embeddings", "max_position_embeddings"
NEEDED: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor", REACH),
    "yarn": ("factor", TRAINED),
    "longrope": ("factor", TRAINED, "long_factor", "short_factor"),
    "llama3": ("factor", TRAINED, "low_freq_factor", "high_freq_factor"),
}
FAST, SLOW = 32.0, 1.0  # turns within the trained length: YaRN keeps what turns more often, divides what turns less


def check(scaling: Mapping[str, Any], width: int) -> None:
    """Raises ValueError for an unknown form, one that lacks a number, or divisors of another count of frequencies."""
    kind = kind_of(scaling)
    if kind not in NEEDED:
        raise ValueError(f"positions scaled by {kind!r} are not supported. {near(kind, NEEDED)}")
    if missing := [name for name in NEEDED[kind] if scaling.get(name) is None]:
        raise ValueError(f"positions scaled by {kind!r} need {', '.join(missing)}")
    for name in ("long_factor", "short_factor") if kind == "longrope" else ():
        if len(scaling[name]) != width // 2:
            raise ValueError(f"{name} has {len(scaling[name])} divisors, and {width // 2} frequencies are turned by")


def kind_of(scaling: Mapping[str, Any]) -> str:
    """Returns the name of the form of `rope_scaling`."""
    return scaling.get("rope_type", scaling.get("type", "default"))


def angles(positions: Array, width: int, theta: float, scaling: Mapping[str, Any], length: int) -> tuple[Array, Array]:
    """Returns (cos, sin) float32 [1 or batch, tokens, 1, width / 2] for positions int [1 or batch, tokens].

    `width` is what is turned of a head, `length` the room that a row has. YaRN and LongRoPE make both larger, so that
    scores are.
    """
    turned = positions[..., None, None].astype(jnp.float32) * frequencies(width, theta, scaling, length)
    larger = attention_factor(scaling)
    cos, sin = jnp.cos(turned) * larger, jnp.sin(turned) * larger
    if jax.default_backend() != "cpu" or positions.shape[1] == 1:  # a token by itself has few
        return cos, sin
    return _computed_once(cos), _computed_once(sin)


def _computed_once(x: Array) -> Array:
    """Returns x as the product with the identity, which is exact in float32: XLA's CPU compiler takes that once.

    Cosines by themselves it would take again wherever they are read: in each head, row and layer.
    """
    return x @ jnp.eye(x.shape[-1], dtype=x.dtype)


def frequencies(width: int, theta: float, scaling: Mapping[str, Any], length: int) -> Array:
    """Returns the angle by which each pair of numbers is turned from a token to the next, float32 [1, 1, 1, width / 2].

    ValueError as `check` raises it.
    """
    check(scaling, width)
    kind, factor = kind_of(scaling), scaling.get("factor", 1.0)
    if kind == "dynamic":
        stretch = factor * max(length, scaling[REACH]) / scaling[REACH] - (factor - 1)
        theta = theta * stretch ** (width / (width - 2))
    plain = 1 / theta ** (jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    if kind == "linear":
        plain = plain / factor
    elif kind == "yarn":
        unscaled = _unscaled_by_yarn(width, theta, scaling)
        plain = plain * unscaled + plain / factor * (1 - unscaled)
    elif kind == "longrope":
        divisors = scaling["long_factor" if length > scaling[TRAINED] else "short_factor"]
        plain = plain / jnp.asarray(divisors, jnp.float32)
    elif kind == "llama3":
        turns = scaling[TRAINED] * plain / (2 * math.pi)
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        unscaled = jnp.clip((turns - low) / (high - low), 0, 1)
        plain = plain * (unscaled + (1 - unscaled) / factor)
    return plain[None, None, None]


def _unscaled_by_yarn(width: int, theta: float, scaling: Mapping[str, Any]) -> Array:
    """The share of each frequency that stays as it is: 1 for short waves, 0 for long ones, a ramp in between."""

    def pair_that_turns(times: float) -> float:
        return width * math.log(scaling[TRAINED] / (times * 2 * math.pi)) / (2 * math.log(theta))

    first = pair_that_turns(scaling.get("beta_fast") or FAST)
    last = pair_that_turns(scaling.get("beta_slow") or SLOW)
    if scaling.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    last += 0.001 if first == last else 0.0
    return 1 - jnp.clip((jnp.arange(width // 2, dtype=jnp.float32) - first) / (last - first), 0, 1)


def attention_factor(scaling: Mapping[str, Any]) -> float:
    """Returns by what queries and keys are multiplied, each of them, where they are turned: 1 but for two forms."""
    kind, factor = kind_of(scaling), scaling.get("factor") or 1.0
    if kind not in ("yarn", "longrope"):
        return 1.0
    if scaling.get("attention_factor") is not None:
        return scaling["attention_factor"]
    if factor <= 1:
        return 1.0
    if kind == "longrope":
        return math.sqrt(1 + math.log(factor) / math.log(scaling[TRAINED]))
    over, under = scaling.get("mscale"), scaling.get("mscale_all_dim")
    if over and under:
        return (0.1 * over * math.log(factor) + 1) / (0.1 * under * math.log(factor) + 1)
    return 0.1 * math.log(factor) + 1


def rotated(x: Array, turned: tuple[Array, Array] | None) -> Array:
    """Turns each pair (x_i, x_{i + half}) of the first numbers of a head by its angle, and leaves further ones.

    That is the order of Hugging Face, not of Llama's release. x is [batch, tokens, heads, head width].
    """
    if turned is None:
        return x
    cos, sin = turned
    half = cos.shape[-1]
    first, second = (x[..., i * half : (i + 1) * half].astype(jnp.float32) for i in range(2))
    parts = [(first * cos - second * sin).astype(x.dtype), (second * cos + first * sin).astype(x.dtype)]
    return jnp.concatenate([*parts, *([x[..., 2 * half :]] if x.shape[-1] > 2 * half else [])], -1)
