"""Bits per byte: against a sum by hand, and the same for two tokenizers that say the same of a text."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.core.evaluate import evaluate
from kd_jax.tasks import bits, tokens
from kd_jax.types import Outputs

LABELS = np.array([[1, 2, 0, -1], [2, 3, 3, 0]])
BYTES = np.array([[3, 0, -1, -1], [1, 1, 2, -1]])  # 0 ends a text; 2 is the second half of a character


def scored(labels, spelled, logits, mask=None):
    mask = np.ones(len(labels), bool) if mask is None else mask
    batch = {k: jnp.asarray(v) for k, v in dict(label=labels, label_bytes=spelled, mask=mask).items()}
    task = tokens.task(headline="bits_per_byte")

    def step(state, batch, key):
        return {"student": (task.sums(lambda: Outputs(jnp.asarray(logits)), batch, None, key), {})}

    return evaluate(step, task, None, [batch], jax.random.key(0))["student"]


def test_bits_of_the_tokens_that_spell_something_over_all_bytes():
    logits = np.random.default_rng(0).normal(size=(2, 4, 4)).astype(np.float32)
    logs = np.asarray(jax.nn.log_softmax(logits))
    rows = [[(0, 1), (1, 2)], [(0, 2), (1, 3), (2, 3)]]
    sums = [-sum(logs[i, j, label] for j, label in row) / math.log(2) for i, row in enumerate(rows)]
    got = scored(LABELS, BYTES, logits)
    value = sum(sums) / 7
    assert got["bits_per_byte"] == pytest.approx(value, rel=1e-5)
    spread = (sums[0] - value * 3) ** 2 + (sums[1] - value * 4) ** 2
    assert got["bits_error"] == pytest.approx(math.sqrt(spread) / 7, rel=1e-4)
    one = scored(LABELS, BYTES, logits, np.array([True, False]))
    assert one["bits_per_byte"] == pytest.approx(sums[0] / 3, rel=1e-5)


def test_a_text_in_other_tokens_of_the_same_probability_costs_the_same():
    """Four bytes in two tokens of probability 1/4, and in four of 1/2."""
    two, four = np.log([[[0.25, 0.25, 0.25, 0.25]] * 2]), np.log([[[0.5, 0.5]] * 4])
    ones = np.ones((1, 4), int)
    costs = [scored(ones[:, :2], ones[:, :2] * 2, two), scored(ones, ones, four)]
    assert [cost["bits_per_byte"] for cost in costs] == pytest.approx([1.0, 1.0])


def test_what_spells_nothing_is_not_measured():
    got = scored(LABELS, np.full_like(BYTES, -1), np.zeros((2, 4, 4), np.float32))
    assert got["bits_per_byte"] is None and got["bits_error"] is None and got["nll"] is not None
    with pytest.raises(ValueError, match="headline='bits'. There is: bits_per_byte, nll"):
        tokens.task(headline="bits")
    assert bits.ENTRY == "label_bytes"
