"""Networks that answer at every pixel: shapes, taps, numbers of parameters, pictures that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.models.adapters import as_model
from kd_jax.models.vision.unet import unet
from kd_jax.models.vision.vit_decoder import vit_decoder

CASES = {  # network, taps with their shapes
    "unet": (
        lambda: unet(3, (4, 6, 8)),
        {"down1": (2, 16, 8, 4), "down2": (2, 8, 4, 6), "bottom": (2, 4, 2, 8), "up2": (2, 8, 4, 6)}
        | {"up1": (2, 16, 8, 4), "head": (2, 16, 8, 3)},
    ),
    "progressive": (
        lambda: vit_decoder(3, 8, 8, 2, 2, decoder_width=6),
        {"stem": (2, 2, 8), "block1": (2, 2, 8), "encoder": (2, 2, 1, 8), "up3": (2, 4, 2, 6), "up2": (2, 8, 4, 6)}
        | {"up1": (2, 16, 8, 6), "head": (2, 16, 8, 3)},
    ),
    "linear": (
        lambda: vit_decoder(3, 4, 8, 1, 2, decoder="linear"),
        {"encoder": (2, 4, 2, 8), "head": (2, 4, 2, 3)},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_logits_are_as_large_as_the_picture_and_levels_can_be_read(name):
    model, taps = as_model(CASES[name][0]()), CASES[name][1]
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 8, 1)), jnp.float32)
    params, stats = model.init(jax.random.key(0), x)
    outputs, _ = model.apply(params, stats, x, train=False, key=jax.random.key(1), taps=("*",))
    assert outputs.logits.shape == (2, 16, 8, 3) and outputs.logits.dtype == jnp.float32
    assert {tap: outputs.features[tap].shape for tap in taps} == taps
    assert np.isfinite(outputs.logits).all()


def test_parameters_of_a_unet_by_hand():
    params, _ = as_model(unet(3, (4, 6))).init(jax.random.key(0), jnp.zeros((1, 4, 4, 2)))
    level = lambda into, out: 9 * into * out + 9 * out * out + 4 * out  # noqa: E731
    assert sum(x.size for x in jax.tree.leaves(params)) == level(2, 4) + level(4, 6) + level(4 + 6, 4) + 4 * 3 + 3


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: unet(3, (4, 4, 4)), "sides that 4 divides"),
        (lambda: unet(3, (4,)), "two levels or more"),
        (lambda: vit_decoder(3, 4, 8, 1, 2), "must be a multiple of patch=4"),
        (lambda: vit_decoder(3, 6, 8, 1, 2), "patch=6 is no power of 2"),
        (lambda: vit_decoder(3, decoder="pup"), "decoder='pup'"),
    ],
)
def test_pictures_and_options_that_do_not_fit(make, says):
    with pytest.raises(ValueError, match=says):
        as_model(make()).init(jax.random.key(0), jnp.zeros((1, 6, 8, 1)))
