"""A language of a few tokens and networks that read it, small enough to compile in a second."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.data.source import Source, Splits

VOCABULARY, LENGTH = 7, 12


class Bigram(nn.Module):
    """tokens [B, L] -> logits [B, L, V] from each token alone; the tap "hidden" is [B, L, width]."""

    width: int = 4
    num_classes: int = VOCABULARY

    @nn.compact
    def __call__(self, tokens, train: bool):
        x = nn.Embed(self.num_classes, self.width, name="embed")(tokens)
        x = nn.relu(nn.Dense(self.width, name="hidden")(x))
        return nn.Dense(self.num_classes, name="head")(x)


def sequences(n: int, seed: int) -> np.ndarray:
    """int32 [n, LENGTH + 1] of a Markov chain: the next token is 1 or 2 further on, seldom any."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(VOCABULARY, size=(n, LENGTH + 1))
    for i in range(1, LENGTH + 1):
        follows = (rows[:, i - 1] + 1 + (rng.random(n) < 0.3)) % VOCABULARY
        rows[:, i] = np.where(rng.random(n) < 0.9, follows, rows[:, i])
    return rows.astype(np.int32)


def source(n: int = 48, split: str = "train", seed: int = 0, prompt: int = 2, padded: bool = True) -> Source:
    """The first `prompt` targets are not counted; every second row is padded from a third of its length on."""
    rows = sequences(n, seed + len(split))
    tokens, labels = rows[:, :-1].copy(), rows[:, 1:].copy()
    labels[:, :prompt] = -1
    if padded:
        tokens[::2, LENGTH * 2 // 3 :], labels[::2, LENGTH * 2 // 3 :] = 0, -1
    names, segments = tuple("abcdefg"), np.ones_like(tokens)
    if padded:
        segments[::2, LENGTH * 2 // 3 :] = 0
    return Source(
        "letters",
        split,
        VOCABULARY,
        names,
        (),
        (),
        (LENGTH,),
        labels,
        tokens,
        entry="tokens",
        fields={"segments": segments},
        decode=lambda ids: "".join(names[i] for i in ids),
    )


def splits(n: int = 48) -> Splits:
    return Splits(source(n), source(16, "validation"), source(24, "test"))


def batch(n: int = 16, seed: int = 0) -> dict[str, jax.Array]:
    return {name: jnp.asarray(value) for name, value in source(n, seed=seed).batch(n).items()}


def splits_of(config) -> Splits:
    """What data.name="token_toy:splits_of" loads."""
    return splits()
