"""Ranking losses of recommenders that read all scores of the student and of the teacher: [batch, items] each.

`where` is bool [batch, items], the items that may be recommended: those that a user took before are in no list.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kd_jax.losses._numerics import require_same_shape, to_float
from kd_jax.losses.ranking import position_weights, ranking_distillation_loss, relaxed_ranking_loss
from kd_jax.ranges import Count, Positive

Array = jax.Array


def _lists(what: str, student: Array, teacher: Array, where: Array, number: int) -> tuple[Array, Array, Array]:
    """Returns (all scores of the student, those of the teacher's best in its order, the numbers of these)."""
    s, t = to_float(student, teacher)
    require_same_shape(what, s, t)
    if s.ndim != 2 or jnp.shape(where) != s.shape:
        raise ValueError(f"{what}: expected scores [batch, items] and where of them, got {s.shape}, {jnp.shape(where)}")
    if number > s.shape[1]:
        raise ValueError(f"{what}: number={number} items of {s.shape[1]}")
    ids = jax.lax.top_k(jax.lax.stop_gradient(jnp.where(where, t, -jnp.inf)), number)[1]
    return s, jnp.take_along_axis(s, ids, axis=1), ids


def top_items_loss(
    student: Array, teacher: Array, *, where: Array, number: Count[int] = 10, sharpness: Positive[float] = 10.0
) -> Array:
    """Computes ranking_distillation_loss of the teacher's `number` best items with `position_weights`.

    Scores [batch, items]; returns [batch]. Tang, Wang, "Ranking Distillation" (RD), 2018, arXiv 1809.07428, without its
    weights by discrepancy, which need items drawn at random.
    """
    _, best, ids = _lists("top_items_loss", student, teacher, where, number)
    weights = position_weights(number, sharpness=sharpness)
    return ranking_distillation_loss(best, weights, where=jnp.take_along_axis(where, ids, axis=1))


def relaxed_items_loss(student: Array, teacher: Array, *, where: Array, number: Count[int] = 10) -> Array:
    """Computes relaxed_ranking_loss of the teacher's `number` best items against all others that may be recommended.

    Scores [batch, items]; returns [batch]. Kang, Hwang, Kweon, Yu (DE-RRD), 2020, arXiv 2012.04357. The authors draw
    the interesting items by their places and the others uniformly; here nothing is drawn.
    """
    s, best, ids = _lists("relaxed_items_loss", student, teacher, where, number)
    others = jnp.put_along_axis(jnp.asarray(where), ids, False, axis=1, inplace=False)
    rest = jnp.where(others, s, -jnp.inf)
    return relaxed_ranking_loss(best, rest, where=jnp.take_along_axis(where, ids, axis=1))
