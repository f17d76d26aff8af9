"""A soft decision tree: inner nodes send an example to both sides with probabilities, leaves have answers."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.ranges import Count, Positive
from kd_jax.types import Array


class SoftTree(nn.Module):
    num_classes: int
    depth: int
    sharpness: float
    regress: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = x.reshape(x.shape[0], -1)
        inner = 2**self.depth - 1
        turns = self.sharpness * nn.Dense(inner, name="turns")(x)
        paths = Paths(self.depth, name="paths")(turns)
        leaves = self.param("leaves", nn.initializers.normal(0.1), (2**self.depth, self.num_classes))
        if self.regress:
            return paths @ leaves
        # log of the mixture of the leaves' distributions, where a path may have the probability 0.
        log_paths = jnp.log(jnp.maximum(paths, 1e-30))
        return jax.nn.logsumexp(log_paths[:, :, None] + jax.nn.log_softmax(leaves)[None], axis=1)


class Paths(nn.Module):
    """The probability of each leaf, [batch, leaves], from the turns [batch, inner nodes], the root first."""

    depth: int

    def __call__(self, turns: Array) -> Array:
        right = jax.nn.sigmoid(turns)
        reached = jnp.ones((turns.shape[0], 1), turns.dtype)
        for level in range(self.depth):
            p = right[:, 2**level - 1 : 2 ** (level + 1) - 1]
            reached = jnp.stack([reached * (1 - p), reached * p], axis=-1).reshape(turns.shape[0], -1)
        return reached


def soft_tree(
    num_classes: int, depth: Count[int] = 4, sharpness: Positive[float] = 1.0, regress: bool = False
) -> SoftTree:
    """Returns a tree of 2^depth leaves; each inner node turns right with sigmoid(sharpness * (w x + b)).

    Its answer is the logarithm of sum over leaves P(leaf | x) softmax(leaf), [batch, classes], or with `regress` the
    sum of P(leaf | x) leaf. Taps: "turns", "paths" [batch, leaves]. Frosst, Hinton, "Distilling a Neural Network Into a
    Soft Decision Tree", 2017, arXiv 1711.09784. Deviations: the cross-entropy is that of the mixture, which is never
    above their mean of the leaves' own, and there is no penalty for unbalanced turns.
    """
    return SoftTree(num_classes, depth, sharpness, regress)


def likeliest_leaf(params: Any, x: Array, depth: int, sharpness: float = 1.0) -> Array:
    """Returns the number of the leaf that each row of x [n, d] most probably reaches, int32 [n]: its explanation."""
    turns = sharpness * (x.reshape(len(x), -1) @ params["turns"]["kernel"] + params["turns"]["bias"][None])
    paths: Any = Paths(depth).apply({}, turns)
    return paths.argmax(-1)
