"""Layers of a teacher as the first ones of its student, scanned or not on either side."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.models.adapters import as_model
from kd_jax.models.from_teacher import layers
from kd_jax.models.language.decoder_families import llama

TOKENS = jnp.zeros((1, 2), jnp.int32)


def variables(depth, scan, width=16):
    model = as_model(llama(50, width, depth, 2, scan=scan))
    return model, model.init(jax.random.key(depth), TOKENS)


def kernel(params, i):
    if "layers" in params:
        return params["layers"]["mlp"]["up"]["kernel"][i]
    return params[f"layer{i}"]["mlp"]["up"]["kernel"]


@pytest.mark.parametrize("scanned", [(False, True), (True, False), (True, True)])
def test_scanned_layers_are_copied(scanned, capsys):
    (_, teacher), (student, drawn) = variables(4, scanned[0]), variables(2, scanned[1])
    params, _ = layers(student, jax.random.key(9), teacher)
    assert jax.tree.structure(params) == jax.tree.structure(drawn[0])
    for ours, theirs in ((0, 0), (1, 2)):
        np.testing.assert_array_equal(kernel(params, ours), kernel(teacher[0], theirs))
    assert "of 21 arrays 21 are the teacher's (layers (0, 2)), 0 are projected, 0 are drawn" in capsys.readouterr().out


def test_what_copies_nothing_is_refused_and_what_copies_no_layer_is_said(capsys):
    (_, teacher), (student, _) = variables(4, True), variables(2, True)
    with pytest.raises(ValueError, match="the teacher has no layers called block0, block1, ... or blocks: it has"):
        layers(student, jax.random.key(0), teacher, prefix="block")
    narrow, _ = variables(2, True, width=8)
    layers(narrow, jax.random.key(0), teacher)  # its embeddings are projected
    said = "0 are the teacher's (layers (0, 2)), 2 are projected, 19 are drawn at random"
    assert said in capsys.readouterr().out
