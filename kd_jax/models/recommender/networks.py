"""Networks that score all items for a user: output [batch, items]."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from kd_jax.ranges import BelowOne, Count, Positive
from kd_jax.types import Array


class Factorization(nn.Module):
    users: int
    num_classes: int
    width: int

    @nn.compact
    def __call__(self, user: Array) -> Array:
        small = nn.initializers.normal(0.1)
        rows = nn.Embed(self.users, self.width, embedding_init=small, name="user")(user)
        return nn.Dense(self.num_classes, kernel_init=small, name="item")(rows)


def factorization(num_classes: int, users: Count[int], width: Count[int] = 8, source: Any = None) -> Factorization:
    """Returns matrix factorisation of the numbers of users [batch]: s = user . item + bias of the item.

    ValueError where `source` has a user of a number that is not below `users`. Koren, Bell, Volinsky, "Matrix
    Factorization Techniques for Recommender Systems", Computer 2009.
    """
    numbers = getattr(source, "fields", {}).get("user")
    if numbers is not None and len(numbers) and numbers.max() >= users:
        raise ValueError(f"users={users}, and {source.name} has user {numbers.max()}: it needs {numbers.max() + 1}.")
    return Factorization(users, num_classes, width)


class TwoTowers(nn.Module):
    num_classes: int
    hidden: int
    width: int
    dropout: float

    @nn.compact
    def __call__(self, history: Array, train: bool) -> Array:
        x = history / jnp.maximum(jnp.linalg.norm(history, axis=-1, keepdims=True), 1.0)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = nn.tanh(nn.Dense(self.hidden, name="history")(x))
        return nn.Dense(self.num_classes, name="item")(nn.Dense(self.width, name="user")(x))


def two_towers(
    num_classes: int, hidden: Count[int] = 128, width: Count[int] = 64, dropout: BelowOne[float] = 0.5
) -> TwoTowers:
    """Returns a network of what users took before, 0 or 1 [batch, items]: s = tower(history) . item + bias of the item.

    The tower divides by the norm, drops inputs, and has one hidden layer, as the encoder of Liang, Krishnan, Hoffman,
    Jebara, "Variational Autoencoders for Collaborative Filtering", 2018, arXiv 1802.05814, without its sampling.
    """
    return TwoTowers(num_classes, hidden, width, dropout)


def ease(num_classes: int) -> nn.Dense:
    """Returns the linear network history @ B that `ease_start` fits; as the start of a student it can be trained on."""
    return nn.Dense(num_classes, use_bias=False, kernel_init=nn.initializers.zeros)


def ease_start(model: Any, key: Array, source: Any, ridge: Positive[float] = 250.0) -> tuple[dict, dict]:
    """Returns the variables of `ease`: argmin_B |X - X B|^2 + ridge |B|^2 with diagonal 0, X the histories of `source`.

    B = I - P / diag(P), P = (X' X + ridge I)^-1. For the `initial` of a teacher with train.steps=0. Steck,
    "Embarrassingly Shallow Autoencoders for Sparse Data" (EASE), 2019, arXiv 1905.03375.
    """
    del model, key
    rows = np.asarray(source.in_memory()[0], np.float64)
    inverse = np.linalg.inv(rows.T @ rows + ridge * np.eye(rows.shape[1]))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return {"kernel": weights.astype(np.float32)}, {}


def candidates(batch: dict[str, Array], train: bool) -> dict[str, Array]:
    """Returns {"unseen": bool [batch, items]}, the items that may be ranked: for config.prepare."""
    del train
    return {"unseen": batch["label"] == 0}
