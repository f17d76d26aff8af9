"""Layers on a graph against dense matrices, the nodes of a batch, taps, dropout."""

import jax
import numpy as np
import pytest

from kd_jax.models.adapters import LinenModel, tap_shapes
from kd_jax.models.graph import gnn

N, D = 5, 3
RNG = np.random.default_rng(0)
JOINED = np.eye(N) + np.array([[0, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 0, 0, 1, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]])
S = JOINED / np.sqrt(JOINED.sum(1)[:, None] * JOINED.sum(1))
RECEIVERS, SENDERS = (i.astype(np.int32) for i in np.nonzero(JOINED))
GRAPH = {
    "features": RNG.normal(size=(N, D)).astype(np.float32),
    "senders": SENDERS,
    "receivers": RECEIVERS,
    "weights": S[RECEIVERS, SENDERS].astype(np.float32),
}
NODE = np.array([4, 0, 0, 2], np.int32)
KEY = jax.random.key(0)
X = GRAPH["features"].astype(float)


def numbers(tree):
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, [RNG.normal(size=leaf.shape).astype(np.float32) for leaf in leaves])


def applied(layer):
    params = numbers(jax.eval_shape(layer.init, KEY, GRAPH["features"], GRAPH)["params"])
    return params, jax.jit(layer.apply)({"params": params}, GRAPH["features"], GRAPH)


def close(logits, expected):
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_gcn_layer():
    params, logits = applied(gnn.GCNLayer(2))
    close(logits, S @ X @ params["kernel"]["kernel"] + params["bias"])


def test_sage_layer():
    params, logits = applied(gnn.SAGELayer(2))
    mean = JOINED / JOINED.sum(1, keepdims=True)
    itself, neighbours = params["own"], params["neighbours"]["kernel"]
    close(logits, X @ itself["kernel"] + itself["bias"] + mean @ X @ neighbours)


@pytest.mark.parametrize("last", [False, True])
def test_gat_layer(last):
    params, logits = applied(gnn.GATLayer(4, last, heads=2))
    heads = 1 if last else 2
    x = (X @ params["kernel"]["kernel"]).reshape(N, heads, -1)
    to, of = ((x * params[name]).sum(-1) for name in ("receiver", "sender"))
    score = to[:, None] + of[None]
    score = np.where(score > 0, score, 0.2 * score)
    share = np.exp(score) * JOINED[..., None]
    share /= share.sum(1, keepdims=True)
    close(logits, np.einsum("ijh,jhd->ihd", share, x).reshape(N, 4) + params["bias"])


@pytest.mark.parametrize("make", [gnn.gcn, gnn.sage, gnn.gat])
def test_networks(make):
    model = LinenModel(make(2, widths=(4, 8), dropout=0.5))
    shapes = {name: value.shape for name, value in tap_shapes(model, GRAPH, NODE).items()}
    wanted = {"layer1": (N, 4), "layer2": (N, 8), "embedding": (4, 8), "head": (N, 2)}
    assert wanted.items() <= shapes.items()
    params, stats = model.init(KEY, GRAPH, NODE)
    params = numbers(params)
    apply = jax.jit(
        lambda key, node, train: model.apply(params, stats, GRAPH, node, train=train, key=key, taps=("head",))[0],
        static_argnums=2,
    )
    outputs = apply(KEY, NODE, False)
    close(outputs.logits, np.asarray(outputs.features["head"])[NODE])
    again = apply(jax.random.key(1), NODE, False)
    np.testing.assert_array_equal(again.logits, outputs.logits)
    trained = apply(KEY, NODE, True).logits
    assert (trained != outputs.logits).any() and (trained[1] == trained[2]).all()  # one node, one mask


def test_no_head_of_half_a_number():
    with pytest.raises(ValueError, match="width 6 is not divisible by 4 heads"):
        LinenModel(gnn.gat(2, widths=(6,))).init(KEY, GRAPH, NODE)
