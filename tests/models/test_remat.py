"""Gradient checkpointing: the same gradients and stats, with fewer values kept for the way back."""

import chex
import jax
import jax.numpy as jnp
import pytest

from kd_jax.models.adapters import FunctionModel, LinenModel
from kd_jax.models.remat import Remat
from kd_jax.models.vision import cifar_resnet, vit

KEY = jax.random.key(0)
BLOCKS = "block[0-9]+$"
NETWORKS = {
    "resnet": cifar_resnet.resnet8(4, widths=(4, 8, 8), stem_width=4),
    "vit": vit.vit(4, width=8, heads=2, depth=2, dropout=0.2),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_same_gradients_and_fewer_values_kept(name):
    plain, x = LinenModel(NETWORKS[name]), jax.random.normal(KEY, (4, 16, 16, 3))
    params, stats = plain.init(KEY, x)
    # Of what is computed again, a tap inside and the whole.
    taps = ("stage2",) if name == "resnet" else ("block1/attention/scores", "block0")

    def loss(model, params):
        outputs, new = model.apply(params, stats, x, train=True, key=KEY, taps=taps)
        tapped = sum(jnp.square(f).mean() for f in outputs.features.values())
        return jnp.square(outputs.logits).mean() + tapped, new

    results, saved = {}, {}
    variants = (plain, Remat(plain, BLOCKS, "nothing_saveable"), Remat(plain, "", "dots_saveable"))
    for label, model in zip(("all", "blocks", "dots"), variants, strict=True):
        results[label] = jax.jit(jax.value_and_grad(lambda p, m=model: loss(m, p), has_aux=True))(params)
        back = jax.eval_shape(lambda p, m=model: jax.vjp(lambda p: loss(m, p)[0], p)[1], params)
        saved[label] = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(back))
    for label in ("blocks", "dots"):
        chex.assert_trees_all_close(results[label], results["all"], rtol=1e-5, atol=1e-6)
    assert saved["blocks"] < 0.5 * saved["all"] and saved["dots"] < saved["all"]


def test_what_cannot_be_is_an_error():
    plain, x = LinenModel(NETWORKS["resnet"]), jnp.zeros((1, 8, 8, 3))
    with pytest.raises(ValueError, match="'dots_savable'.*'dots_saveable'"):
        Remat(plain, BLOCKS, "dots_savable")
    with pytest.raises(ValueError, match="no module"):
        params, stats = plain.init(KEY, x)
        Remat(plain, "layer[0-9]$", "nothing_saveable").apply(params, stats, x, train=True, key=KEY)
    with pytest.raises(ValueError, match="names modules of a Linen or NNX network, and this one has none"):
        function = FunctionModel(lambda key, x: {}, lambda params, x: x)
        Remat(function, BLOCKS, "nothing_saveable").apply({}, {}, x, train=True, key=KEY)
