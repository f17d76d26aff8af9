"""How far a key is from a query, as encoders see it: numbers of buckets, which grow wider with the distance.

Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer" (T5), 2019, arXiv
1910.10683; Song et al., "MPNet", 2020, arXiv 2004.09297, which takes its buckets; He et al., "DeBERTa", 2020, arXiv
2006.03654, and "DeBERTaV3", 2021, arXiv 2111.09543. Computed in float32 as PyTorch does, so that edges fall alike.
"""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from kd_jax.types import Array


@dataclasses.dataclass(frozen=True)
class Buckets:
    """One number a head for each of `count` buckets, half of them for keys behind a query, added to the scores.

    Distances up to a quarter of `count` have their own, further ones share them up to `reach` and beyond.
    """

    count: int = 32
    reach: int = 128

    def numbers(self, length: int) -> Array:
        """Returns the bucket int [length, length] of a query (axis 0) and a key (axis 1)."""
        half, exact = self.count // 2, self.count // 4
        after = -_distances(self.reach)  # of the key from the query
        far = np.abs(after)
        ratio = np.log(np.maximum(far, 1).astype(np.float32) / exact) / np.float32(math.log(self.reach / exact))
        shared = np.minimum(exact + (ratio * (half - exact)).astype(np.int64), half - 1)
        return _looked_up(half * (after > 0) + np.where(far < exact, far, shared), length)


@dataclasses.dataclass(frozen=True)
class Disentangled:
    """The form of DeBERTa's attention: a vector for each distance, compared with what stands at queries and at keys.

    `reach` is the largest distance; `buckets` > 0: further ones than half of them share a vector, else each has its
    own. `kinds`: "c2p" (a query with the distance of a key), "p2c" (a key with the distance of a query). `shared`: the
    maps of queries and keys read the vectors too; `normed`: the vectors are. `convolution` > 0 is the width of one over
    the embeddings, added after the first layer and normed (DeBERTa v2).
    """

    reach: int
    buckets: int = 0
    kinds: tuple[str, ...] = ("c2p", "p2c")
    shared: bool = True
    normed: bool = True
    convolution: int = 0
    convolution_activation: str = "tanh"

    @property
    def span(self) -> int:
        """Returns the number of vectors of each direction."""
        return self.buckets or self.reach

    def numbers(self, length: int) -> Array:
        """Returns which of the 2 span vectors int [length, length] a query (axis 0) and a key (axis 1) have."""
        distance = _distances(self.reach)
        if self.buckets:
            distance = self._shared(distance)
        return _looked_up(np.clip(distance + self.span, 0, 2 * self.span - 1), length)

    def _shared(self, distance: np.ndarray) -> np.ndarray:
        middle = self.buckets // 2
        far = np.abs(distance)
        ratio = np.log(np.maximum(far, 1).astype(np.float32) / middle)
        ratio = ratio / np.log(np.float32((self.reach - 1) / middle))
        logarithmic = np.ceil(ratio * np.float32(middle - 1)).astype(np.int64) + middle
        return np.where(far <= middle, distance, logarithmic * np.sign(distance))


def _distances(reach: int) -> np.ndarray:
    """All that are told apart, the place of the query less that of the key: those beyond `reach` count as that."""
    return np.arange(-reach, reach + 1)


def _looked_up(numbers: np.ndarray, length: int) -> Array:
    """The number of every pair of places, from those of all distances; `length` may be a symbol of an export."""
    places, reach = jnp.arange(length), len(numbers) // 2
    distance = jnp.clip(places[:, None] - places[None], -reach, reach)
    return jnp.asarray(numbers, jnp.int32)[distance + reach]
