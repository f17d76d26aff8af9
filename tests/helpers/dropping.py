"""Networks that tell training by a word of their own, and pictures for them: tests/mistakes/test_ignored.py."""

import flax.linen as nn
import numpy as np
from flax import nnx
from mistakes import CLASSES, FEATURES

import kd_jax


class Dropping(nn.Module):
    """Its call is told that it trains by a word of its own."""

    @nn.compact
    def __call__(self, x, learning=False):
        x = nn.Dropout(0.5, deterministic=not learning)(nn.relu(nn.Dense(8)(x)))
        return nn.Dense(CLASSES)(x)


class Stored(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(CLASSES)(nn.BatchNorm(use_running_average=True)(nn.Dense(8)(x)))


class NnxDropping(nnx.Module):
    def __init__(self, rngs):
        self.first, self.head = nnx.Linear(FEATURES, 8, rngs=rngs), nnx.Linear(8, CLASSES, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x, learning=False):
        return self.head(self.dropout(self.first(x), deterministic=not learning))


def images(n=64):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (n, 8, 8, 1)).astype(np.uint8), np.arange(n) % CLASSES
    return kd_jax.from_arrays(train=(x, y), test=(x, y))
