"""Generation: greedy against a loop, filters against their definition, mixtures, ends, keys of rows."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_decoders import MASK, MODULES, params_of, table, tokens_of

from kd_jax.models.language import generation
from kd_jax.models.language.beam_search import beam_search
from kd_jax.models.language.decoder import decoding
from kd_jax.models.language.generation import filtered, generate
from kd_jax.models.language.speculative import speculate

KEY = jax.random.key(0)
MODULE = MODULES["llama"]


@pytest.fixture(scope="module")
def params():
    return params_of(MODULE)


def test_greedy_is_the_loop_over_argmax(params):
    prompt = tokens_of(3, 3)
    run = jax.jit(partial(generate, decoding(MODULE), length=5, temperature=0))
    generated = run(params, prompt, MASK, KEY)
    full = jax.jit(lambda tokens, segments: MODULE.apply({"params": params}, tokens, segments))
    tokens, segments = jnp.zeros((3, 8), jnp.int32), jnp.zeros((3, 8), jnp.int32)
    tokens, segments = tokens.at[:, :3].set(prompt), segments.at[:, :3].set(MASK)
    for i in range(3, 8):
        logits = full(tokens, segments)
        tokens, segments = tokens.at[:, i].set(logits[:, i - 1].argmax(-1)), segments.at[:, i].set(1)
    np.testing.assert_array_equal(generated.tokens, tokens[:, 3:])
    assert generated.mask.all()
    both = generation.joined(prompt, MASK, generated)
    np.testing.assert_array_equal(both[0], tokens)
    np.testing.assert_array_equal(both[1], segments)


def test_finished_rows_stay_padded():
    """Tokens 0 -> 1 -> 2 -> 3 -> 0 for sure; 2 ends."""
    logits = jnp.roll(jnp.eye(4) * 50, 1, axis=1)
    prompt = jnp.asarray([[0, 1], [2, 3], [3, 0]])
    run = jax.jit(lambda p, end: generate(table(p), p, prompt, None, KEY, length=4, end=end, pad=9), static_argnums=1)
    ended = run(logits, 2)
    np.testing.assert_array_equal(ended.tokens, [[2, 9, 9, 9], [0, 1, 2, 9], [1, 2, 9, 9]])
    np.testing.assert_array_equal(ended.mask, np.asarray(ended.tokens) != 9)
    np.testing.assert_array_equal(run(logits, None).tokens, [[2, 3, 0, 1], [0, 1, 2, 3], [1, 2, 3, 0]])


def test_any_of_several_tokens_ends_a_text():
    following = jnp.log(jnp.eye(6)[jnp.asarray([1, 2, 3, 4, 5, 5])] + 1e-9)  # each token is followed by the next
    prompt = jnp.asarray([[0], [3]])
    written = generate(table(following), following, prompt, None, KEY, length=4, temperature=0, end=(2, 4), pad=9)
    np.testing.assert_array_equal(written.tokens, [[1, 2, 9, 9], [4, 9, 9, 9]])
    np.testing.assert_array_equal(written.mask, np.asarray(written.tokens) != 9)
    best = beam_search(table(None), following, prompt, None, beams=2, length=4, end=(2, 4), pad=9)
    np.testing.assert_array_equal(best.tokens[:, 0], written.tokens)
    drafts = partial(speculate, table(None), table(None), length=4, proposals=2, temperature=0, end=(2, 4), pad=9)
    np.testing.assert_array_equal(drafts((following, following), prompt, None, KEY).tokens, written.tokens)


def test_a_row_is_sampled_the_same_whatever_the_others_are(params):
    prompt = tokens_of(3, 3)
    run = jax.jit(partial(generate, decoding(MODULE), length=6, temperature=1.5, top_p=0.9))
    three, one = run(params, prompt, MASK, KEY), run(params, prompt[:1], MASK[:1], KEY)
    np.testing.assert_array_equal(three.tokens[:1], one.tokens)
    assert (run(params, prompt, MASK, jax.random.key(1)).tokens != three.tokens).any()
    same = run(params, prompt[jnp.asarray([0, 0])], MASK[jnp.asarray([0, 0])], KEY).tokens
    assert (same[0] != same[1]).any()


def test_filters_keep_exactly_their_tokens():
    p = np.array([0.05, 0.4, 0.1, 0.25, 0.2])
    logits = jnp.log(jnp.asarray([p, p[::-1], [0.2] * 5]))

    def allowed(row=0, **options):
        return set(np.flatnonzero(np.isfinite(np.asarray(filtered(logits, **options))[row])))

    assert allowed() == {0, 1, 2, 3, 4} and allowed(top_k=2) == {1, 3} and allowed(1, top_k=2) == {3, 1}
    assert allowed(top_k=9) == {0, 1, 2, 3, 4} and allowed(2, top_k=2) == {0, 1}, "ties: the lower tokens"
    assert allowed(top_p=0.39) == {1} and allowed(top_p=0.41) == {1, 3} and allowed(top_p=0.66) == {1, 3, 4}
    assert allowed(top_p=1e-6) == {1} and allowed(top_p=0.951) == {0, 1, 2, 3, 4}
    assert allowed(top_k=3, top_p=0.75) == {1, 3}, "0.4 + 0.25 of 0.85"
    assert allowed(top_k=3, top_p=0.77) == {1, 3, 4}
    assert allowed(top_p=0.45, temperature=0.5) == {1}, "0.16 of 0.275"
    np.testing.assert_allclose(filtered(logits, 2.0), logits / 2, rtol=1e-6)
    for bad in ({"temperature": 0.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}):
        with pytest.raises(ValueError, match="must be above 0"):
            filtered(logits, **bad)


def test_samples_have_the_distribution_of_the_filtered_logits():
    from scipy import stats

    logits = jnp.log(jnp.asarray([[0.05, 0.4, 0.1, 0.25, 0.2]]).repeat(5, 0))
    prompt = jnp.zeros((4000, 1), jnp.int32)
    run = jax.jit(lambda p: generate(table(p), p, prompt, None, KEY, length=1, top_k=4, temperature=0.7))
    counts = np.bincount(np.asarray(run(logits).tokens)[:, 0], minlength=5)
    expected = np.asarray(jax.nn.softmax(filtered(logits[0], 0.7, 4)), np.float64)
    expected /= expected.sum()
    assert counts[0] == 0 and stats.chisquare(counts[1:], 4000 * expected[1:]).pvalue > 1e-3


def test_mixtures_with_a_teacher(params):
    other = params_of(MODULE, seed=5)
    network, prompt = decoding(MODULE), tokens_of(3, 3)

    @partial(jax.jit, static_argnums=0)
    def logits(alpha):
        both = generation.mixed(network, network, alpha)
        return both.step((params, other), prompt, both.start((params, other), 3, 4), MASK, True)[0]

    student, teacher = jnp.exp(logits(0.0)), jnp.exp(logits(1.0))
    np.testing.assert_allclose(jnp.exp(logits(0.2)), 0.2 * teacher + 0.8 * student, rtol=1e-4)
    assert (jnp.abs(student - teacher).max((1, 2)) > 0.1).all()
    run = jax.jit(
        lambda alpha: generate(
            generation.mixed(network, network, alpha), (params, other), prompt, MASK, KEY, length=4, temperature=0
        ),
        static_argnums=0,
    )
    greedy = jax.jit(partial(generate, network, length=4, temperature=0))
    np.testing.assert_array_equal(run(1.0).tokens, greedy(other, prompt, MASK, KEY).tokens)
    np.testing.assert_array_equal(run(0.0).tokens, greedy(params, prompt, MASK, KEY).tokens)


def test_left_padding():
    tokens, mask = jnp.asarray([[5, 6, 0, 0], [0, 7, 0, 8]]), jnp.asarray([[1, 1, 0, 0], [0, 1, 0, 1]], bool)
    tokens, mask = generation.left_padded(tokens, mask)
    np.testing.assert_array_equal(jnp.where(mask, tokens, -1), [[-1, -1, 5, 6], [-1, -1, 7, 8]])
