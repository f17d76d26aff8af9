"""Which units of a transformer stay: those of the highest scores, heads together with their KV groups.

Ainslie et al., "GQA", 2023, arXiv 2305.13245: heads of a group share keys and values.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from kd_jax.compress.transformer_units import Sizes
from kd_jax.types import Array


def staying(now: Sizes, left: Sizes, scores: Mapping[str, Array]) -> dict[str, Array]:
    """Returns the numbers of the units that stay, ascending, of a network of sizes `now` that becomes `left`.

    `scores` holds, of the units of which some go, how much they matter: "layers" [layers], "width" [width], "heads"
    [layers, heads], "hidden" [layers, hidden]; others may be missing. The result has "layers" [n], "width" [n], and
    "heads", "kv_heads", "hidden" [layers of now, n].
    """
    result = {}
    for name in ("layers", "width"):
        count, there = getattr(left, name), getattr(now, name)
        result[name] = highest(scores[name], count) if count < there else jnp.arange(there)
    everything = jnp.broadcast_to(jnp.arange(now.hidden), (now.layers, now.hidden))
    shrinks = left.hidden < now.hidden
    result["hidden"] = jax.vmap(lambda s: highest(s, left.hidden))(scores["hidden"]) if shrinks else everything
    if left.heads < now.heads:
        groups, heads = jax.vmap(lambda s: grouped(s, now, left))(scores["heads"])
    else:
        heads, groups = (jnp.broadcast_to(jnp.arange(n), (now.layers, n)) for n in (now.heads, now.kv_heads))
    return {**result, "heads": heads, "kv_heads": groups}


def highest(scores: Array, count: int) -> Array:
    """Returns the numbers of the `count` highest of scores [n], ascending; of equal ones the first."""
    return jnp.sort(jnp.argsort(-scores, stable=True)[:count])


def grouped(scores: Array, now: Sizes, left: Sizes) -> tuple[Array, Array]:
    """Returns the numbers of (the KV groups, the heads) of a layer that stay, by the scores [heads] of its heads.

    Groups stay whose best heads, as many as a group keeps, have the highest sum; in each the best heads stay.
    """
    size, fewer = now.heads // now.kv_heads, left.heads // left.kv_heads
    by_group = scores.reshape(now.kv_heads, size)
    inside = jax.vmap(lambda s: highest(s, fewer))(by_group)
    worth = jnp.take_along_axis(by_group, inside, axis=1).sum(1)
    groups = highest(worth, left.kv_heads)
    return groups, (groups[:, None] * size + inside[groups]).reshape(-1)
