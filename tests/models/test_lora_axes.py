"""Adapters of linear layers with several axes: Flax's own attention, Linen and NNX, stacked by a scan too."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kd_jax.models import lora as lora_module
from kd_jax.models.adapters import LinenModel, NNXModel
from kd_jax.models.lora import lora

KEY, WIDTH = jax.random.key(0), 8


class Attends(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        return x + nn.MultiHeadDotProductAttention(2, name="attention")(x, x), None


class Linen(nn.Module):
    scan: bool = False

    @nn.compact
    def __call__(self, x):
        if not self.scan:
            return nn.Dense(3, name="head")(Attends(name="block")(x)[0])
        layers = nn.scan(Attends, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return nn.Dense(3, name="head")(layers(name="block")(x, None)[0])


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.attention = nnx.MultiHeadAttention(2, WIDTH, decode=False, rngs=rngs)
        self.head = nnx.Linear(WIDTH, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(x + self.attention(x))


def networks():
    return {"linen": LinenModel(Linen()), "scan": LinenModel(Linen(scan=True)), "nnx": NNXModel(Nnx)}


@pytest.mark.parametrize("name", ["linen", "scan", "nnx"])
def test_adapters_of_attention_are_the_merged_network(name):
    base, x = networks()[name], jax.random.normal(KEY, (2, 5, WIDTH))
    params, stats = base.init(KEY, x)
    model = lora(base, rank=2, targets=r"(query|out|head)$")
    adapters, _ = model.init(KEY, x, params)
    shapes = {"/".join(map(str, p)): v.shape for p, v in lora_module.traverse_util.flatten_dict(adapters).items()}
    stack = (3,) if name == "scan" else ()
    query, out = (next(path for path in shapes if f"{part}/a" in path) for part in ("query", "out"))
    assert shapes[query] == shapes[out] == (*stack, WIDTH, 2) and len(shapes) == 6
    again = model.adapters(KEY, params)  # as models.lora.from_teacher starts them
    jax.tree.map(np.testing.assert_array_equal, adapters, again)

    adapters = jax.tree.map(lambda v: v + 0.1 * jax.random.normal(KEY, v.shape), adapters)

    def answer(adapters):
        return model.apply(adapters, stats, x, params, train=True, key=KEY)[0].logits

    before = base.apply(params, stats, x, train=False, key=KEY)[0].logits
    merged = base.apply(model.merged(adapters, params), stats, x, train=False, key=KEY)[0].logits
    assert jnp.abs(merged - before).max() > 0.1
    np.testing.assert_allclose(answer(adapters), merged, atol=1e-5 * jnp.abs(merged).max())
    gradient = jax.grad(lambda a: (answer(a) ** 2).mean())(adapters)
    assert all(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


class Batched(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.DenseGeneral(3, axis=-1, batch_dims=(0,), name="each")(x)


def test_a_matrix_for_each_place_of_a_batch_is_refused():
    x = jnp.ones((2, 4))
    model = lora(Batched(), targets="each")
    params, _ = model.network.init(KEY, x)
    adapters, _ = model.init(KEY, x, params)
    with pytest.raises(ValueError, match="batch_dims has a matrix for each of their places"):
        model.apply(adapters, {}, x, params, train=True, key=KEY)
