"""EASE against its definition; the losses that read all items; the networks' shapes."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.losses import ranking, recommender
from kd_jax.models.adapters import LinenModel
from kd_jax.models.recommender import networks


def test_ease_is_the_best_weights_without_a_diagonal():
    rows = (np.random.default_rng(0).random((40, 6)) < 0.4).astype(np.float32)
    source = SimpleNamespace(in_memory=lambda: (rows, None))
    params, stats = networks.ease_start(None, jax.random.key(0), source=source, ridge=3.0)
    weights = params["kernel"].astype(np.float64)
    assert stats == {} and np.all(np.diag(weights) == 0)
    gram = rows.T.astype(np.float64) @ rows
    for item in range(6):  # ridge regression of each item on the others
        others = [i for i in range(6) if i != item]
        best = np.linalg.solve(gram[np.ix_(others, others)] + 3.0 * np.eye(5), gram[others, item])
        np.testing.assert_allclose(weights[others, item], best, rtol=1e-4, atol=1e-6)
    model = LinenModel(networks.ease(6))
    fresh, _ = model.init(jax.random.key(0), rows)
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(np.shape, params)
    outputs, _ = model.apply(params, {}, rows, train=False, key=jax.random.key(0))
    np.testing.assert_allclose(outputs.logits, rows @ params["kernel"], rtol=1e-5, atol=1e-6)


def test_the_teachers_best_are_taken_among_those_not_seen():
    rng = np.random.default_rng(1)
    s, t = (jnp.asarray(rng.normal(size=(2, 6)), jnp.float32) for _ in range(2))
    where = np.array([[1, 1, 0, 1, 1, 1], [1, 0, 0, 0, 0, 1]], bool)
    lists = [[i for i in np.argsort(-t[row]) if where[row, i]][:3] for row in range(2)]
    weights = np.exp(-np.arange(1, 4) / 2.0) / np.exp(-np.arange(1, 4) / 2.0).sum()
    top = recommender.top_items_loss(s, t, where=where, number=3, sharpness=2.0)
    relaxed = recommender.relaxed_items_loss(s, t, where=where, number=3)
    for row, best in enumerate(lists):
        mine = np.asarray(s[row])[best]
        np.testing.assert_allclose(top[row], np.sum(weights[: len(best)] * np.log1p(np.exp(-mine))), rtol=1e-5)
        rest = [i for i in range(6) if where[row, i] and i not in best]
        expected = ranking.relaxed_ranking_loss(
            mine[None], np.asarray(s[row])[rest][None] if rest else np.full((1, 1), -np.inf)
        )
        np.testing.assert_allclose(relaxed[row], expected[0], rtol=1e-5)
    gradient = jax.grad(lambda s: recommender.relaxed_items_loss(s, t, where=where, number=3).sum())(s)
    assert np.all(np.isfinite(gradient)) and np.all(np.asarray(gradient)[~where] == 0)
    with pytest.raises(ValueError, match="number=7 items of 6"):
        recommender.top_items_loss(s, t, where=where, number=7)
    with pytest.raises(ValueError, match=r"where of them, got \(2, 6\), \(2,\)"):
        recommender.top_items_loss(s, t, where=where[:, 0], number=2)


def test_shapes():
    factors = LinenModel(networks.factorization(7, users=5, width=3))
    users = jnp.arange(4)
    params, _ = factors.init(jax.random.key(0), users)
    assert sum(x.size for x in jax.tree.leaves(params)) == 5 * 3 + 3 * 7 + 7
    towers = LinenModel(networks.two_towers(7, hidden=4, width=2))
    params, _ = towers.init(jax.random.key(0), jnp.zeros((2, 7)))
    outputs, _ = towers.apply(params, {}, jnp.zeros((2, 7)), train=True, key=jax.random.key(0))
    assert outputs.logits.shape == (2, 7) and np.all(np.isfinite(outputs.logits))
