"""The MLP of a sparse decoder: a router gives each token to some of many experts, whose answers are weighed and summed.

Shazeer et al., "Outrageously Large Neural Networks", 2017, arXiv 1701.06538; Jiang et al., "Mixtral of Experts", 2024,
arXiv 2401.04088; Yang et al., "Qwen3", 2025, arXiv 2505.09388; OpenAI, "gpt-oss", 2025, arXiv 2508.10925. No expert
drops a token (there is no capacity). Left out: the auxiliary loss that balances the experts' loads, which trains a
router from nothing; the tap "router" has the logits [batch, length, experts] for who wants one.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.models.language.decoder_parts import ACTIVATIONS, INIT, Options, dense
from kd_jax.models.mesh_axes import MODEL_AXIS
from kd_jax.types import Array


class Weights(NamedTuple):
    """Gate and up [experts, width, hidden], down [experts, hidden, width], and their biases, where they have some."""

    gate: Array
    up: Array
    down: Array
    gate_bias: Array | None = None  # [experts, hidden], as up_bias
    up_bias: Array | None = None
    down_bias: Array | None = None  # [experts, width]


class Act(NamedTuple):
    """What becomes of a gate x and what it multiplies: activation(x) up, or with a `limit` the form of gpt-oss.

    That is sigmoid(slope x) x (up + 1), x at most the limit and up within it on both sides.
    """

    activation: str
    limit: float = 0.0
    slope: float = 0.0

    def __call__(self, gate: Array, up: Array) -> Array:
        if not self.limit:
            return ACTIVATIONS[self.activation](gate) * up
        gate, up = jnp.minimum(gate, self.limit), jnp.clip(up, -self.limit, self.limit)
        return gate * jax.nn.sigmoid(self.slope * gate) * (up + 1)


class Experts(nn.Module):
    """x [batch, length, width] -> the same: the sum over a token's experts e of share_e down_e(act(gate_e x) * up_e x).

    Shares are the largest `experts_used` probabilities of the router, divided by their sum where `shares_normed`.
    Tokens are sorted by expert, so that each expert computes those that it has (jax.lax.ragged_dot). On a mesh whose
    axis "model" cuts the experts, every device computes all tokens by the experts that it holds, and the answers are
    summed: weights stay where they are, at the price of experts / experts_used times the products.
    """

    options: Options

    @nn.compact
    def __call__(self, x: Array) -> Array:
        o = self.options
        probabilities = jax.nn.softmax(dense(o, o.experts, o.expert_bias, "router")(x).astype(jnp.float32))
        shares, chosen = jax.lax.top_k(probabilities, o.experts_used)
        if o.shares_normed:
            shares = shares / shares.sum(-1, keepdims=True)
        weights = ExpertWeights(o, name="experts")()
        mesh = jax.sharding.get_abstract_mesh()
        compute = by_all if mesh.shape.get(MODEL_AXIS, 1) > 1 else by_their_own
        tokens = x.astype(o.dtype).reshape(-1, o.width)
        chosen, shares = (value.reshape(-1, o.experts_used) for value in (chosen, shares.astype(o.dtype)))
        act = Act(o.activation, o.expert_limit, o.expert_slope)
        return compute(act, tokens, chosen, shares, weights).reshape(x.shape)


class ExpertWeights(nn.Module):
    """The weights of all experts, in `dtype`."""

    options: Options

    @nn.compact
    def __call__(self) -> Weights:
        o = self.options
        into, out = (o.experts, o.width, o.expert_hidden), (o.experts, o.expert_hidden, o.width)
        shapes = {"gate": into, "up": into, "down": out}
        made = {name: self.param(name, INIT, shape).astype(o.dtype) for name, shape in shapes.items()}
        for name, (experts, _, size) in shapes.items() if o.expert_bias else ():
            made[f"{name}_bias"] = self.param(f"{name}_bias", nn.initializers.zeros, (experts, size)).astype(o.dtype)
        return Weights(**made)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def by_their_own(act: Act, x: Array, chosen: Array, shares: Array, weights: Weights) -> Array:
    """Computes each token [tokens, width] by the experts that it chose; chosen, shares [tokens, experts_used].

    Many runs in one program (vmap) compute it one after the other: `ragged_dot` has no rule for them yet (jax 0.10).
    """
    return jax.custom_batching.sequential_vmap(functools.partial(_by_their_own, act))(x, chosen, shares, weights)


def _by_their_own(act: Act, x: Array, chosen: Array, shares: Array, weights: Weights) -> Array:
    expert = chosen.reshape(-1)
    order = jnp.argsort(expert)
    tokens = order // chosen.shape[-1]
    counts = jnp.bincount(expert, length=len(weights.gate)).astype(jnp.int32)

    def product(x: Array, kernel: Array, bias: Array | None) -> Array:
        y = jax.lax.ragged_dot(x, kernel, counts)
        return y if bias is None else y + bias[expert[order]]

    routed = x[tokens]
    gate, up = product(routed, weights.gate, weights.gate_bias), product(routed, weights.up, weights.up_bias)
    y = product(act(gate, up), weights.down, weights.down_bias) * shares.reshape(-1)[order][:, None]
    return jnp.zeros_like(x).at[tokens].add(y)


def _forward(act: Act, x: Array, chosen: Array, shares: Array, weights: Weights) -> tuple[Array, tuple]:
    return by_their_own(act, x, chosen, shares, weights), (x, chosen, shares, weights)


def _backward(act: Act, residuals: tuple, cotangent: Array) -> tuple:
    def one(x: Array, chosen: Array, shares: Array, weights: Weights, cotangent: Array) -> tuple:
        _, pull = jax.vjp(lambda x, shares, weights: _by_their_own(act, x, chosen, shares, weights), x, shares, weights)
        return pull(cotangent)

    x, shares, weights = jax.custom_batching.sequential_vmap(one)(*residuals, cotangent)
    return x, None, shares, weights


by_their_own.defvjp(_forward, _backward)


def by_all(act: Act, x: Array, chosen: Array, shares: Array, weights: Weights) -> Array:
    """Computes what `by_their_own` does with every expert on every token, shares of the others being 0."""
    share = jnp.zeros((len(x), len(weights.gate)), x.dtype).at[jnp.arange(len(x))[:, None], chosen].add(shares)

    def product(kernel: Array, bias: Array | None) -> Array:
        y = jnp.einsum("td,edh->teh", x, kernel)
        return y if bias is None else y + bias[None]

    hidden = act(product(weights.gate, weights.gate_bias), product(weights.up, weights.up_bias))
    y = jnp.einsum("teh,ehd,te->td", hidden, weights.down, share)
    return y if weights.down_bias is None else y + share @ weights.down_bias
