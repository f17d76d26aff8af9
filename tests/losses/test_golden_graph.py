"""Local structure of a graph against a loop in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.losses.graph import KERNELS, local_structure_loss

RNG = np.random.default_rng(0)
S, T = RNG.normal(size=(5, 3)).astype(np.float32), RNG.normal(size=(5, 2)).astype(np.float32)
EDGES = {"receivers": np.array([2, 0, 0, 1, 2, 0, 3]), "senders": np.array([1, 1, 2, 0, 0, 0, 3])}  # 4 is lonely
LOSS = jax.jit(local_structure_loss, static_argnames="kernel")


def kernel(name, x, y, scale):
    squared = ((x - y) ** 2).sum()
    return {"rbf": np.exp(-squared / scale), "euclidean": squared / scale, "linear": x @ y / scale}[name]


def reference(name, s, t, scale):
    values = []
    for i in range(len(s)):
        others = EDGES["senders"][EDGES["receivers"] == i]
        scores = [
            np.array([kernel(name, x[i].astype(float), x[j].astype(float), scale) for j in others]) for x in (s, t)
        ]
        q, p = (np.exp(z) / np.exp(z).sum() for z in scores)
        values.append((p * np.log(p / q)).sum())
    return values


@pytest.mark.parametrize("name", KERNELS)
def test_shares_of_the_neighbours(name):
    values = LOSS(S, T, **EDGES, scale=2.0, kernel=name)
    np.testing.assert_allclose(values, reference(name, S, T, 2.0), rtol=1e-4, atol=1e-6)
    assert values[4] == 0 and values[3] == pytest.approx(0, abs=1e-6)  # nobody, and only itself
    order = np.random.default_rng(1).permutation(7)
    moved = LOSS(S, T, **{k: v[order] for k, v in EDGES.items()}, scale=2.0, kernel=name)
    np.testing.assert_allclose(moved, values, rtol=1e-4, atol=1e-6)
    assert not np.any(np.abs(LOSS(S, S, **EDGES, scale=2.0, kernel=name)) > 1e-6)


@pytest.mark.parametrize("name", KERNELS)
def test_gradients_are_finite_where_nodes_are_dead_or_large(name):
    gradient = jax.jit(jax.grad(lambda s, t: local_structure_loss(s, t, **EDGES, kernel=name).sum(), argnums=(0, 1)))
    for change in (lambda x: x, np.zeros_like, lambda x: 1e3 * x, lambda x: np.broadcast_to(x[:1], x.shape)):
        for g in gradient(change(S), T):
            assert np.isfinite(g).all()
    half = jax.eval_shape(functools.partial(local_structure_loss, **EDGES, kernel=name), *map(jnp.bfloat16, (S, T)))
    assert half.dtype == jnp.float32 and half.shape == (5,)


def test_what_does_not_fit():
    with pytest.raises(ValueError, match=r"\(5, 3\) and teacher \(4, 2\)"):
        local_structure_loss(S, T[:4], **EDGES)
    with pytest.raises(ValueError, match="rbf, euclidean, linear, not 'poly'"):
        local_structure_loss(S, T, **EDGES, kernel="poly")
    with pytest.raises(ValueError, match=r"\[edges\], got \(7,\) and \(6,\)"):
        local_structure_loss(S, T, senders=EDGES["senders"], receivers=EDGES["receivers"][:6])
