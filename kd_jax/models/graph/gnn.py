"""Networks on a whole graph that answer for the nodes of a batch: `inputs=("extra.graph", "batch.node")`.

The graph is what kd_jax.data.graphs makes: features [n, d], senders, receivers [e] sorted by receiver with a loop at
every node, weights [e]. A layer maps all n nodes; logits are those of `node` int [batch].
Taps: layerN [n, width] (after the activation), embedding [batch, width] (the last layerN, of the batch),
head [n, classes].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.models.layers import Tap
from kd_jax.ranges import BelowOne
from kd_jax.types import Array

Graph = Mapping[str, Array]
glorot = nn.initializers.glorot_uniform()


def collect(graph: Graph, messages: Array) -> Array:
    """Adds up the messages over the edges into each node: [edges, ...] -> [n, ...]."""
    n = graph["features"].shape[0]
    return jax.ops.segment_sum(messages, graph["receivers"], n, indices_are_sorted=True)


class GCNLayer(nn.Module):
    """sum_j S_ij (x_j W) + b, S the normalised adjacency with loops. Kipf, Welling 2017, arXiv 1609.02907."""

    features: int
    last: bool = False

    @nn.compact
    def __call__(self, x: Array, graph: Graph) -> Array:
        x = nn.Dense(self.features, use_bias=False, kernel_init=glorot, name="kernel")(x)
        x = collect(graph, graph["weights"][:, None] * x[graph["senders"]])
        return x + jnp.expand_dims(self.param("bias", nn.initializers.zeros, (self.features,)), 0)


class SAGELayer(nn.Module):
    """x_i W + mean_j x_j V + b. Hamilton, Ying, Leskovec, "Inductive Representation Learning on Large Graphs", 2017,
    arXiv 1706.02216, mean aggregator; here the mean counts the node itself, and the result is not normalised."""

    features: int
    last: bool = False

    @nn.compact
    def __call__(self, x: Array, graph: Graph) -> Array:
        itself = nn.Dense(self.features, kernel_init=glorot, name="own")(x)
        x = nn.Dense(self.features, use_bias=False, kernel_init=glorot, name="neighbours")(x)
        degree = collect(graph, jnp.ones_like(graph["weights"]))
        return itself + collect(graph, x[graph["senders"]]) / degree[:, None]


class GATLayer(nn.Module):
    """sum_j a_ij (x_j W), a_i = softmax over j of LeakyReLU(u.(x_i W) + v.(x_j W)), for each head.

    Heads of width features / heads side by side; the last layer has one head. Velickovic et al., "Graph Attention
    Networks", 2018, arXiv 1710.10903; no dropout on the coefficients.
    """

    features: int
    last: bool = False
    heads: int = 4

    @nn.compact
    def __call__(self, x: Array, graph: Graph) -> Array:
        heads = 1 if self.last else self.heads
        if self.features % heads:
            raise ValueError(f"gat: width {self.features} is not divisible by {heads} heads")
        shape = (heads, self.features // heads)
        x = nn.Dense(self.features, use_bias=False, kernel_init=glorot, name="kernel")(x).reshape(-1, *shape)
        to, of = ((x * jnp.expand_dims(self.param(name, glorot, shape), 0)).sum(-1) for name in ("receiver", "sender"))
        senders, receivers = graph["senders"], graph["receivers"]
        score = nn.leaky_relu(to[receivers] + of[senders], 0.2)
        # A maximum over segments has no derivative in JAX, and softmax does not need one.
        peak = jax.ops.segment_max(jax.lax.stop_gradient(score), receivers, x.shape[0], indices_are_sorted=True)
        part = jnp.exp(score - peak[receivers])
        share = part / collect(graph, part)[receivers]
        x = collect(graph, share[..., None] * x[senders]).reshape(-1, self.features)
        return x + jnp.expand_dims(self.param("bias", nn.initializers.zeros, (self.features,)), 0)


class GNN(nn.Module):
    num_classes: int
    widths: tuple[int, ...]
    layer: Callable[..., nn.Module]
    activation: Callable[[Array], Array]
    dropout: float = 0.0

    @nn.compact
    def __call__(self, graph: Graph, node: Array, train: bool) -> Array:
        x = graph["features"]
        drop = nn.Dropout(self.dropout, deterministic=not train)
        for i, width in enumerate(self.widths):
            x = self.layer(width, name=f"convolution{i + 1}")(drop(x), graph)
            x = Tap(name=f"layer{i + 1}")(self.activation(x))
        Tap(name="embedding")(x[node])
        return self.layer(self.num_classes, last=True, name="head")(drop(x), graph)[node]


def gcn(num_classes: int, widths: tuple[int, ...] = (64,), dropout: BelowOne[float] = 0.5) -> GNN:
    """Returns graph convolutions with ReLU between them and dropout before each."""
    return GNN(num_classes, tuple(widths), GCNLayer, nn.relu, dropout)


def sage(num_classes: int, widths: tuple[int, ...] = (64,), dropout: BelowOne[float] = 0.5) -> GNN:
    """Returns GraphSAGE with the mean aggregator on all neighbours (none are sampled)."""
    return GNN(num_classes, tuple(widths), SAGELayer, nn.relu, dropout)


def gat(num_classes: int, widths: tuple[int, ...] = (64,), heads: int = 4, dropout: BelowOne[float] = 0.5) -> GNN:
    """Returns graph attention with ELU between; `widths` are of all heads together."""

    def layer(features: int, last: bool = False, **kwargs: Any) -> GATLayer:
        return GATLayer(features, last, heads, **kwargs)

    return GNN(num_classes, tuple(widths), layer, nn.elu, dropout)
