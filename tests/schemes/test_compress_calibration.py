"""What scores units in a chain: real training examples, the labels' loss even where the terms are distillation's."""

import jax
import jax.numpy as jnp
import numpy as np
import text_parts
import toy

from kd_jax.compress.plan import network_of
from kd_jax.compress.transformers import prune
from kd_jax.compress.unit_scores import scores
from kd_jax.schemes.compress_calibration import Batches, calibrated, labels_loss
from kd_jax.types import Outputs


def test_a_decoder_is_scored_on_training_texts_by_the_loss_of_their_tokens():
    parts, _ = text_parts.parts()
    assert "kd" in parts.terms  # whose gradient is 0 where the network is still its teacher
    model = parts.roles["teacher"].model
    with jax.set_mesh(toy.mesh(2)):
        batches = Batches(parts, text_parts.INPUTS, jax.sharding.get_mesh())
        walked = list(batches)
        assert len(walked) == 1 and len(list(batches)) == 1  # walked again from the first
        (tokens, segments), batch = walked[0]
        assert tokens.shape == segments.shape and tokens.shape[0] == 64
        assert int(batch["mask"].sum()) == len(parts.sources["train"])
        params = jax.jit(model.init)(text_parts.KEY, tokens)[0]
        step = prune(network_of(model, (tokens, segments)), heads=1, score="taylor")
        ours = calibrated(parts, text_parts.INPUTS, step.scorer, params, {})
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(ours)) and ours["heads"].min() > 0
    one = jax.tree.map(np.asarray, walked)

    def cross_entropy(outputs, batch):
        logits = jax.nn.log_softmax(outputs.logits)
        counted = batch["label"] >= 0
        chosen = jnp.take_along_axis(logits, jnp.maximum(batch["label"], 0)[..., None], -1)[..., 0]
        return -jnp.where(counted, chosen, 0).sum() / counted.sum()

    by_hand = scores(model, "taylor", jax.tree.map(np.asarray, params), {}, one, cross_entropy)
    for unit, values in by_hand.items():
        np.testing.assert_allclose(ours[unit], values, rtol=1e-3, atol=1e-9)
    logits = jax.random.normal(text_parts.KEY, (*tokens.shape, 7))
    whole = labels_loss(parts)(Outputs(logits), one[0][1])
    assert np.isfinite(whole)
