"""Losses from hidden states against the logits of the networks: a soft cap, a scale, a bias, and none."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.core.heads import tail_of
from kd_jax.core.shapes import init_shapes
from kd_jax.losses import response
from kd_jax.losses.vocabulary import fused_kd_loss
from kd_jax.models.adapters import as_model
from kd_jax.models.language.decoder_families import gemma2, llama

TOKENS = jax.random.randint(jax.random.key(0), (2, 6), 0, 40)


class Headed(nn.Module):
    scale: float = 1.0
    jitted: bool = False

    @nn.compact
    def __call__(self, tokens):
        x = nn.LayerNorm(name="final")(nn.Embed(40, 8)(tokens))
        head = nn.Dense(40, name="head")
        return (nn.jit(lambda module, x: module(x))(head, x) if self.jitted else head(x)) * self.scale


def tail(network):
    model = as_model(network)
    return tail_of(model, init_shapes(model, (TOKENS,)), (TOKENS,), "final")


@pytest.mark.parametrize("scan", [False, True])
def test_the_soft_cap_of_gemma_is_read(scan):
    assert tail(gemma2(40, 8, 2, 2, scan=scan)).softcap == 30.0
    assert tail(llama(40, 8, 2, 2, scan=scan)) == (("dot_general",), None)


def test_other_operations_are_seen():
    assert "mul" in tail(Headed(scale=0.1)).operations
    assert {*tail(Headed(jitted=True)).operations} >= {"dot_general", "add"}


def test_fused_is_unfused_on_a_capped_head():
    networks = [as_model(gemma2(40, width, 1, 2, logit_softcap=cap)) for width, cap in ((8, 2.0), (12, 3.0))]
    variables = [model.init(jax.random.key(i), TOKENS) for i, model in enumerate(networks)]
    for params, _ in variables:
        params["embed"]["embedding"] = 50 * params["embed"]["embedding"]  # far into the cap
    outputs = [
        model.apply(*v, TOKENS, train=False, key=jax.random.key(0), taps=("final",))[0]
        for model, v in zip(networks, variables, strict=True)
    ]
    sides = [x for out, v in zip(outputs, variables, strict=True) for x in (out.features["final"], v[0]["embed"])]
    plain = response.kd_loss(*(out.logits for out in outputs), temperature=1.0)
    fused = fused_kd_loss(*sides, temperature=1.0, student_softcap=2.0, teacher_softcap=3.0)
    np.testing.assert_allclose(fused, plain, rtol=2e-5)
    assert not np.allclose(fused_kd_loss(*sides, temperature=1.0), plain, rtol=0.1)
    assert jnp.isfinite(plain).all()
