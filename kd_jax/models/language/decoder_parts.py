"""The layers of a decoder, the options that tell families apart, and its cache of keys and values.

Ainslie et al., "GQA", 2023, arXiv 2305.13245; Zhang & Sennrich, "Root Mean Square Layer Normalization", 2019, arXiv
1910.07467; Shazeer, "GLU Variants", 2020, arXiv 2002.05202.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.models.language import rotary
from kd_jax.models.projected import Projected
from kd_jax.models.remat import POLICIES
from kd_jax.resolve import near
from kd_jax.types import Array, PyTree

HEAD, ADAPTERS = "head", ("lora_a", "lora_b")  # a head that is not tied, and what models/lora.py lays beside it
INIT = nn.initializers.normal(0.02)  # of every matrix, as in GPT-2 and Llama
ALL = 2**30  # a window that reaches every token
ACTIVATIONS = {"silu": nn.silu, "gelu": lambda x: nn.gelu(x, approximate=False), "gelu_tanh": nn.gelu, "relu": nn.relu}


@dataclasses.dataclass(frozen=True)
class Options:
    """What a decoder is made of; `decoder_families` has the combinations that were published."""

    vocabulary: int
    width: int
    depth: int
    heads: int
    hidden: int  # of the MLP
    kv_heads: int = 0  # 0 = heads; fewer share keys and values (GQA)
    head_width: int = 0  # 0 = width / heads
    norm: str = "rms"  # rms | layer
    norm_offset: float = 0.0  # Gemma stores the weight - 1
    epsilon: float = 1e-6
    activation: str = "silu"
    gated: bool = True  # down(activation(gate x) * up x), else down(activation(up x))
    positions: str = "rope"  # rope | learned
    theta: float = 10000.0
    local_theta: float = 0.0  # of layers with a window, whose positions are not scaled; 0 = as the others (Gemma 3)
    unplaced: tuple[int, ...] = ()  # layers without positions (SmolLM3)
    rope_scaling: tuple[tuple[str, Any], ...] | Mapping[str, Any] = ()  # of a Hugging Face config: rotary.NEEDED
    rotary_share: float = 1.0  # of each head's width, from its start, that positions turn (Phi-4-mini)
    max_length: int = 0  # of learned positions
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False  # of every head's queries and keys, before the positions
    qk_norm_whole: bool = False  # of all heads together (OLMo 2)
    pre_norms: bool = True  # of what attention and MLP read
    post_norms: bool = False
    scale_embedding: bool = False  # by sqrt(width)
    embedding_multiplier: float = 1.0  # this and the next two: Granite
    residual_multiplier: float = 1.0  # of what a layer adds
    logits_scaling: float = 1.0  # what logits are divided by
    attention_scale: float = 0.0  # 0 = 1 / sqrt(head width)
    attention_softcap: float = 0.0  # 0 = none; c tanh(x / c)
    logit_softcap: float = 0.0
    sinks: bool = False  # a learned score of every head that no key has, among those of its keys (gpt-oss)
    windows: tuple[int, ...] = ()  # how many tokens back layer i % len(windows) sees, itself included; 0 = all
    experts: int = 0  # of a sparse MLP (decoder_experts.py); 0 = one plain MLP
    experts_used: int = 0  # by a token
    expert_hidden: int = 0  # 0 = hidden
    shares_normed: bool = True  # those of a token's experts sum to 1
    expert_bias: bool = False  # of experts and router (gpt-oss)
    expert_limit: float = 0.0  # of what gates multiply, which are sigmoid(expert_slope x) x then; 0 = none (gpt-oss)
    expert_slope: float = 0.0
    dense_layers: tuple[int, ...] = ()  # with a plain MLP among sparse ones (Qwen3-MoE)
    tied: bool = True
    dropout: float = 0.0  # of the embeddings and of what a layer adds
    scan: bool = False  # one compiled layer, run `depth` times: quick to compile
    remat: str = ""  # what the backward pass keeps of a layer: one of remat.POLICIES, "" = everything
    dtype: Any = "float32"  # of the computation; parameters are float32, and so are norms, softmax and logits
    chunk: int = 0  # tokens whose logits exist at a time in losses and scores; 0 = `tokens_at_once`

    def __post_init__(self) -> None:
        def fail(text: str) -> None:
            raise ValueError(f"decoder: {text}")

        object.__setattr__(self, "dtype", jnp.dtype(self.dtype))
        object.__setattr__(self, "kv_heads", self.kv_heads or self.heads)
        scaling = {k: tuple(v) if isinstance(v, list) else v for k, v in dict(self.rope_scaling).items()}
        object.__setattr__(self, "rope_scaling", tuple(sorted(scaling.items())))
        object.__setattr__(self, "windows", tuple(self.windows))
        object.__setattr__(self, "unplaced", tuple(self.unplaced))
        object.__setattr__(self, "dense_layers", tuple(self.dense_layers))
        object.__setattr__(self, "expert_hidden", self.expert_hidden or (self.hidden if self.experts else 0))
        if not self.head_width and self.width % self.heads:
            fail(f"width={self.width} is no multiple of heads={self.heads}; give head_width")
        object.__setattr__(self, "head_width", self.head_width or self.width // self.heads)
        if self.heads % self.kv_heads:
            fail(f"heads={self.heads} is no multiple of kv_heads={self.kv_heads}")
        choices = {"norm": ("rms", "layer"), "positions": ("rope", "learned"), "activation": ACTIVATIONS}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                fail(f"{name}={getattr(self, name)!r}. {near(getattr(self, name), allowed)}")
        _check_positions(self, fail)
        _check_experts(self, fail)
        if self.remat and self.remat not in POLICIES:
            fail(f"remat={self.remat!r}. {near(self.remat, POLICIES)}")

    @property
    def rotary_width(self) -> int:
        """Numbers of each head that positions turn."""
        return int(self.head_width * self.rotary_share)


def _check_positions(o: Options, fail: Callable[[str], None]) -> None:
    if o.positions == "learned":
        if not o.max_length:
            fail("learned positions need max_length")
        return
    if o.rotary_width % 2 or not 0 < o.rotary_width <= o.head_width:
        part = f" of which rotary_share={o.rotary_share} are turned" if o.rotary_share != 1 else ""
        fail(f"rotary positions need an even head_width, not {o.head_width}{part}")
    rotary.check(dict(o.rope_scaling), o.rotary_width)


def _check_experts(o: Options, fail: Callable[[str], None]) -> None:
    if not o.experts:
        return
    if not 0 < o.experts_used <= o.experts:
        fail(f"experts_used={o.experts_used}: a token has from 1 to experts={o.experts} of them")
    if o.mlp_bias or not o.gated:
        fail("experts have gates, and biases by expert_bias, not mlp_bias")
    if o.scan and o.dense_layers:
        fail(f"scan=True runs layers that are alike, and dense_layers={o.dense_layers} are not as the others")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """What a decoder remembers: {"keys", "values"} [batch, size, kv_heads, head width] by layer, with `scan` stacked in
    front; which slots hold a token [batch, size]; and the slot of the next one, () or [batch]."""

    layers: PyTree
    valid: Array
    index: Array


class Norm(nn.Module):
    options: Options

    @nn.compact
    def __call__(self, x: Array) -> Array:
        o = self.options
        y = x.astype(jnp.float32)
        first = nn.initializers.constant(1.0 - o.norm_offset)
        scale = self.param("scale", first, (x.shape[-1],)).astype(jnp.float32) + o.norm_offset
        if o.norm == "layer":
            y = y - y.mean(-1, keepdims=True)
        y = scaled(y, scale, o.epsilon)
        if o.norm == "layer":
            y = y + self.param("bias", nn.initializers.zeros, (x.shape[-1],)).reshape((1,) * (x.ndim - 1) + (-1,))
        return y.astype(o.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def scaled(x: Array, scale: Array, epsilon: float) -> Array:
    """Computes x / sqrt(mean x^2 + epsilon) * scale over the last axis, and keeps x alone for the backward pass."""
    return _scaled(x, scale, epsilon)


def _scaled(x: Array, scale: Array, epsilon: float) -> Array:
    x = x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + epsilon)
    return x * scale.reshape((1,) * (x.ndim - 1) + (-1,))


def _scaled_backward(epsilon: float, residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    x, scale = residuals
    return jax.vjp(lambda x, scale: _scaled(x, scale, epsilon), x + 0 * cotangent, scale)[1](cotangent)  # see gated


scaled.defvjp(lambda x, scale, epsilon: (_scaled(x, scale, epsilon), (x, scale)), _scaled_backward)


class Matrix(nn.Module):
    """One vector for each of `count` numbers."""

    count: int
    width: int

    def setup(self) -> None:
        self.embedding = self.param("embedding", INIT, (self.count, self.width))

    def __call__(self, numbers: Array) -> Array:
        return jnp.take(self.embedding, numbers, axis=0)

    def projected(self, x: Array, softcap: float, chunk: int) -> Projected:
        """Returns the logits softcap(x @ embedding.T) as a product, adapters of models/lora.py a second one."""
        a, b = (self.get_variable("params", name) for name in ADAPTERS)
        if a is None or b is None:
            return Projected((x,), (self.embedding,), None, None, (True,), softcap, chunk)
        low = x @ a.astype(x.dtype)
        return Projected((x, low), (self.embedding, b), None, None, (True, False), softcap, chunk)


class Mlp(nn.Module):
    options: Options

    @nn.compact
    def __call__(self, x: Array) -> Array:
        o = self.options
        up = dense(o, o.hidden, o.mlp_bias, "up")(x)
        if o.gated:
            hidden = gated(ACTIVATIONS[o.activation], dense(o, o.hidden, o.mlp_bias, "gate")(x), up)
        else:
            hidden = ACTIVATIONS[o.activation](up)
        return dense(o, o.width, o.mlp_bias, "down")(hidden)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def gated(activation: Callable[[Array], Array], gate: Array, up: Array) -> Array:
    """Computes activation(gate) * up, and keeps gate and up alone for the backward pass."""
    return activation(gate) * up


def _gated_backward(activation: Callable[[Array], Array], residuals: tuple[Array, Array], cotangent: Array) -> tuple:
    # The zeros keep XLA's CPU compiler from sharing the activation with the forward pass, which would hold it till now;
    # it removes an optimization barrier too early.
    gate, up = (x + 0 * cotangent for x in residuals)
    return jax.vjp(lambda gate, up: activation(gate) * up, gate, up)[1](cotangent)


gated.defvjp(lambda activation, gate, up: (activation(gate) * up, (gate, up)), _gated_backward)


class Dense(nn.Module):
    """Computes x @ kernel + bias in `dtype`; the parameters stay float32."""

    features: int
    bias: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = x.astype(self.dtype)
        y = x @ self.param("kernel", INIT, (x.shape[-1], self.features)).astype(self.dtype)
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
            y = y + bias.reshape((1,) * (y.ndim - 1) + (-1,))
        return y


def dense(o: Options, features: int, bias: bool, name: str | None = None) -> Dense:
    return Dense(features, bias, o.dtype, name=name)


def segment_positions(segments: Array) -> Array:
    """Returns positions that start at 0 where the segment changes: [batch, length] -> [batch, length]."""
    slots = jnp.arange(segments.shape[1])[None]
    starts = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    return slots - jax.lax.cummax(jnp.where(starts, slots, 0), axis=1)


def angles_of(o: Options, positions: Array, length: int, local: bool = False) -> tuple[Array, Array]:
    """Returns (cos, sin) of rotary positions, as rotary.angles; `length`: a row's room, `local`: by local_theta."""
    theta = o.local_theta if local else o.theta
    return rotary.angles(positions, o.rotary_width, theta, {} if local else dict(o.rope_scaling), length)


def write(whole: Array, new: Array, slot: Array) -> Array:
    """Returns `whole` [batch, size, ...] with `new` [batch, length, ...] from `slot` on, () or [batch]: one a row."""
    new = new.astype(whole.dtype)
    if slot.ndim == 0:
        return jax.lax.dynamic_update_slice_in_dim(whole, new, slot, axis=1)
    return jax.vmap(lambda w, n, s: jax.lax.dynamic_update_slice_in_dim(w, n, s, axis=0))(whole, new, slot)
